"""One command at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tagmask.errors import RunError

__all__ = ["alone_in"]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other commands that ask the same out of a folder; it is made if it is not there, and goes if left empty.

    The lock, FOLDER/.lock, is the operating system's: it ends with the process, however that ends.

    Raises
    ------
    RunError
        Another process is in there.
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            "is in use by another process.",
            where=folder,
            repair="Wait for it, or give another folder.",
        ) from error
    try:
        yield
    finally:
        lock.release()
        if made and [path.name for path in folder.iterdir()] == [".lock"]:
            (folder / ".lock").unlink()
            folder.rmdir()
