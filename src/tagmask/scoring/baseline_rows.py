"""The rows of the table: the method, and what knows next to nothing, each stamped with what it read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.data.prepared import Prepared
from tagmask.errors import InputError
from tagmask.grids import plan
from tagmask.scoring.baselines import IntensitySearch, MeanMask, PositionPrior
from tagmask.scoring.panels import Loaded
from tagmask.scoring.results import TOLD
from tagmask.scoring.truth import SliceInfo
from tagmask.slices import SliceSettings, join
from tagmask.thresholds import otsu
from tagmask.types import Study

__all__ = [
    "Filled",
    "LoadedCase",
    "Row",
    "intensity_rows",
    "mean_mask_rows",
    "plain_rows",
    "position_prior",
    "told_rows",
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
    image : (C, I, J, K) float32, optional
        The source, its channels on one scale (`tagmask.thresholds.on_one_scale`).
    info
        What tables say of each slice; None for a slice that they do not list.
    positions : (D,) float
        Where in its volume each slice lies, 0 .. 1; for a single picture, among its patient's.
    """

    study: Study
    axis: int
    truth: np.ndarray
    mask: np.ndarray
    scores: np.ndarray | None
    image: np.ndarray | None
    info: list[SliceInfo | None]
    positions: np.ndarray

    @property
    def depth(self) -> int:
        """Number of slices."""
        return int(self.truth.shape[self.axis])

    def cut(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Give a view of one slice of an (..., I, J, K) volume."""
        return np.moveaxis(volume, self.axis - 3, -1)[..., index]

    def shown(self) -> Loaded:
        """Give image, truth, mask and scores for a panel of the report."""
        if self.image is None:
            return replace(self.study, sources=()), self.truth, self.mask, self.scores
        return replace(self.study, image=self.image), self.truth, self.mask, self.scores

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


def intensity_rows(
    test: Iterable[LoadedCase], val: Iterable[LoadedCase], where: Path | None
) -> tuple[list[Row], list[str]]:
    """Give the rows of the best intensity rule: chosen on val masks, and on the very masks it is scored on.

    Parameters
    ----------
    test, val
        Cases with their images; no val cases, no such row.
    where
        The val set, for messages.

    Returns
    -------
    rows, notes
        The notes say which rows are absent and why.

    Raises
    ------
    InputError
        A val set without a picture that shows the target.
    """
    rows: list[Row] = []
    if where is not None:
        found = _search(val)
        if not found.slices:
            what = "no slice with an image shows the target."
            raise InputError(what, where=where, repair="Give a val set with images and masks.")
        rows.append(_intensity_row("intensity_val", "best intensity threshold", "val masks", found))
    found = _search(test)
    if found.slices:
        rows.append(_intensity_row("intensity_oracle", "intensity oracle", "test masks", found))
    absent = "The best intensity threshold is absent: no val set was given to choose it on."
    return rows, [] if where is not None else [absent]


def _search(cases: Iterable[LoadedCase]) -> IntensitySearch:
    """Try every intensity rule on the slices of some cases that show the target. It reads their masks."""
    found = IntensitySearch()
    for case in cases:
        if case.image is not None:
            for k in range(case.depth):
                truth = case.cut(case.truth, k)
                if truth.any():
                    found.add(case.cut(case.image, k), truth)
    return found


def _intensity_row(key: str, title: str, reads: str, found: IntensitySearch) -> Row:
    """Give the row of the best rule of a search."""
    rule, value = found.best()
    chosen = {
        "fraction": rule.fraction,
        "shave_px": rule.shave,
        "dark": rule.dark,
        "channel": "mean" if rule.channel is None else rule.channel,
        "dice_where_chosen": value,
        "slices": found.slices,
    }
    return Row(key, title, reads, lambda case: case.each_slice(rule.apply), chosen)


def mean_mask_rows(prepared: Prepared) -> list[Row]:
    """Give the rows that mark where the train masks lie on average, over all slices and by position.

    Raises
    ------
    InputError
        The folder was not prepared supervised, or has no train split.
    """
    masks, index = prepared.open_masks(), _train(prepared)
    masks, positions = np.asarray(masks[index]), np.nan_to_num(prepared.positions[index], nan=0.5)
    rows = []
    for key, title, bins in (
        ("mean_train_mask", "mean of the train masks", 1),
        ("mean_train_mask_by_position", "mean of the train masks at that position", 10),
    ):
        mean = MeanMask.fit(masks, positions, bins=bins)
        chosen = {"threshold": mean.threshold, "bins": bins}
        rows.append(Row(key, title, "train masks", _mean_filler(mean, prepared.settings), chosen))
    return rows


def told_rows(rows: Iterable[Row]) -> list[Row]:
    """Give trivial rows that are told what the method was told: empty masks where it was handed the tag 0.

    A method that was handed the tags has the slices without a target for nothing, and so must what it is compared
    with. On slices with tag 1 these rows are those they are made of.
    """
    found = []
    for row in rows:
        if row.row in ("all_foreground", "intensity_val"):
            reads = TOLD if row.reads == "nothing" else f"{row.reads}, {TOLD}"
            title = f"{row.title}, told the tags"
            found.append(replace(row, row=f"{row.row}_told", title=title, reads=reads, fill=_told(row.fill)))
    return found


def _told(fill: Callable[[LoadedCase], Filled]) -> Callable[[LoadedCase], Filled]:
    """Empty the masks of slices whose tag the method was handed as 0."""

    def told(case: LoadedCase) -> Filled:
        mask, scores = fill(case)
        mask = mask.copy()
        for k, info in enumerate(case.info):
            if info is not None and info.given == 0:
                case.cut(mask, k)[...] = False
        return mask, scores

    return told


def _mean_filler(mean: MeanMask, settings: SliceSettings) -> Callable[[LoadedCase], Filled]:
    """Bring the map of each slice to a case's grid."""

    def fill(case: LoadedCase) -> Filled:
        grid = plan(case.study, settings.plane, settings.size)
        score = join(mean.at(case.positions), grid)
        return score > mean.threshold, score

    return fill


def position_prior(prepared: Prepared | None) -> PositionPrior:
    """Give the rule that knows a slice's position only: from the train tags, or without any."""
    if prepared is None:
        return PositionPrior()
    index = _train(prepared)
    tags, positions = prepared.labels[index], prepared.positions[index]
    known = (tags >= 0) & np.isfinite(positions)
    return PositionPrior.fit(positions[known], tags[known]) if known.any() else PositionPrior()


def _train(prepared: Prepared) -> np.ndarray:
    """Rows (N,) of the train split.

    Raises
    ------
    InputError
        There is none.
    """
    index = prepared.split_indices("train")
    if not len(index):
        what = "the prepared folder has no train split."
        raise InputError(what, where=prepared.path, repair="Give the folder that the method was trained on.")
    return index
