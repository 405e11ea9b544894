"""A histogram of scores by truth that never knows its range in advance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tagmask.io import write_csv

__all__ = ["ScoreHistogram"]

_MAX_BINS = 1024


@dataclass
class ScoreHistogram:
    """Counts of background and truth pixels by score, in constant memory, whatever their range.

    Bins are a power of two wide and start at multiples of it; neighbours are joined when there are too many.
    Scores that are not finite are left out.
    """

    width: float = 0.0
    first: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), dtype=np.int64))

    def add(self, scores: np.ndarray, truth: np.ndarray) -> None:
        """Count scores (any shape, float) by truth (same shape, bool)."""
        values, classes = np.asarray(scores, np.float64).ravel(), np.asarray(truth, bool).ravel()
        if values.shape != classes.shape:
            raise ValueError(f"{values.size} scores, but {classes.size} truths.")
        known = np.isfinite(values)
        values, classes = values[known], classes[known]
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not self.counts.size:
            # The second bound keeps the bins' numbers within what a float can count.
            finest = max((high - low) / (_MAX_BINS // 2), max(abs(low), abs(high)) * 2.0**-40, 2.0**-60)
            self.width = 2.0 ** math.ceil(math.log2(finest))
            self.first = math.floor(low / self.width)
        while self._span(low, high) > _MAX_BINS:
            self._fold()
        start = min(self.first, math.floor(low / self.width))
        counts = np.zeros((2, self._span(low, high)), dtype=np.int64)
        counts[:, self.first - start : self.first - start + self.counts.shape[1]] += self.counts
        bins = np.floor(values / self.width).astype(np.int64) - start
        for k in (0, 1):
            counts[k] += np.bincount(bins[classes == k], minlength=counts.shape[1])
        self.first, self.counts = start, counts

    def _span(self, low: float, high: float) -> int:
        """Give the bins needed for what is there and low..high."""
        start, stop = math.floor(low / self.width), math.floor(high / self.width) + 1
        if self.counts.size:
            start, stop = min(start, self.first), max(stop, self.first + self.counts.shape[1])
        return stop - start

    def _fold(self) -> None:
        """Make two neighbours one."""
        lead = self.first % 2
        padded = np.pad(self.counts, ((0, 0), (lead, (lead + self.counts.shape[1]) % 2)))
        self.counts = padded.reshape(2, -1, 2).sum(axis=2)
        self.first, self.width = (self.first - lead) // 2, self.width * 2

    def write(self, path: Path, bins: int = 256) -> None:
        """Write low, high, background, truth (pixels), one line a bin; where nothing was counted, no file is left."""
        if not self.counts.size:
            path.unlink(missing_ok=True)
            return
        while self.counts.shape[1] > bins:
            self._fold()
        lines = []
        for n, (background, truth) in enumerate(self.counts.T.tolist()):
            low = (self.first + n) * self.width
            lines.append(
                {"low": repr(low), "high": repr(low + self.width), "background": background, "truth": truth}
            )
        write_csv(path, ("low", "high", "background", "truth"), lines, line_end="\n")
