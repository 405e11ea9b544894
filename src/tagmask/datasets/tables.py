"""The rows of a data set as tables, in the layout that every command reads: <split>/labels.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Sequence

from tagmask.data.table import SPLITS, Case
from tagmask.errors import InputError

__all__ = ["check_paths", "labels_csv"]

_COLUMNS = ("id", "image", "label", "slice", "patient", "split", "mask")
_TEXT = "text"


def check_paths(cases: Sequence[Case]) -> None:
    """Refuse paths that a table cannot hold.

    Raises
    ------
    InputError
        A semicolon, which separates channels.
    """
    for case in cases:
        if ";" in str(case.images[0].absolute()):
            raise InputError("The path has a semicolon.", where=case.images[0], repair="Rename the folder.")


def labels_csv(cases: Sequence[Case], ids: Collection[str]) -> dict[str, str]:
    """Write those of the cases whose ids are given as one table a split.

    Returns
    -------
    dict
        "<split>/labels.csv" -> its content. Images and masks are named by their full paths; there is a column of
        texts where some case has one.
    """
    tables = {}
    texts = any(case.text for case in cases)
    for split in SPLITS:
        rows = [
            (*_row(case), *([case.text] if texts else []))
            for case in cases
            if case.split == split and case.id in ids
        ]
        if rows:
            text = io.StringIO()
            columns = (*_COLUMNS, *([_TEXT] if texts else []))
            csv.writer(text, lineterminator="\n").writerows([columns, *rows])
            tables[f"{split}/labels.csv"] = text.getvalue()
    return tables


def _row(case: Case) -> tuple[object, ...]:
    images = ";".join(str(path.absolute()) for path in case.images)
    mask = "" if case.mask is None else str(case.mask.absolute())
    return (case.id, images, case.label, case.slice, case.patient, case.split, mask)
