"""Which patient is in which split: the papers' rules, and files. Neither depends on the order on the disk.

anofpdm     Che et al. 2024, as published in code: patients by name, shuffled with Python's generator at
            seed 10; int(.75 n) train, int(.05 n) val, the rest test
cdm-brats   Hu et al. 2023: 9 to 1. The paper trains on nine parts and tests on the challenge's own
            validation set, whose segmentations were never published: here the tenth part is the test
cdm-chaos   Hu et al. 2023: four folds by volume. Of the volumes by name, the i-th is in fold i mod 4
drawn       as for tables without splits
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tagmask.data.cohort import Problem
from tagmask.data.csv_rows import read_rows
from tagmask.data.table import SPLITS, Case
from tagmask.errors import ConfigError, TableError

__all__ = ["FOLDS", "RULES", "by_file", "by_rule"]

RULES = ("anofpdm", "cdm-brats", "cdm-chaos", "drawn")
FOLDS = 4


def by_rule(rule: str, patients: Sequence[str], fold: int = 1) -> dict[str, str]:
    """Give each patient's split by one of the papers' rules.

    Parameters
    ----------
    rule
        Of RULES, but "drawn".
    patients
        All patients of the data set, in any order.
    fold
        1..4, of "cdm-chaos": the volumes of this fold are the test, the others train.

    Raises
    ------
    ConfigError
        Fewer patients than folds.

    Examples
    --------
    >>> by_rule("cdm-chaos", ["a", "b", "c", "d"], fold=2)
    {'a': 'train', 'b': 'test', 'c': 'train', 'd': 'train'}
    """
    names, n = sorted(set(patients)), len(set(patients))
    if rule == "cdm-chaos":
        if n < FOLDS:
            raise ConfigError(
                f"{n} volumes cannot be split into {FOLDS} folds.", where="splits", repair='Use "drawn".'
            )
        return {name: "test" if i % FOLDS == fold - 1 else "train" for i, name in enumerate(names)}
    seed, shares = {"anofpdm": (10, (0.75, 0.05)), "cdm-brats": (0, (0.9, 0.0))}[rule]
    random.Random(seed).shuffle(names)
    train, val = (int(n * share) for share in shares)
    return dict(zip(names, ["train"] * train + ["val"] * val + ["test"] * (n - train - val), strict=True))


def by_file(path: Path, cases: Sequence[Case]) -> tuple[list[Case], list[Problem]]:
    """Split cases by a CSV file with the columns patient and split.

    A patient's split may be empty: then it is left out. In the column patient, names of cases will do too.

    Returns
    -------
    tuple of list
        The cases that stay, with their split; warnings of names that are in the file alone.

    Raises
    ------
    InputError, TableError
        No such file; a name twice, an unknown split, or a case that the file does not know.
    """
    splits: dict[str, str] = {}
    for number, fields in read_rows(path, ("patient", "split")):
        name, split, where = fields["patient"], fields["split"], f"{path}, row {number}"
        if split not in ("", *SPLITS):
            repair = f"Use {', '.join(SPLITS)}, or leave it empty to leave the patient out."
            raise TableError(f"The split is {split!r}.", where=where, repair=repair)
        if splits.setdefault(name, split) != split:
            raise TableError(
                f"{name!r} is in two splits.", where=where, repair="Put a patient into one split."
            )
    kept = []
    for case in cases:
        key = next((name for name in (case.patient, case.study) if name in splits), None)
        if key is None:
            unknown = sum(c.patient not in splits and c.study not in splits for c in cases)
            raise TableError(
                f"The patient {case.patient!r} is not in it, and {unknown} cases in all are not.",
                where=path,
                repair="Add them, with an empty split to leave them out.",
            )
        if splits[key]:
            kept.append(replace(case, split=splits[key]))
    known = {name for case in cases for name in (case.patient, case.study)}
    strange = sorted(splits.keys() - known)
    if not strange:
        return kept, []
    names = ", ".join(strange[:3]) + (", ..." if len(strange) > 3 else "")
    what = f"{len(strange)} patients of the file are not among the cases: {names}."
    return kept, [Problem("warning", "", str(path), what, "Check the folder.")]
