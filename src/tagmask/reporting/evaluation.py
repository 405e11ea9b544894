"""An evaluation's folder as the report reads it, with the manifest of the segmentation behind it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tagmask.errors import InputError
from tagmask.scoring.panels import Panel, read_panels
from tagmask.scoring.summaries import damaged, read_object, read_summary

__all__ = ["CaseRow", "SliceRow", "StoredEvaluation", "by_case", "read_evaluation"]


class SliceRow(NamedTuple):
    """A slice as evaluated for the method; None where a number is undefined."""

    case: str
    slice: int
    patient: str
    positive: bool
    dice: float | None
    hd95: float | None
    ap: float | None
    pixels: int
    truth_pixels: int
    mask_pixels: int


class CaseRow(NamedTuple):
    """A case: means over its slices, and sums of pixels."""

    case: str
    patient: str
    slices: int
    positives: int
    dice: float | None
    dice_mixed: float | None
    hd95: float | None
    ap: float | None
    truth_pixels: int
    mask_pixels: int


class Histogram(NamedTuple):
    """Pixels by score: edges (N + 1,) float, background and truth (N,) int."""

    edges: np.ndarray
    background: np.ndarray
    truth: np.ndarray


@dataclass(frozen=True)
class StoredEvaluation:
    """What a folder written by `tagmask evaluate` says.

    Parameters
    ----------
    folder
        The folder.
    summary
        Its summary.json.
    slices
        Every slice, for the method row.
    curves
        (row, subset) to (recall, precision), each (N,) float.
    histogram
        None where there were no score maps.
    panels
        The slices kept as pictures.
    manifest
        Of the segmentation; empty where masks came from elsewhere.
    thresholds
        Case to the threshold of the mask of each of its slices.
    """

    folder: Path
    summary: dict[str, Any]
    slices: list[SliceRow]
    curves: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]
    histogram: Histogram | None
    panels: list[Panel]
    manifest: dict[str, Any]
    thresholds: dict[str, dict[int, float]]

    @property
    def method(self) -> Mapping[str, Any]:
        """The method's row of the table."""
        return next(row for row in self.summary["rows"] if row["row"] == "method")

    def threshold(self, case: str, index: int) -> float | None:
        """Give the threshold of a slice, where it is known.

        A picture is slice 0 of its case here, while its table may number it as it likes.
        """
        known = self.thresholds.get(case, {})
        return next(iter(known.values())) if len(known) == 1 else known.get(index)


def read_evaluation(folder: Path) -> StoredEvaluation:
    """Read the folder of an evaluation.

    Raises
    ------
    InputError
        Not such a folder, or one that is damaged.
    """
    folder = Path(folder)
    if not (folder / "summary.json").is_file():
        raise InputError(
            "This is not an evaluation: there is no summary.json.",
            where=folder,
            repair="Run `tagmask evaluate RESULTS TRUTH -o EVALUATION` and report EVALUATION.",
        )
    summary = read_summary(folder / "summary.json")
    results = Path(str(summary.get("results") or ""))
    results = results if results.is_absolute() or not (folder / results).is_dir() else folder / results
    manifest = _manifest(results / "manifest.json") if summary.get("results") else {}
    return StoredEvaluation(
        folder,
        summary,
        [_slice(row) for row in _lines(folder / "per_slice.csv") if row.get("row") == "method"],
        _curves(folder / "pr_curve.csv"),
        _histogram(folder / "histogram.csv"),
        read_panels(folder / "panels.npz") if (folder / "panels.npz").is_file() else [],
        manifest,
        _thresholds(results / "slices.csv") if manifest else {},
    )


def by_case(slices: list[SliceRow]) -> list[CaseRow]:
    """Gather slices by case: lowest Dice on positive slices first, cases without a positive slice last."""
    cases: dict[str, list[SliceRow]] = {}
    for row in slices:
        cases.setdefault(row.case, []).append(row)
    gathered = [
        CaseRow(
            case,
            rows[0].patient,
            len(rows),
            sum(r.positive for r in rows),
            _mean(r.dice for r in rows if r.positive),
            _mean(r.dice for r in rows),
            _mean(r.hd95 for r in rows if r.positive),
            _mean(r.ap for r in rows if r.positive),
            sum(r.truth_pixels for r in rows),
            sum(r.mask_pixels for r in rows),
        )
        for case, rows in cases.items()
    ]
    return sorted(gathered, key=lambda r: (r.dice is None, r.dice or 0.0, -r.mask_pixels, r.case))


def _mean(numbers: Iterator[float | None]) -> float | None:
    known = [n for n in numbers if n is not None]
    return sum(known) / len(known) if known else None


_MANIFEST = {
    **{"method": str, "created": str, "device": str, "seconds": float, "commands": [str]},
    "settings": {"mask": {"intensity": float}},
    "cases": [{}],
    "versions": {},
    "environment": {"versions": {}, "command": [str]},
}
"""What the report reads of it."""


def _manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a segmentation, which the report can do without."""
    try:
        return read_object(path, _MANIFEST) if path.is_file() else {}
    except InputError:
        return {}


def _lines(path: Path) -> Iterator[dict[str, str]]:
    """Read a CSV line by line; nothing where there is no file."""
    if not path.is_file():
        return
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from csv.DictReader(file)
    except (csv.Error, UnicodeDecodeError) as error:
        raise damaged(path, f"it is no CSV ({error})") from error


def _number(value: str | None) -> float | None:
    """Read a number of a CSV; None for what is empty or not finite."""
    try:
        number = float(value or "nan")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _slice(row: Mapping[str, str]) -> SliceRow:
    return SliceRow(
        row.get("case") or "",
        int(_number(row.get("slice")) or 0),
        row.get("patient") or "",
        _number(row.get("positive")) == 1,
        _number(row.get("dice")),
        _number(row.get("hd95")),
        _number(row.get("ap")),
        int(_number(row.get("pixels")) or 0),
        int(_number(row.get("truth_pixels")) or 0),
        int(_number(row.get("mask_pixels")) or 0),
    )


def _curves(path: Path) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in _lines(path):
        recall, precision = _number(row.get("recall")), _number(row.get("precision"))
        if recall is not None and precision is not None:
            points.setdefault((row.get("row") or "", row.get("subset") or ""), []).append((recall, precision))
    arrays = {key: np.asarray(sorted(line, key=lambda p: (p[0], -p[1]))) for key, line in points.items()}
    return {key: (line[:, 0], line[:, 1]) for key, line in arrays.items()}


def _histogram(path: Path) -> Histogram | None:
    rows = [[_number(row.get(k)) for k in ("low", "high", "background", "truth")] for row in _lines(path)]
    if not rows:
        return None
    if any(value is None for row in rows for value in row):
        raise damaged(path, "a number is missing")
    table = np.asarray(rows, dtype=float)
    edges = np.append(table[:, 0], table[-1, 1])
    if not (np.diff(edges) > 0).all() or (table[:, 2:] < 0).any():
        raise damaged(path, "its bins do not rise")
    return Histogram(edges, table[:, 2].astype(np.int64), table[:, 3].astype(np.int64))


def _thresholds(path: Path) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in _lines(path):
        threshold = _number(row.get("threshold"))
        if threshold is not None:
            found.setdefault(row.get("case") or "", {})[int(_number(row.get("slice")) or 0)] = threshold
    return found
