"""Agreement of masks with the truth: each function says per what, over what, in which convention.

Counts come first: every overlap number is a function of (tp, fp, fn, tn), which are stored beside it, so that
any other convention can be recomputed. Undefined is NaN with a status beside it; nothing is replaced in
silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from tagmask.errors import ConfigError, GeometryError

__all__ = [
    "SMOOTHING",
    "Counts",
    "Interval",
    "auc",
    "auc_interval",
    "bootstrap_ci",
    "counts",
    "dice",
    "hd95",
    "iou",
    "overlap_status",
    "precision",
    "recall",
]

SMOOTHING = 1e-5
"""e of Dice and IoU, added above and below (Hu et al. 2023): both masks empty gives 1, one empty about 0."""

EmptyRule = Literal["exclude", "diagonal", "zero"]


class Counts(NamedTuple):
    """Pixels by prediction and truth."""

    tp: int
    fp: int
    fn: int
    tn: int


class Interval(NamedTuple):
    """A number and its bootstrap interval; NaN bounds where there is none."""

    value: float
    low: float
    high: float


def counts(pred: np.ndarray, truth: np.ndarray) -> Counts:
    """Count pixels.

    Parameters
    ----------
    pred, truth : bool, equal shapes

    Raises
    ------
    GeometryError
        The shapes differ.
    """
    p, t = np.asarray(pred, dtype=bool), np.asarray(truth, dtype=bool)
    if p.shape != t.shape:
        raise GeometryError(
            f"the mask has shape {p.shape}, the truth {t.shape}.",
            repair="Bring both to one grid before comparing them.",
        )
    tp = int(np.count_nonzero(p & t))
    fp, fn = int(np.count_nonzero(p)) - tp, int(np.count_nonzero(t)) - tp
    return Counts(tp, fp, fn, p.size - tp - fp - fn)


def dice(tp: object, fp: object, fn: object, e: float = SMOOTHING) -> np.ndarray:
    """Dice, (2 tp + e) / (2 tp + fp + fn + e), of numbers or arrays of counts. With e = 0 both empty is NaN.

    Examples
    --------
    >>> round(float(dice(10, 5, 5)), 3), float(dice(0, 0, 0))
    (0.667, 1.0)
    """
    tp, fp, fn = (np.asarray(v, dtype=np.float64) for v in (tp, fp, fn))
    return _ratio(2 * tp + e, 2 * tp + fp + fn + e)


def iou(tp: object, fp: object, fn: object, e: float = SMOOTHING) -> np.ndarray:
    """Intersection over union, (tp + e) / (tp + fp + fn + e), of numbers or arrays of counts."""
    tp, fp, fn = (np.asarray(v, dtype=np.float64) for v in (tp, fp, fn))
    return _ratio(tp + e, tp + fp + fn + e)


def precision(tp: object, fp: object) -> np.ndarray:
    """Share of the marked pixels that are true; NaN where nothing is marked."""
    tp, fp = np.asarray(tp, dtype=np.float64), np.asarray(fp, dtype=np.float64)
    return _ratio(tp, tp + fp)


def recall(tp: object, fn: object) -> np.ndarray:
    """Share of the true pixels that are marked; NaN where there are none."""
    tp, fn = np.asarray(tp, dtype=np.float64), np.asarray(fn, dtype=np.float64)
    return _ratio(tp, tp + fn)


def overlap_status(c: Counts) -> str:
    """Say which side is empty: "ok", "both_empty", "mask_empty" or "truth_empty"."""
    marked, true = c.tp + c.fp > 0, c.tp + c.fn > 0
    return {(True, True): "ok", (False, False): "both_empty", (False, True): "mask_empty"}.get(
        (marked, true), "truth_empty"
    )


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Quotient, NaN for 0 / 0."""
    undefined = np.full(np.broadcast(above, below).shape, np.nan)
    return np.asarray(np.divide(above, below, out=undefined, where=below > 0))


