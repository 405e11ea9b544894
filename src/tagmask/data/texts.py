"""What is doubtful about the texts of a cohort, before anything is learnt with them."""

from __future__ import annotations

from collections.abc import Sequence

from tagmask.data.cohort import Problem
from tagmask.data.csv_rows import read_rows
from tagmask.data.table import SPLITS, Case

__all__ = ["text_doubts"]


def text_doubts(cases: Sequence[Case]) -> list[Problem]:
    """List what may be meant, but makes texts worth less: none, none in one split, the same one throughout.

    Parameters
    ----------
    cases
        Rows with their split, of one table or several.
    """
    source = cases[0].source
    texts = {case.text for case in cases if case.text}
    found = []

    def doubt(what: str, repair: str) -> None:
        found.append(Problem("warning", "", str(source), what, repair))

    if not texts and _have_column(cases):
        doubt("The column text is empty in all rows.", "Fill it in, or leave it out.")
    if len(texts) == 1 and len({case.study for case in cases}) > 1:
        (text,) = texts
        doubt(
            f"All pictures that have a text have the same ({text[:60]!r}).",
            "Check the column text: what is said of all says nothing of any.",
        )
    for split in SPLITS:
        rows = [case for case in cases if case.split == split]
        if texts and rows and not any(case.text for case in rows):
            doubt(f"The split {split} has no texts, but others have.", "Add them, or do without in all.")
    return found


def _have_column(cases: Sequence[Case]) -> bool:
    tables = {case.source for case in cases if case.row}
    return any("text" in next(iter(read_rows(table)))[1] for table in tables)
