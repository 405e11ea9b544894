"""The rows of a CSV file as spreadsheets and people write it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from tagmask.errors import InputError, TableError

__all__ = ["not_opened", "read_rows"]


def read_rows(path: Path, needed: Sequence[str] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Read a table with a header, field by field as text without spaces around it.

    Comma, semicolon or tab separate, as the header does; a byte order mark and any line ends are accepted;
    rows without content are left out.

    Parameters
    ----------
    path
        The file, in UTF-8.
    needed
        Columns that must be there.

    Yields
    ------
    tuple of int and dict
        The row's number as a spreadsheet counts it (the header is row 1), and its fields by column.

    Raises
    ------
    InputError
        There is no such file.
    TableError
        It is none, or is empty, or a row does not fit the header.
    """
    rows = _rows(_text(path), path)
    _, header = next(rows, (0, []))
    _check_header(header, needed, path)
    empty = True
    for number, fields in rows:
        if len(fields) != len(header):
            raise TableError(
                f"The row has {len(fields)} fields, but the header has {len(header)}.",
                where=f"{path}, row {number}",
                repair='Put a field that holds the separator in quotes: "a, b".',
            )
        yield number, dict(zip(header, fields, strict=True))
        empty = False
    if empty:
        raise TableError("The table has no rows.", where=path, repair="Add one row for each slice or image.")


def not_opened(path: Path, error: OSError) -> InputError:
    """Make the error of a table that is not there or cannot be read."""
    if isinstance(error, FileNotFoundError):
        return InputError("There is no such table.", where=path, repair="Check the path.")
    return InputError(f"The table cannot be read ({error.strerror}).", where=path, repair="Check it.")


def _text(path: Path) -> str:
    """Give the text of a table, or say what the file is instead."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise not_opened(path, error) from None
    if data.startswith(b"PK\x03\x04"):
        raise TableError("This is a spreadsheet or zip file.", where=path, repair="Save it as CSV (UTF-8).")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TableError(
            f"This is no UTF-8 text (byte {error.start}).", where=path, repair="Save it as CSV (UTF-8)."
        ) from None
    if "\0" in text:
        raise TableError("This is no text: it holds zero bytes.", where=path, repair="Give a CSV file.")
    return text


def _rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    # The header decides: in a row a ";" may join channels.
    header = text.lstrip().partition("\n")[0]
    separator = next((s for s in ",;\t" if s in header), ",")
    # Strict: a quote that is never closed would swallow all rows after it without a word.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    number = 0
    try:
        for number, fields in enumerate(reader, 1):
            if any(field.strip() for field in fields):
                yield number, [field.strip() for field in fields]
    except csv.Error as error:
        raise TableError(
            f"The row cannot be read: {error}.",
            where=f"{path}, row {number + 1}",
            repair="Check its quotes, or save the table again as CSV.",
        ) from None


def _check_header(header: Sequence[str], needed: Sequence[str], path: Path) -> None:
    if not header:
        raise TableError(
            "The table is empty.", where=path, repair="Give a CSV with the columns id, image, label."
        )
    for column in header:
        if column and header.count(column) > 1:
            raise TableError(f"Two columns are called {column!r}.", where=path, repair="Rename one.")
    for column in needed:
        if column not in header:
            shown = ", ".join(name[:40] for name in header[:20])
            raise TableError(
                f"The table has no column {column!r}; its first row is: {shown}.",
                where=path,
                repair="Name the columns in the first row: id, image, label.",
            )
