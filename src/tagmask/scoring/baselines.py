"""The rows that every method must beat: rules that know next to nothing.

Each says what it read. None of them sees a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy import ndimage

from tagmask.metrics import SMOOTHING
from tagmask.thresholds import head_foreground

__all__ = ["IntensityRule", "IntensitySearch", "MeanMask", "PositionPrior", "relative_positions"]

FRACTIONS = (0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.18, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
"""Shares of the foreground tried by `IntensitySearch`."""
SHAVES = tuple(range(9))
"""Pixels off the rim of the foreground tried by `IntensitySearch`."""


@dataclass(frozen=True)
class IntensityRule:
    """Mark the brightest or the darkest part of the head (or body).

    Parameters
    ----------
    fraction
        Share of the foreground's pixels that is marked, in (0, 1].
    shave
        Pixels taken off the rim of the foreground first.
    dark
        Mark the darkest: nuclei on H&E, lungs on a radiograph.
    channel
        Whose intensity counts: a lesion may show in one modality alone. None: their mean.
    """

    fraction: float
    shave: int
    dark: bool = False
    channel: int | None = None

    def apply(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mark one slice.

        Parameters
        ----------
        picture : (C, H, W) float
            Channels on one scale.

        Returns
        -------
        mask : (H, W) bool
        score : (H, W) float32
            The intensity, or what is left to the brightest, and its minimum outside the foreground.
        """
        grey = _sought(picture, self.dark, self.channel)
        inside = _shaved(head_foreground(picture), (self.shave,))[0]
        score = np.where(inside, grey, grey.min()).astype(np.float32)
        mask = np.zeros(grey.shape, dtype=bool)
        rows, cols = np.nonzero(inside)
        best = np.argsort(-grey[inside], kind="stable")[: _share(self.fraction, len(rows))]
        mask[rows[best], cols[best]] = True
        return mask, score


