"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tagmask.errors import DISK_FULL, InputError, ResourceError, TagmaskError

__all__ = ["atomic_write", "temporaries", "write_bytes", "write_csv", "write_json", "write_text"]

_REFUSED = {
    errno.EACCES: "may not be written",
    errno.EPERM: "may not be written",
    errno.EROFS: "lies on a read-only disk",
    errno.ENAMETOOLONG: "has too long a name",
    errno.EISDIR: "is a folder",
    errno.ENOTDIR: "lies below something that is not a folder",
    errno.EEXIST: "lies below something that is not a folder",
    errno.ELOOP: "is a symbolic link that leads to itself",
}
_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp(\.[^.]{1,15})?", re.DOTALL)
"""What `atomic_write` calls a file that is not whole yet."""


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`; what is written there appears at `path` when the block ends well.

    The temporary file is flushed to the disk before it is renamed, and removed when the block raises. The
    folder is made where it is missing. The suffix is kept, so that libraries that look at it do what they
    should.

    Parameters
    ----------
    path
        Where the file is to appear. A file that is there already is replaced in one step; a symbolic link is
        replaced, not followed.

    Yields
    ------
    Path
        A file that exists, is empty, and is hidden from :func:`tagmask.io.case_files`.

    Raises
    ------
    ResourceError
        The disk is full.
    InputError
        The place cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with atomic_write(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    target = Path(path)
    # The name is independent of the target's, which may already be as long as the disk allows.
    temporary = target.parent / f".{secrets.token_hex(8)}.tmp{target.suffix[:16]}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    except OSError as error:
        raise _explained(error, target) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporaries(folder: Path) -> list[Path]:
    """List what `atomic_write` left in a folder where the process was killed; nothing where there is no folder."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if _TEMPORARY.fullmatch(path.name) and path.is_file())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all; of a file name that is not UTF-8 the odd bytes are escaped."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: object, *, ascii: bool = True) -> None:
    """Write a record, whole or not at all; what JSON does not know, such as a path, becomes text.

    Parameters
    ----------
    ascii
        Escape all other letters.
    """
    write_text(path, json.dumps(content, indent=1, default=str, ensure_ascii=ascii) + "\n")


def write_csv(
    path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]], *, line_end: str = "\r\n"
) -> None:
    """Write a table with a header, whole or not at all; cells that a line lacks are empty. Text as in `write_text`."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator=line_end)
        writer.writeheader()
        writer.writerows(lines)


def _flush(path: Path) -> None:
    """Make the disk hold what the system holds of a file or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(error: OSError, target: Path) -> TagmaskError | OSError:
    """Turn what the system says into what a person can do; leave what is none of our business."""
    if error.errno in DISK_FULL:
        return ResourceError(
            f"The disk is full ({error.strerror}).",
            where=target,
            repair="Free space there, or write elsewhere.",
        )
    if error.errno in _REFUSED:
        return InputError(
            f"The output {_REFUSED[error.errno]} ({error.strerror}).",
            where=target,
            repair="Choose another output.",
        )
    return error
