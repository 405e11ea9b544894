"""From slices to numbers: means over slices and over patients, pooled, each with its interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tagmask.metrics import Counts, Interval, bootstrap_ci
from tagmask.scoring.slice_records import SliceRecord, cell, overlaps

__all__ = [
    "PER_PATIENT",
    "mean_interval",
    "of_patients",
    "per_patient",
    "summarise",
]

PER_PATIENT = (
    *("row", "subset", "patient", "slices", "tp", "fp", "fn", "tn", "dice", "iou", "precision", "recall"),
    *("hd95", "hd95_slices", "ap", "ap_slices"),
)
"""Columns of per_patient.csv."""
_OVERLAP = ("dice", "iou", "precision", "recall")
_NAN = float("nan")


def _overlap(table: np.ndarray, name: str) -> np.ndarray:
    """One overlap number (N,) of counts (N, >= 3)."""
    return overlaps(table)[name]


@dataclass(frozen=True)
class _Grouped:
    """Records as arrays: counts (N, 4), hd95 (N,), ap (N,), patient index (N,), patients' names."""

    counts: np.ndarray
    hd95: np.ndarray
    ap: np.ndarray
    index: np.ndarray
    names: np.ndarray

    @classmethod
    def of(cls, records: Sequence[SliceRecord]) -> _Grouped:
        names, index = np.unique([r.patient for r in records], return_inverse=True)
        table = np.array([r.counts for r in records], dtype=np.float64).reshape(-1, 4)
        return cls(
            table, np.array([r.hd95 for r in records]), np.array([r.ap for r in records]), index, names
        )

    def add_up(self, values: np.ndarray) -> np.ndarray:
        """Sum (N,) or (N, K) values over each patient's slices."""
        out = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(out, self.index, values)
        return out

    def mean(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the defined values (N,) over each patient's slices, and how many they are."""
        known = np.isfinite(values)
        count = self.add_up(known.astype(np.float64))
        total = self.add_up(np.where(known, values, 0.0))
        return np.divide(total, count, out=np.full(len(count), _NAN), where=count > 0), count

    def patients(self) -> dict[str, np.ndarray]:
        """Numbers (P,) of the patients: counts pooled within one; HD95 and AUPRC averaged within one."""
        found = overlaps(self.add_up(self.counts))
        return {**found, "hd95": self.mean(self.hd95)[0], "auprc": self.mean(self.ap)[0]}


def summarise(
    records: Sequence[SliceRecord], pooled_ap: float = _NAN, *, resamples: int = 2000, seed: int = 0
) -> dict[str, dict[str, dict[str, float | int]]]:
    """Average the slices of one row and one subset in three ways.

    Parameters
    ----------
    records
        One row's slices.
    pooled_ap
        Average precision over all their pixels, NaN where there are no scores.
    resamples, seed
        Of the bootstrap over patients.

    Returns
    -------
    dict
        ["image" | "patient" | "pooled"][metric] = value, low, high, n (in the mean), excluded (undefined),
        penalised. "image" is the mean over slices, "patient" the mean over patients (counts pooled within
        one; HD95 and AUPRC averaged within one), "pooled" is taken of all pixels together.
    """
    g = _Grouped.of(records)
    penalised = sum(r.hd95_status in ("penalised", "zero") for r in records)
    image = {**overlaps(g.counts), "hd95": g.hd95, "auprc": g.ap}
    totals = g.add_up(g.counts)

    boot = partial(_boot, resamples=resamples, seed=seed)

    out: dict[str, dict[str, dict[str, float | int]]] = {"image": {}, "patient": {}, "pooled": {}}
    for name, values in image.items():
        known = np.isfinite(values)
        sums = g.add_up(np.stack([np.where(known, values, 0.0), known], axis=1))
        out["image"][name] = _entry(boot(sums, _quotient), known, penalised if name == "hd95" else 0)
    for name, values in g.patients().items():
        interval = mean_interval(values, resamples=resamples, seed=seed)
        out["patient"][name] = _entry(interval, np.isfinite(values), penalised if name == "hd95" else 0)
    for name in _OVERLAP:
        interval = boot(totals, partial(_overlap, name=name))
        out["pooled"][name] = _entry(interval, np.isfinite([interval.value]).repeat(len(records)), 0)
    known = np.array([r.ap_status not in ("no_scores", "not_finite") for r in records], dtype=bool)
    out["pooled"]["auprc"] = _entry(Interval(pooled_ap, _NAN, _NAN), known, 0)
    return out


def mean_interval(values: np.ndarray, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Give the mean of patients' numbers (P,), and its interval; NaN is no number."""
    known = np.isfinite(values)
    return _boot(
        np.stack([np.where(known, values, 0.0), known], axis=1), _quotient, resamples=resamples, seed=seed
    )


def of_patients(records: Sequence[SliceRecord]) -> dict[str, dict[str, float]]:
    """Give metric -> patient -> number, as the means of `summarise` over patients are made of."""
    g = _Grouped.of(records)
    return {name: dict(zip(g.names.tolist(), n.tolist(), strict=True)) for name, n in g.patients().items()}


def _boot(
    sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, resamples: int, seed: int
) -> Interval:
    """Bootstrap over patients, if there are any."""
    return (
        bootstrap_ci(sums, statistic, resamples=resamples, seed=seed)
        if len(sums)
        else Interval(_NAN, _NAN, _NAN)
    )


def _quotient(totals: np.ndarray) -> np.ndarray:
    """Mean from (sum, number), (B, 2) to (B,)."""
    undefined = np.full(len(totals), _NAN)
    return np.asarray(np.divide(totals[:, 0], totals[:, 1], out=undefined, where=totals[:, 1] > 0))


def _entry(interval: Interval, known: np.ndarray, penalised: int) -> dict[str, float | int]:
    """Give the numbers of one cell of the table."""
    n = int(np.count_nonzero(known))
    return {**interval._asdict(), "n": n, "excluded": len(known) - n, "penalised": penalised}


def per_patient(records: Sequence[SliceRecord], row: str, subset: str) -> list[dict[str, object]]:
    """Give the lines of per_patient.csv of one row and one subset."""
    if not records:
        return []
    g = _Grouped.of(records)
    totals, size = g.add_up(g.counts), np.bincount(g.index)
    found, (distance, distances), (area, areas) = overlaps(totals), g.mean(g.hd95), g.mean(g.ap)
    lines = []
    for i, name in enumerate(g.names):
        line: dict[str, object] = {"row": row, "subset": subset, "patient": str(name), "slices": int(size[i])}
        line |= {key: int(value) for key, value in zip(Counts._fields, totals[i], strict=True)}
        line |= {key: float(values[i]) for key, values in found.items()}
        line |= {"hd95": float(distance[i]), "hd95_slices": int(distances[i])}
        line |= {"ap": float(area[i]), "ap_slices": int(areas[i])}
        lines.append({key: cell(value) for key, value in line.items()})
    return lines
