"""From the evaluations of a row's cells to its numbers: mean and spread, interval, paired test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from tagmask.benchmarking.protocol import Protocol
from tagmask.metrics import dice
from tagmask.scoring.aggregate import mean_interval, of_patients, summarise
from tagmask.scoring.results import TOLD, may_have_read_masks
from tagmask.scoring.scoreboard import combine
from tagmask.scoring.slice_records import SliceRecord, read_slices

__all__ = [
    "Number",
    "PairedTest",
    "Repeat",
    "RowNumbers",
    "merged",
    "of_repeats",
    "paired_tests",
    "read_row",
    "rows_of",
]

_NAN = float("nan")


class Repeat(NamedTuple):
    """One fold, one draw of the training pictures and one seed: the folder of its evaluation for each setup."""

    fold: str
    evaluations: Mapping[str, Path]


class Number(NamedTuple):
    """A cell of the table.

    Parameters
    ----------
    mean, sd
        Over repeats; sd (n - 1) is NaN for one repeat.
    low, high
        95 % bootstrap interval over patients, of their means over repeats; NaN where there is none.
    repeats
        Repeats in which the number is defined.
    """

    mean: float
    sd: float
    low: float
    high: float
    repeats: int


class PairedTest(NamedTuple):
    """Wilcoxon's signed-rank test of the patients' Dice against the best row.

    Parameters
    ----------
    against
        Title of the best row.
    p
        Two-sided, not corrected for the number of rows; NaN where there is nothing to compare.
    patients
        Patients that both rows have.
    """

    against: str
    p: float
    patients: int


UNTESTED = PairedTest("", _NAN, 0)
"""Of a row that is not to be compared yet."""


@dataclass(frozen=True)
class RowNumbers:
    """The numbers of one row on one data set.

    Parameters
    ----------
    title, reads
        As evaluated.
    numbers
        (setup, metric) -> number.
    dice
        Setup -> mean Dice, whether it is a column of the table or not.
    patients
        Setup -> patient -> mean Dice over the patient's slices and repeats, or over repeats of the Dice of its
        pixels together.
    told
        Setups in which the row was handed the tags of the slices.
    trivial
        It knows next to nothing.
    complete
        It has all of its repeats.
    """

    title: str
    reads: str
    numbers: Mapping[tuple[str, str], Number]
    dice: Mapping[str, float]
    patients: Mapping[str, Mapping[str, float]]
    told: frozenset[str] = frozenset()
    trivial: bool = False
    complete: bool = True


def rows_of(evaluation: Path) -> list[str]:
    """Keys of the rows of an evaluation, the method's first."""
    lines = combine([evaluation / "summary.json"])
    return list(dict.fromkeys(str(line["row"]) for line in lines if line["subset"] != "image_level"))


def read_row(repeats: Sequence[Repeat], row: str, protocol: Protocol, *, complete: bool = True) -> RowNumbers:
    """Gather one row over its repeats.

    Parameters
    ----------
    repeats
        At least one.
    row
        "method", or the key of a trivial row.
    complete
        Whether these are all of its repeats.
    """
    numbers: dict[tuple[str, str], Number] = {}
    overlap: dict[str, float] = {}
    patients: dict[str, dict[str, float]] = {}
    title, reads, told = "", dict[str, None](), set[str]()
    for setup in protocol.setups:
        folds: dict[str, list[Path]] = {}
        for repeat in repeats:
            folds.setdefault(repeat.fold, []).append(repeat.evaluations[setup])
        found = [_by_metric(evaluations, row, setup) for evaluations in folds.values()]
        records = [_records(repeat.evaluations[setup], row, setup, repeat.fold) for repeat in repeats]
        together, values = [r for some in records for r in some], of_repeats(records)
        intervals = summarise(together, resamples=protocol.resamples)
        for metric in protocol.metrics:
            per = protocol.per(metric)
            low, high = intervals[per][metric]["low"], intervals[per][metric]["high"]
            if per == "patient":
                of_all = np.array(list(values[metric].values()))
                _, low, high = mean_interval(of_all, resamples=protocol.resamples)
            mean, sd, count = merged([lines[per, metric] for lines in found])
            numbers[setup, metric] = Number(mean, sd, low, high, count)
        overlap[setup] = merged([lines[protocol.per("dice"), "dice"] for lines in found])[0]
        patients[setup] = values["dice"] if protocol.averaging == "patient" else _patients(together)
        first = next(iter(found[0].values()))
        title = str(first["title"])
        reads[str(first["reads"])] = None
        if TOLD in str(first["reads"]):
            told.add(setup)
    return RowNumbers(
        title, "; ".join(reads), numbers, overlap, patients, frozenset(told), row != "method", complete
    )


