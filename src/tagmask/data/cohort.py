"""What must hold between cases before anything is learnt from them: splits by patient, tags of both kinds."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tagmask.data.table import SPLITS, Case, alike
from tagmask.errors import ConfigError, TableError

__all__ = [
    "Problem",
    "check_both_tags",
    "check_splits",
    "check_tags",
    "doubts",
    "picture_ranges",
    "random_splits",
]


@dataclass(frozen=True)
class Problem:
    """What is wrong with a case, or doubtful about it or the whole table.

    Parameters
    ----------
    level
        "failed": the case is left out; "warning": it is not.
    case
        Name of the image; empty for the whole table.
    file, what, repair
        Where, what, and what to do about it.
    """

    level: str
    case: str
    file: str
    what: str
    repair: str = ""

    def __str__(self) -> str:
        parts = (self.case, self.file, f"{self.what} {self.repair}".strip())
        return f"{self.level}: {': '.join(part for part in parts if part)}"


def random_splits(
    cases: Sequence[Case], *, val: float = 0.15, test: float = 0.2, seed: int = 0
) -> list[Case]:
    """Draw train, val and test by patient.

    Every patient has a rank of its own in a shuffle keyed by the seed, so that the order of the table does
    not matter. From three patients on, each split that is wanted gets at least one; fewer all go to train.

    Parameters
    ----------
    val, test
        Shares of the patients, at least 0 and below 1 together.

    Raises
    ------
    ConfigError
        Shares out of range.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ConfigError(
            f"val_fraction = {val} and test_fraction = {test} are not allowed.",
            repair="Use shares from 0 on that leave some patients for train, as 0.15 and 0.2.",
        )

    def rank(patient: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{patient}".encode(errors="backslashreplace")).digest()

    patients = sorted({_patient(case) for case in cases}, key=rank)
    names: list[str] = []
    if (n := len(patients)) >= 3:
        tests, vals = (max(1, round(share * n)) if share else 0 for share in (test, val))
        tests = min(tests, n - 1 - bool(vals))
        names = ["test"] * tests + ["val"] * min(vals, n - 1 - tests)
    drawn = dict(zip(patients, names + ["train"] * (len(patients) - len(names)), strict=True))
    return [replace(case, split=drawn[_patient(case)]) for case in cases]


def check_splits(cases: Sequence[Case]) -> None:
    """Refuse splits of unknown name, rows without one, and a patient in two of them.

    Raises
    ------
    TableError
        The message names the rows.
    """
    seen: dict[str, Case] = {}
    for case in cases:
        if case.split not in SPLITS:
            what = "has no split, but others do" if case.split is None else f"is in the split {case.split!r}"
            raise TableError(
                f"The row {what}.",
                where=case.where,
                repair=f"Use {', '.join(SPLITS)} for all rows, or for none.",
            )
        first = seen.setdefault(_patient(case), case)
        if first.split != case.split:
            raise TableError(
                f"The patient {case.patient!r} is in {case.split}, and in {first.split} ({first.where}): "
                "what is learnt from a patient would be tested on the same one.",
                where=case.where,
                repair="Put all rows of a patient into one split.",
            )


def check_tags(cases: Sequence[Case], tag: str, *, masks: bool = False) -> None:
    """Refuse slices without a tag in train and val, and a train split that has one tag only.

    Parameters
    ----------
    tag
        The column of the tag.
    masks
        Whether there are masks to learn from. Then tags may be missing, and every slice may show the target;
        but not none.

    Raises
    ------
    TableError
        The message names the rows.
    """
    if masks:
        labels = [case.label for case in cases if case.split == "train"]
        return check_both_tags(labels if set(labels) == {0} else [], cases[0].source)
    untagged = [case for case in cases if case.label is None and case.split in ("train", "val")]
    if untagged:
        more = f" It is so with {len(untagged):,} rows of train and val." if len(untagged) > 1 else ""
        raise TableError(
            f"The row has no tag (column {tag}).{more}",
            where=untagged[0].where,
            repair="Tag it 0 or 1; rows of test alone may go without. With --untagged, all may.",
        )
    check_both_tags((case.label for case in cases if case.split == "train"), cases[0].source)


def check_both_tags(labels: Iterable[int | None], where: object) -> None:
    """Refuse train tags that are all the same. No tag at all passes: then there is no train split.

    Raises
    ------
    TableError
        With the number of slices and their tag.
    """
    found = Counter(labels)
    if len(found) == 1:
        ((label, count),) = found.items()
        raise TableError(
            f"All {count:,} rows of train have the tag {label}: there is nothing to learn.",
            where=where,
            repair="Add slices of the other tag, or learn from masks (--supervised) or pictures alone (--untagged).",
        )


def doubts(cases: Sequence[Case], *, drawn: bool, tags: bool = True) -> list[Problem]:
    """List what may be meant, but makes results worth less.

    Parameters
    ----------
    drawn
        Whether the splits were drawn, and not given.
    tags
        Whether they are what is learnt from.
    """
    found = []
    source = str(cases[0].source)

    def doubt(what: str, repair: str) -> None:
        found.append(Problem("warning", "", source, what, repair))

    if len({_patient(case) for case in cases}) == 1:
        doubt(
            f"All rows are of one patient ({cases[0].patient}).",
            "Add patients: nothing can be said of others from one.",
        )
    elif drawn and all(case.patient == case.study and not case.named for case in cases):
        doubt(
            "No patients are named, so each image counts as one, and two images of a person may have come "
            "into different splits.",
            "Add the column patient, unless there is one image for each person.",
        )
    home = cases[0].source.parent.name
    if drawn and home in SPLITS and any(case.split != "train" for case in cases):
        doubt(
            f"The table lies in a folder {home!r}, but val and test were drawn from it too.",
            "Give the folder above it, or --val-fraction 0 --test-fraction 0 to learn from all its rows.",
        )
    for split in SPLITS:
        labels = {case.label for case in cases if case.split == split}
        if not labels:
            doubt(f"The split {split} is empty.", "Give rows to it, if it is needed.")
        elif tags and split != "train" and len(labels) == 1:
            tag = labels.pop()
            what = "has no tags" if tag is None else f"has only the tag {tag}"
            doubt(f"The split {split} {what}.", "Tag both kinds to learn more from it.")
    return found


def picture_ranges(cases: Iterable[Case]) -> dict[str, tuple[int, int]]:
    """Give the first and last slice number of each patient: between them, a picture has its position."""
    ranges: dict[str, tuple[int, int]] = {}
    for case in cases:
        if case.slice is not None:
            low, high = ranges.get(case.patient, (case.slice, case.slice))
            ranges[case.patient] = min(low, case.slice), max(high, case.slice)
    return ranges


def _patient(case: Case) -> str:
    """Two spellings of a patient that look alike are taken for one: rather refused than leaked."""
    return alike(case.patient)