class IntensitySearch:
    """Find the `IntensityRule` of the best mean Dice over slices. It reads masks: say so beside the number."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int | None, bool], np.ndarray] = {}
        self.slices = 0

    def add(self, picture: np.ndarray, truth: np.ndarray) -> None:
        """Try every rule on one slice.

        Parameters
        ----------
        picture : (C, H, W) float
        truth : (H, W) bool
        """
        true, head = int(truth.sum()), _shaved(head_foreground(picture), SHAVES)
        channels = (None, *(range(len(picture)) if len(picture) > 1 else ()))
        for sought in product(channels, (False, True)):
            grey = _sought(picture, dark=sought[1], channel=sought[0])
            total = self._sums.setdefault(sought, np.zeros((len(SHAVES), len(FRACTIONS))))
            for i, inside in enumerate(head):
                order = np.argsort(-grey[inside], kind="stable")
                hits = np.concatenate([[0], np.cumsum(truth[inside][order])])
                size = np.array([_share(f, len(hits) - 1) for f in FRACTIONS])
                total[i] += (2 * hits[size] + SMOOTHING) / (size + true + SMOOTHING)
        self.slices += 1

    def best(self) -> tuple[IntensityRule, float]:
        """Give the best rule and its mean Dice."""
        (channel, dark), total = max(self._sums.items(), key=lambda item: float(item[1].max()))
        i, j = np.unravel_index(int(np.argmax(total)), total.shape)
        rule = IntensityRule(FRACTIONS[j], SHAVES[i], dark, channel)
        return rule, float(total[i, j] / self.slices)


def _sought(picture: np.ndarray, dark: bool, channel: int | None) -> np.ndarray:
    """Give a channel, or the mean of all, (H, W) float64, turned over where the dark is sought.

    A picture without that channel, grey among coloured ones, gives what it has.
    """
    chosen = picture if channel is None or channel >= len(picture) else picture[channel : channel + 1]
    grey = chosen.mean(axis=0, dtype=np.float64)
    return np.asarray(grey.max() - grey if dark else grey)


def _shaved(head: np.ndarray, shaves: tuple[int, ...]) -> list[np.ndarray]:
    """Foreground (H, W) without its rim, for each width of the rim."""
    return [np.asarray(ndimage.binary_erosion(head, iterations=n) if n else head, dtype=bool) for n in shaves]


def _share(fraction: float, total: int) -> int:
    """Pixels that a fraction of `total` pixels is."""
    return round(fraction * total)


@dataclass(frozen=True)
class MeanMask:
    """Mark where the masks of the training slices lie on average.

    Parameters
    ----------
    maps : (bins, S, S) float32 in [0, 1]
        Share of training masks that cover each pixel; with several bins, one map per part of the volume.
    threshold
        A pixel is marked where the map is above it; of the best mean Dice on the training masks themselves.
    """

    maps: np.ndarray
    threshold: float

    @classmethod
    def fit(cls, masks: np.ndarray, positions: np.ndarray, *, bins: int = 1) -> MeanMask:
        """Average masks.

        Parameters
        ----------
        masks : (N, S, S) bool or uint8
            Training masks. With one bin the empty ones are left out, so that the map says where, not whether.
        positions : (N,) float in [0, 1]
            Where in its volume each slice lies.
        bins
            Parts of the volume that get a map of their own.
        """
        shown = np.flatnonzero(masks.any(axis=(1, 2)))
        used = shown if bins == 1 else np.arange(len(masks))
        home = _bin(positions[used], bins)
        maps = np.zeros((bins, *masks.shape[1:]), dtype=np.float32)
        for b in np.unique(home):
            maps[b] = np.asarray(masks[used[home == b]] > 0).mean(axis=0)
        where = _bin(positions, bins)
        scores = {t: _mean_dice(masks, maps > t, shown, where) for t in np.arange(0.05, 0.95, 0.05)}
        # Among equals the one nearest to a half: the low ones would mark the blur of a resampled edge.
        return cls(maps, float(max(scores, key=lambda t: (round(scores[t], 9), -abs(t - 0.5)))))

    def at(self, positions: np.ndarray) -> np.ndarray:
        """Give the map (D, S, S) float32 for slices at these positions (D,) in [0, 1]."""
        return np.asarray(self.maps[_bin(positions, len(self.maps))])


def _mean_dice(masks: np.ndarray, marks: np.ndarray, rows: np.ndarray, where: np.ndarray) -> float:
    """Mean Dice over some rows of masks (N, S, S) with the mark (bins, S, S) of their bin."""
    total = 0.0
    for i in rows:
        truth, mark = masks[i] > 0, marks[where[i]]
        total += 2 * np.count_nonzero(truth & mark) / (np.count_nonzero(truth) + np.count_nonzero(mark))
    return total / max(len(rows), 1)


@dataclass(frozen=True)
class PositionPrior:
    """Guess a slice's tag from its place in the volume alone.

    Parameters
    ----------
    frequency : (bins,) float, optional
        Share of tag 1 in each part of the volume, in training slices; None: the nearer the middle, the
        likelier.
    """

    frequency: np.ndarray | None = None

    @classmethod
    def fit(cls, positions: np.ndarray, tags: np.ndarray, *, bins: int = 10) -> PositionPrior:
        """Count tags.

        Parameters
        ----------
        positions : (N,) float in [0, 1]
        tags : (N,) 0 or 1
        """
        where = _bin(positions, bins)
        positive = np.bincount(where, weights=tags, minlength=bins)
        # One pseudo-slice of the overall frequency, so that an empty bin has a value.
        return cls((positive + tags.mean()) / (np.bincount(where, minlength=bins) + 1))

    def score(self, positions: np.ndarray) -> np.ndarray:
        """Give a score (N,), higher where tag 1 is likelier, interpolated between the middles of the bins."""
        if self.frequency is None:
            return -np.abs(np.asarray(positions) - 0.5)
        bins = len(self.frequency)
        return np.asarray(np.interp(positions, (np.arange(bins) + 0.5) / bins, self.frequency))


def _bin(positions: np.ndarray, bins: int) -> np.ndarray:
    """Part of the volume, 0 .. bins - 1, of positions in [0, 1]."""
    return np.asarray(np.clip((np.asarray(positions) * bins).astype(int), 0, bins - 1))


def relative_positions(index: np.ndarray) -> np.ndarray:
    """Scale the slice numbers of one volume or patient to 0 .. 1; a single slice lies in the middle.

    Examples
    --------
    >>> relative_positions(np.array([3, 5, 7]))
    array([0. , 0.5, 1. ])
    """
    index = np.asarray(index, dtype=np.float64)
    low, high = index.min(), index.max()
    return (index - low) / (high - low) if high > low else np.full(index.shape, 0.5)
