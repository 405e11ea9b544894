"""Whose an output folder is: one command at a time works in it, and none in a folder of other things."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tagmask.errors import InputError, RunError

__all__ = ["alone_in", "refuse_foreign"]

_LOCK = ".lock"


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
    lock = FileLock(folder / _LOCK, timeout=0)
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
        with suppress(OSError):  # where an open file cannot be removed, releasing it does
            (folder / _LOCK).unlink(missing_ok=True)
        lock.release()
        if made and not any(folder.iterdir()):
            folder.rmdir()


def refuse_foreign(folder: Path, mark: str, *, leftovers: Collection[str] = ()) -> None:
    """Refuse an output folder that holds other things: files of somebody's would be replaced, or removed later.

    Parameters
    ----------
    mark
        The file by which such a folder is known. It need not be there in an empty folder.
    leftovers
        Names that a command which came to nothing may have left.

    Raises
    ------
    InputError
        The folder is a file, or holds anything and not the mark. Hidden files do not count: a command that was
        killed may leave one, and file managers do.
    """
    if not folder.exists() or (folder / mark).is_file():
        return
    if not folder.is_dir():
        raise InputError("The output is a file.", where=folder, repair="Give a folder.")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    others = [name for name in names if name not in leftovers]
    if others:
        listed = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise InputError(
            f"The output folder holds other things ({listed}) and no {mark}.",
            where=folder,
            repair="Give a new or an empty folder.",
        )
