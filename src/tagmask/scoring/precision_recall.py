"""Precision and recall of a score map at every threshold, over one slice or over all pixels of many."""

from __future__ import annotations

import numpy as np

__all__ = ["PooledScores", "average_precision", "pr_curve"]


def pr_curve(score: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision and recall of `score >= threshold` at every distinct score, from the highest down.

    Parameters
    ----------
    score : (N,) float, finite
    truth : (N,) bool, at least one True

    Returns
    -------
    precision, recall, threshold : (K,) float64 each
    """
    values, positive, negative = _tally(np.asarray(score).ravel(), np.asarray(truth, dtype=bool).ravel())
    return _curve(values, positive, negative)


def average_precision(score: np.ndarray, truth: np.ndarray) -> tuple[float, str]:
    """Area under the precision-recall curve as a step function: precision times gain in recall, summed.

    Parameters
    ----------
    score, truth : equal sizes; float and bool

    Returns
    -------
    float, str
        The area and "ok"; NaN and "no_positives" or "not_finite" where it is not defined.
    """
    score, truth = np.asarray(score).ravel(), np.asarray(truth, dtype=bool).ravel()
    if not truth.any():
        return float("nan"), "no_positives"
    if not np.isfinite(score).all():
        return float("nan"), "not_finite"
    return _area(*pr_curve(score, truth)[:2]), "ok"


def _tally(
    score: np.ndarray, positive: np.ndarray, negative: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct scores from high to low, and how many positives and negatives have each."""
    order = np.argsort(score)[::-1]
    score = score[order]
    first = (
        np.flatnonzero(np.concatenate([[True], score[1:] != score[:-1]]))
        if score.size
        else np.zeros(0, dtype=int)
    )
    rest = ~positive if negative is None else negative
    sums = [
        np.add.reduceat(v[order].astype(np.int64), first) if first.size else first for v in (positive, rest)
    ]
    return score[first], sums[0], sums[1]


def _curve(
    values: np.ndarray, positive: np.ndarray, negative: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and threshold from tallies in descending order."""
    tp, fp = np.cumsum(positive, dtype=np.float64), np.cumsum(negative, dtype=np.float64)
    return tp / (tp + fp), tp / tp[-1], values.astype(np.float64)


def _area(precisions: np.ndarray, recalls: np.ndarray) -> float:
    """Step-wise area under the curve."""
    return float(np.sum(np.diff(recalls, prepend=0.0) * precisions))


class PooledScores:
    """Scores and truth of many slices, for one curve over all their pixels, in bounded memory.

    Exact while at most `limit` distinct scores were seen; beyond, scores are rounded to 13 bits of mantissa
    (1 part in 8,000), which moves an average precision by less than it says. At the limit some 200 MB are
    held.

    Parameters
    ----------
    limit
        Distinct scores kept.
    """

    def __init__(self, limit: int = 4_000_000) -> None:
        self.limit, self.exact = limit, True
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._held = 0

    def add(self, score: np.ndarray, truth: np.ndarray) -> None:
        """Add the pixels of a slice; scores must be finite."""
        part = _tally(
            self._rounded(np.asarray(score, dtype=np.float32).ravel()), np.asarray(truth, dtype=bool).ravel()
        )
        self._waiting.append(part)
        self._held += len(part[0])
        if self._held > 2 * self.limit:
            self._merge()

    def average_precision(self) -> tuple[float, str]:
        """Average precision over everything added; as the function of that name."""
        precisions, recalls, _ = self.curve()
        return (_area(precisions, recalls), "ok") if len(recalls) else (float("nan"), "no_positives")

    def curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall, threshold, (K,) each; K = 0 without positives."""
        self._merge()
        if not self._waiting or not self._waiting[0][1].any():
            return np.zeros(0), np.zeros(0), np.zeros(0)
        return _curve(*self._waiting[0])

    def _rounded(self, score: np.ndarray) -> np.ndarray:
        """Scores at the precision held: all of float32, or 13 bits of mantissa."""
        if self.exact:
            return score
        bits = np.ascontiguousarray(score).view(np.uint32)
        return ((bits + np.uint32(1 << 9)) & np.uint32(0xFFFFFC00)).view(np.float32)

    def _merge(self) -> None:
        """Tally what waits into one part; round when it has too many distinct scores."""
        if not self._waiting:
            return
        columns = [np.concatenate(c) for c in zip(*self._waiting, strict=True)]
        merged = _tally(columns[0], columns[1], columns[2])
        if len(merged[0]) > self.limit and self.exact:
            self.exact = False
            merged = _tally(self._rounded(merged[0]), merged[1], merged[2])
        self._waiting, self._held = [merged], len(merged[0])
