"""From the evaluations of a row's cells to its numbers: mean and spread, interval, paired test."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from tagmask.benchmarking.protocol import Protocol
from tagmask.metrics import Counts, dice
from tagmask.scoring.aggregate import SliceRecord, summarise
from tagmask.scoring.scoreboard import combine

__all__ = ["Number", "PairedTest", "Repeat", "RowNumbers", "merged", "paired_tests", "read_row", "rows_of"]

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
        95 % bootstrap interval over patients; NaN where there is none.
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
        Setup -> patient -> mean Dice over the patient's slices and repeats.
    """

    title: str
    reads: str
    numbers: Mapping[tuple[str, str], Number]
    dice: Mapping[str, float]
    patients: Mapping[str, Mapping[str, float]]


def rows_of(evaluation: Path) -> list[str]:
    """Keys of the rows of an evaluation, the method's first."""
    lines = combine([evaluation / "summary.json"])
    return list(dict.fromkeys(str(line["row"]) for line in lines if line["subset"] != "image_level"))


def read_row(repeats: Sequence[Repeat], row: str, protocol: Protocol) -> RowNumbers:
    """Gather one row over its repeats.

    Parameters
    ----------
    repeats
        At least one.
    row
        "method", or the key of a trivial row.
    """
    numbers: dict[tuple[str, str], Number] = {}
    overlap: dict[str, float] = {}
    patients: dict[str, dict[str, float]] = {}
    title, reads = "", dict[str, None]()
    for setup in protocol.setups:
        folds: dict[str, list[Path]] = {}
        for repeat in repeats:
            folds.setdefault(repeat.fold, []).append(repeat.evaluations[setup])
        found = [_by_metric(evaluations, row, setup) for evaluations in folds.values()]
        records = [
            r for repeat in repeats for r in _records(repeat.evaluations[setup], row, setup, repeat.fold)
        ]
        intervals = summarise(records, draws=protocol.draws)
        for metric in protocol.metrics:
            per = protocol.per(metric)
            interval = intervals[per][metric]
            mean, sd, count = merged([lines[per, metric] for lines in found])
            numbers[setup, metric] = Number(mean, sd, interval["low"], interval["high"], count)
        overlap[setup] = merged([lines[protocol.per("dice"), "dice"] for lines in found])[0]
        patients[setup] = _patients(records, protocol.averaging)
        first = next(iter(found[0].values()))
        title = str(first["title"])
        reads[str(first["reads"])] = None
    return RowNumbers(title, "; ".join(reads), numbers, overlap, patients)


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
    with (evaluation / "per_slice.csv").open(newline="", encoding="utf-8") as file:
        lines = [
            line
            for line in csv.DictReader(file)
            if line["row"] == row and (setup == "mixed" or line["positive"] == "1")
        ]
    return [
        SliceRecord(
            row=row,
            case=line["case"],
            slice=int(line["slice"]),
            patient=f"{fold}/{line['patient']}",
            tag=int(line["tag"]) if line["tag"] else None,
            tag_source=line["tag_source"],
            positive=line["positive"] == "1",
            position=float(line["position"] or "nan"),
            score=float(line["score"] or "nan"),
            counts=Counts(*(int(line[key]) for key in Counts._fields)),
            hd95=float(line["hd95"] or "nan"),
            hd95_status=line["hd95_status"],
            ap=float(line["ap"] or "nan"),
            ap_status=line["ap_status"],
        )
        for line in lines
    ]


def _patients(records: Sequence[SliceRecord], averaging: str) -> dict[str, float]:
    """Dice of each patient: the mean of its slices, or that of its pixels together."""
    groups: dict[str, list[Counts]] = {}
    for record in records:
        groups.setdefault(record.patient, []).append(record.counts)
    found = {}
    for patient, counts in groups.items():
        table = np.array(counts, dtype=np.float64)
        table = table.sum(axis=0, keepdims=True) if averaging == "patient" else table
        found[patient] = float(dice(table[:, 0], table[:, 1], table[:, 2]).mean())
    return found


def paired_tests(
    rows: Sequence[RowNumbers], setup: str, trivial: Sequence[RowNumbers] = ()
) -> list[PairedTest | None]:
    """Compare each row with the best: the highest mean Dice of the rows that read no mask, if a method is among them.

    Parameters
    ----------
    trivial
        Those of the rows that know next to nothing. Where every method reads masks, the best is one of the methods.

    Returns
    -------
    list
        One for each row; None for the best row itself.
    """
    methods = [row for row in rows if not any(row is other for other in trivial)] or list(rows)
    fair = [row for row in rows if "mask" not in row.reads]
    if not any("mask" not in row.reads for row in methods):
        fair = methods
    best = max(fair, key=lambda row: np.nan_to_num(row.dice[setup], nan=-1.0))
    return [None if row is best else _wilcoxon(row, best, setup) for row in rows]


def _wilcoxon(row: RowNumbers, best: RowNumbers, setup: str) -> PairedTest:
    a, b = row.patients[setup], best.patients[setup]
    names = sorted(set(a) & set(b))
    difference = np.array([a[n] - b[n] for n in names])
    if not difference.any():  # the test has nothing to rank
        return PairedTest(best.title, 1.0 if names else _NAN, len(names))
    return PairedTest(best.title, float(stats.wilcoxon(difference).pvalue), len(names))