def _by_metric(evaluations: Sequence[Path], row: str, setup: str) -> dict[tuple[str, str], dict[str, object]]:
    """Mean and sd over the draws and seeds of one fold, by (per, metric)."""
    lines = combine([evaluation / "summary.json" for evaluation in evaluations])
    return {(str(n["per"]), str(n["metric"])): n for n in lines if (n["row"], n["subset"]) == (row, setup)}


def merged(folds: Sequence[Mapping[str, object]]) -> tuple[float, float, int]:
    """Mean, sd and number of all repeats, from what `combine` says of each fold."""
    known = [f for f in folds if f["runs"]]
    count = np.array([int(str(f["runs"])) for f in known])
    mean = np.array([float(str(f["mean"])) for f in known])
    sd = np.nan_to_num(np.array([float(str(f["sd"])) for f in known]))
    total = int(count.sum())
    if not total:
        return _NAN, _NAN, 0
    middle = float((count * mean).sum() / total)
    squares = float(((count - 1) * sd**2 + count * (mean - middle) ** 2).sum())
    return middle, math.sqrt(squares / (total - 1)) if total > 1 else _NAN, total


def _records(evaluation: Path, row: str, setup: str, fold: str) -> list[SliceRecord]:
    """Slices of a row and setup as they were evaluated; a patient belongs to its fold, and is one in all draws."""
    return [
        replace(record, patient=f"{fold}/{record.patient}")
        for record in read_slices(evaluation, row)
        if setup == "mixed" or record.positive
    ]


def of_repeats(repeats: Sequence[Sequence[SliceRecord]]) -> dict[str, dict[str, float]]:
    """Give metric -> patient -> mean over repeats of the patient's number in each, where it is defined.

    Parameters
    ----------
    repeats
        Slices of each. Pixels are pooled within a patient and repeat, never over repeats: what a mean over repeats
        says, an interval and a test must say of the same numbers.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for records in repeats:
        for metric, numbers in of_patients(records).items():
            of_metric = found.setdefault(metric, {})
            for patient, number in numbers.items():
                of_metric.setdefault(patient, []).append(number)
    return {
        metric: {patient: _mean(numbers) for patient, numbers in some.items()}
        for metric, some in found.items()
    }


def _mean(numbers: Sequence[float]) -> float:
    defined = [number for number in numbers if math.isfinite(number)]
    return sum(defined) / len(defined) if defined else _NAN


def _patients(records: Sequence[SliceRecord]) -> dict[str, float]:
    """Dice of each patient: the mean of its slices, as many as it has in all repeats."""
    groups: dict[str, list[float]] = {}
    table = np.array([record.counts for record in records], dtype=np.float64).reshape(-1, 4)
    for record, value in zip(records, dice(*table.T[:3]).tolist(), strict=True):
        groups.setdefault(record.patient, []).append(value)
    return {patient: _mean(values) for patient, values in groups.items()}


def paired_tests(rows: Sequence[RowNumbers], setup: str) -> list[PairedTest | None]:
    """Compare each row with the best: the highest mean Dice of the rows that read no mask, if a method is among them.

    Where every method reads masks, the best is one of the methods, and no row that knows next to nothing. Where slices
    without target count ("mixed"), a row that is told the tags has those for nothing: rows are compared with the best
    of their kind, if a method is of it. Rows of which repeats are missing are not tested, and none of them is the best.

    Returns
    -------
    list
        One for each row; None for the best rows themselves.
    """
    found: list[PairedTest | None] = []
    for row in rows:
        kind = [other for other in rows if setup != "mixed" or (setup in other.told) == (setup in row.told)]
        best = _best(kind, setup)
        if best is None or not row.complete:
            found.append(UNTESTED)
        else:
            found.append(None if row is best else _wilcoxon(row, best, setup))
    return found


def _best(rows: Sequence[RowNumbers], setup: str) -> RowNumbers | None:
    methods = [row for row in rows if not row.trivial]
    if not methods:
        return None
    blind = [row for row in rows if not may_have_read_masks(row.reads)]
    fair = blind if any(not may_have_read_masks(row.reads) for row in methods) else methods
    whole = [row for row in fair if row.complete]
    return max(whole, key=lambda row: np.nan_to_num(row.dice[setup], nan=-1.0)) if whole else None


def _wilcoxon(row: RowNumbers, best: RowNumbers, setup: str) -> PairedTest:
    a, b = row.patients[setup], best.patients[setup]
    names = sorted(set(a) & set(b))
    difference = np.array([a[n] - b[n] for n in names])
    if not difference.any():  # the test has nothing to rank
        return PairedTest(best.title, 1.0 if names else _NAN, len(names))
    return PairedTest(best.title, float(stats.wilcoxon(difference).pvalue), len(names))
