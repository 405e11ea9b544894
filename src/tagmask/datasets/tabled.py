"""Data sets that come with a table of tags for each split: <split>/labels.csv, <split>/images, masks/<split>."""

from __future__ import annotations

from pathlib import Path

from tagmask.data.csv_rows import read_rows
from tagmask.errors import InputError
from tagmask.io import stem

__all__ = ["find_tabled"]


def find_tabled(folder: Path, begins: str) -> bool:
    """Tell whether a folder holds such a data set, by how the names of its images begin."""
    table = folder / "train" / "labels.csv"
    try:
        _, fields = next(iter(read_rows(table, ("image", "label"))))
    except InputError:
        return False
    return stem(fields["image"]).startswith(begins)