def hd95(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float] | None = None, empty: EmptyRule = "exclude"
) -> tuple[float, str]:
    """95th percentile of the distances between two surfaces, both directions pooled.

    Every surface pixel (4-neighbourhood, the border of the picture being a surface) gives its distance to the
    nearest surface pixel of the other mask; the percentile is taken of all of them together. This is the
    definition behind the papers' numbers (medpy's). MONAI takes the percentile of each direction and then the
    larger of the two.

    Parameters
    ----------
    pred, truth : bool, equal shapes
    spacing
        Edge of a pixel along each axis. Given in mm the result is in mm; None: pixels.
    empty
        With one mask empty: "exclude" NaN; "diagonal" the diagonal of the picture; "zero" 0, which rewards an
        empty mask and is there to replay published tables. With both empty: NaN, under "zero" 0.

    Returns
    -------
    float, str
        The distance, and "ok", "excluded", "penalised" or "zero".

    Raises
    ------
    ConfigError
        No such rule.
    """
    if empty not in ("exclude", "diagonal", "zero"):
        raise ConfigError(f"unknown rule {empty!r} for empty masks.", repair="Use exclude, diagonal or zero.")
    p, t = np.asarray(pred, dtype=bool), np.asarray(truth, dtype=bool)
    edge = np.ones(p.ndim) if spacing is None else np.asarray(spacing, dtype=np.float64)
    if not (p.any() and t.any()):
        if empty == "zero":
            return 0.0, "zero"
        if empty == "diagonal" and p.any() != t.any():
            return float(np.linalg.norm(np.array(p.shape) * edge)), "penalised"
        return float("nan"), "excluded"
    box = ndimage.find_objects((p | t).astype(np.uint8))[0]  # distances between surfaces live inside it
    a, b = _surface(p[box]), _surface(t[box])
    to_b = ndimage.distance_transform_edt(~b, sampling=edge)[a]
    to_a = ndimage.distance_transform_edt(~a, sampling=edge)[b]
    return float(np.percentile(np.concatenate([to_b, to_a]), 95)), "ok"


def _surface(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask with a face neighbour outside it or outside the picture."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask), dtype=bool)


def auc(score: np.ndarray, label: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a positive scores above a negative, ties counting half.

    Parameters
    ----------
    score : (N,) float
    label : (N,) bool

    Returns
    -------
    float
        NaN when one class is missing.
    """
    return auc_interval(score, label, np.zeros(len(score), dtype=int), resamples=0).value


def auc_interval(
    score: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Area under the ROC curve with a bootstrap interval over patients.

    Parameters
    ----------
    score, label, patient : (N,)
        Float, bool, and any hashable name of the patient.
    """
    score, label = np.asarray(score, dtype=np.float64), np.asarray(label, dtype=bool)
    who, index = np.unique(np.asarray(patient), return_inverse=True)
    if label.all() or not label.any():
        return Interval(float("nan"), float("nan"), float("nan"))
    p = len(who)
    wins = np.zeros((p, p))  # [patient of the positive, patient of the negative]
    negatives, owner = score[~label], index[~label]
    for s, i in zip(score[label], index[label], strict=True):
        wins[i] += np.bincount(owner, weights=(s > negatives) + 0.5 * (s == negatives), minlength=p)
    sizes = np.stack([np.bincount(index[label], minlength=p), np.bincount(owner, minlength=p)])
    table = np.concatenate([wins, sizes.T], axis=1)

    def area(weights: np.ndarray) -> np.ndarray:
        won = np.einsum("bi,ij,bj->b", weights, table[:, :p], weights, optimize=True)
        return _ratio(won, (weights @ table[:, p]) * (weights @ table[:, p + 1]))

    return _percentiles(area, p, resamples, seed, level)


def bootstrap_ci(
    sums: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap over patients of any number that is a function of sums over patients.

    Parameters
    ----------
    sums : (P, K) float
        What each patient adds: (sum of values, number of values) for a mean, (tp, fp, fn) for a pooled Dice.
    statistic
        (B, K) totals to (B,) numbers.
    resamples, seed, level
        Number of resamples, their seed, the coverage.

    Returns
    -------
    Interval
        The number on all patients, and its bounds; NaN bounds with fewer than two patients.
    """
    table = np.asarray(sums, dtype=np.float64)
    return _percentiles(lambda weights: statistic(weights @ table), len(table), resamples, seed, level)


def _percentiles(
    statistic: Callable[[np.ndarray], np.ndarray], patients: int, resamples: int, seed: int, level: float
) -> Interval:
    """Statistic (of (B, P) patient weights) with every patient once, and over resamples."""
    value = float(statistic(np.ones((1, patients)))[0])
    if patients < 2 or resamples < 1:
        return Interval(value, float("nan"), float("nan"))
    weights = np.random.default_rng(seed).multinomial(
        patients, np.full(patients, 1 / patients), size=resamples
    )
    drawn = statistic(weights.astype(np.float64))
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))
