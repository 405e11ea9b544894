"""The rows of the table: the method, and beside it what knows next to nothing, each stamped with what it read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tagmask.masks import otsu
from tagmask.prepared import Prepared
from tagmask.scoring.matching import SliceInfo
from tagmask.scoring.trivial import BrightRule, BrightSearch, MeanMask, PositionPrior, relative_positions
from tagmask.slices import SliceSettings, join, split
from tagmask.types import Study

__all__ = [
    "Filled",
    "LoadedCase",
    "Row",
    "bright_row",
    "mean_mask_rows",
    "plain_rows",
    "position_prior",
    "search",
]

Filled = tuple[np.ndarray, np.ndarray | None]
"""Mask (I, J, K) bool, and score map (I, J, K) float32 where there is one."""


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory.

    Parameters
    ----------
    study
        Its grid; the image in it is the truth.
    axis
        The file's axis that counts slices.
    truth, mask : (I, J, K) bool
    scores : (I, J, K) float32, optional
    image : (C, I, J, K) float32 in [0, 1], optional
        The source, scaled by its minimum and maximum.
    info
        What tables say of each slice; None for a slice that they do not list.
    """

    study: Study
    axis: int
    truth: np.ndarray
    mask: np.ndarray
    scores: np.ndarray | None
    image: np.ndarray | None
    info: list[SliceInfo | None]

    @property
    def depth(self) -> int:
        """Number of slices."""
        return int(self.truth.shape[self.axis])

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Give a view of one slice of an (..., I, J, K) volume."""
        return volume[(..., *(slice(None),) * self.axis, index, *(slice(None),) * (2 - self.axis))]

    def each_slice(self, rule: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Filled:
        """Apply a rule on pictures (C, H, W), giving mask and score (H, W), to every slice of the image."""
        assert self.image is not None
        mask, score = np.zeros(self.truth.shape, dtype=bool), np.zeros(self.truth.shape, dtype=np.float32)
        for k in range(self.depth):
            self.cut(mask, k)[...], self.cut(score, k)[...] = rule(self.cut(self.image, k))
        return mask, score


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Parameters
    ----------
    row, title
        Its key and its name for people.
    reads
        What it was allowed to see.
    fill
        Gives mask and score map of a case.
    chosen
        The numbers that were chosen for it, and their score where they were chosen.
    """

    row: str
    title: str
    reads: str
    fill: Callable[[LoadedCase], Filled]
    chosen: dict[str, Any] | None = None


def plain_rows(title: str, reads: str, *, images: bool) -> list[Row]:
    """Give the method and the rows that read nothing.

    Parameters
    ----------
    title, reads
        Of the method.
    images
        Whether the source images are at hand.
    """
    rows = [
        Row("method", title, reads, lambda case: (case.mask, case.scores)),
        Row("all_empty", "all-empty", "nothing", lambda case: _constant(case, False)),
        Row("all_foreground", "all-foreground (whole image)", "nothing", lambda case: _constant(case, True)),
    ]
    if images:
        rows.append(
            Row("intensity_otsu", "intensity, Otsu per slice", "nothing", lambda case: case.each_slice(_otsu))
        )
    return rows


def _constant(case: LoadedCase, value: bool) -> Filled:
    # A map without contrast: its average precision is the prevalence, the chance level of AUPRC.
    return np.full(case.truth.shape, value), np.zeros(case.truth.shape, dtype=np.float32)


def _otsu(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grey = picture.mean(axis=0)
    return grey > otsu(grey), grey


def search(cases: Iterable[LoadedCase]) -> BrightSearch:
    """Try every intensity rule on the slices of some cases that show the target. It reads their masks."""
    found = BrightSearch()
    for case in cases:
        if case.image is not None:
            for k in range(case.depth):
                truth = case.cut(case.truth, k)
                if truth.any():
                    found.add(case.cut(case.image, k), truth)
    return found


def bright_row(key: str, title: str, reads: str, found: BrightSearch) -> Row:
    """Give the row of the best rule of a search."""
    rule, value = found.best()
    chosen = {
        "fraction": rule.fraction,
        "shave_px": rule.shave,
        "dice_where_chosen": value,
        "slices": found.slices,
    }

    def fill(case: LoadedCase, rule: BrightRule = rule) -> Filled:
        return case.each_slice(rule.apply)

    return Row(key, title, reads, fill, chosen)


def mean_mask_rows(prepared: Prepared) -> list[Row]:
    """Give the rows that mark where the train masks lie on average, over all slices and by position.

    Raises
    ------
    InputError
        The folder was not prepared supervised.
    """
    masks, index = prepared.masks(), _train(prepared)
    masks, positions = np.asarray(masks[index]), _positions(prepared, index)
    rows = []
    for key, title, bins in (
        ("mean_train_mask", "mean of the train masks", 1),
        ("mean_train_mask_by_position", "mean of the train masks at that position", 10),
    ):
        mean = MeanMask.fit(masks, positions, bins=bins)
        chosen = {"threshold": mean.threshold, "bins": bins}
        rows.append(Row(key, title, "train masks", _mean_filler(mean, prepared.settings), chosen))
    return rows


def _mean_filler(mean: MeanMask, settings: SliceSettings) -> Callable[[LoadedCase], Filled]:
    """Bring the map of each slice to a case's grid; pictures of unknown position get the middle's."""
    cut = SliceSettings(plane=settings.plane, size=settings.size, normalise="window", window=(0, 1))

    def fill(case: LoadedCase) -> Filled:
        grid = split(case.study, cut, only=[]).grid
        score = join(mean.at(relative_positions(np.arange(grid.depth))), grid)
        return score > mean.threshold, score

    return fill


def position_prior(prepared: Prepared | None) -> PositionPrior:
    """Give the rule that knows a slice's position only: from the train tags, or without any."""
    if prepared is None:
        return PositionPrior()
    index = _train(prepared)
    tags = np.asarray(prepared.labels)[index]
    known = tags >= 0
    if not known.any():
        return PositionPrior()
    return PositionPrior.fit(_positions(prepared, index)[known], tags[known])


def _train(prepared: Prepared) -> np.ndarray:
    """Rows (N,) of the train split."""
    return np.asarray(prepared.split_indices("train"))


def _positions(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    """Where in its volume, or among its patient's pictures, each of these rows (N,) lies, 0 .. 1."""
    return np.array([float(prepared.index[i]["position"]) for i in rows])
