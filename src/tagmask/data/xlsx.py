"""The rows of a spreadsheet file (.xlsx), as text."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tagmask.data.csv_rows import not_opened
from tagmask.errors import ResourceError, TableError, TagmaskError

__all__ = ["read_sheet"]

_MAX_BYTES = 128 * 2**20
"""Most that a file may unpack to: ten thousand long sentences are some 3 MB."""
_MAX_ROWS, _MAX_COLUMNS = 200_000, 64


def read_sheet(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Read some columns of the first sheet of a workbook. Formulas give their last value, and nothing is run.

    Parameters
    ----------
    path
        The file.
    needed
        Columns that must be there, in any order and case; others are passed by. The first row with content
        names them.

    Returns
    -------
    list of tuple of int and dict
        The row's number as a spreadsheet counts it, and its fields by the names in `needed`, without spaces
        around them. Rows without content are left out.

    Raises
    ------
    InputError
        There is no such file.
    TableError
        It is none that can be read, or a column is missing or there twice.
    ResourceError
        It would unpack to more than is allowed.
    """
    _check_size(path)
    try:
        rows = list(_rows(path))
    except TagmaskError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise _unreadable(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from None
    if not rows:
        raise TableError(
            "The first sheet is empty.", where=path, repair=f"Give it the columns {_list(needed)}."
        )
    header = [cell.casefold() for cell in rows[0][1]]
    places = {}
    for name in needed:
        if header.count(name.casefold()) != 1:
            many = "two columns" if name.casefold() in header else "no column"
            shown = ", ".join(cell[:40] for cell in rows[0][1] if cell) or "empty"
            raise TableError(
                f"The first sheet has {many} {name!r}; its first row is: {shown}.",
                where=path,
                repair=f"Name the columns in the first row: {_list(needed)}.",
            )
        places[name] = header.index(name.casefold())
    return [(number, {name: cells[i] for name, i in places.items()}) for number, cells in rows[1:]]


def _check_size(path: Path) -> None:
    """Refuse what is no zip file, and one whose content is too large, before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except OSError as error:
        raise not_opened(path, error) from None
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _unreadable(path, str(error).rstrip(".")) from None
    if size > _MAX_BYTES:
        raise ResourceError(
            f"The table unpacks to {size:,} bytes, more than the {_MAX_BYTES:,} that are allowed.",
            where=path,
            repair="Save it again with the columns that are needed, and no pictures.",
        )


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    from openpyxl import load_workbook

    # Opened here, for openpyxl leaves a file open that it cannot read.
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and extensions that do not matter here
        book = load_workbook(file, read_only=True, data_only=True, keep_links=False)
        cells = book.worksheets[0].iter_rows(max_row=_MAX_ROWS + 1, max_col=_MAX_COLUMNS, values_only=True)
        for number, row in enumerate(cells, 1):
            if number > _MAX_ROWS:
                raise ResourceError(
                    f"The first sheet has more than the {_MAX_ROWS:,} rows that are allowed.",
                    where=path,
                    repair="Delete what stands below the table.",
                )
            fields = ["" if value is None else str(value).strip() for value in row]
            if any(fields):
                yield number, fields


def _unreadable(path: Path, why: str) -> TableError:
    return TableError(
        f"This cannot be read as a spreadsheet ({why}).",
        where=path,
        repair="Open it and save it as .xlsx, without a password.",
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
