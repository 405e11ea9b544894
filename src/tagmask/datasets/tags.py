"""Slice tags from segmentations, for data sets that come with masks and without tags.

This is a conversion: what a method is to learn from is one bit a slice, and nobody has published it. Masks are
opened here, once, and nothing of them goes on but that bit; the prepared folder says `tags_from = "masks"`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np

from tagmask.data.cohort import Problem
from tagmask.data.table import Case
from tagmask.errors import ConfigError, TagmaskError
from tagmask.grids import Grid, Plane, plan
from tagmask.io import check_grid, read_header, read_study
from tagmask.thresholds import body, on_one_scale
from tagmask.types import Study

__all__ = ["TagSettings", "tag_slices"]

log = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")
Each = Callable[[Callable[[A], B], Iterable[A]], Iterable[B]]


@dataclass(frozen=True)
class TagSettings:
    """How a segmentation becomes tags.

    Parameters
    ----------
    plane
        The plane of the slices, as in SliceSettings.
    labels
        Values of the segmentation that are the target; None is all above 0. One pixel makes a tag 1.
    min_area_frac
        Slices of the test split whose target covers less than this share are dropped, and with them all
        slices without target (0.05 in Hu et al. 2023 on CHAOS; 0 drops none).
    area_of
        What the share is of: "slice", or "body", the pixels above 2.5 % of the case's grey range.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    plane: Plane = "axial"
    labels: tuple[int, ...] | None = None
    min_area_frac: float = 0.0
    area_of: Literal["slice", "body"] = "slice"

    def __post_init__(self) -> None:
        if not 0 <= self.min_area_frac < 1:
            raise ConfigError(
                f"{self.min_area_frac} is no share.", where="min_area_frac", repair="Use 0 <= share < 1."
            )
        if self.area_of not in ("slice", "body"):
            raise ConfigError(
                f"{self.area_of!r} is not allowed.", where="area_of", repair="Use slice or body."
            )


def tag_slices(
    cases: Sequence[Case], settings: TagSettings, each: Each[Case, list[Case] | Problem] = map
) -> tuple[list[Case], list[Problem], list[Problem]]:
    """Give a row for each slice of volumes, tagged by their masks.

    Parameters
    ----------
    cases
        Whole volumes with a mask each, and with their split.
    each
        How to go through the cases; as `map`, whose order it keeps.

    Returns
    -------
    tuple of list
        Rows; cases left out; warnings.
    """
    rows: list[Case] = []
    failed: list[Problem] = []
    tests = kept = 0
    for case, found in zip(cases, each(lambda case: _tagged(case, settings), cases), strict=True):
        if isinstance(found, Problem):
            failed.append(found)
            continue
        if settings.min_area_frac and case.split == "test":
            tests += len(found)
            found = [row for row in found if row.label is not None]
            kept += len(found)
        rows += found
    if not tests:
        return rows, failed, []
    what = (
        f"Of {tests} test slices, {kept} show the target on at least {settings.min_area_frac:.3g} of the "
        f"{settings.area_of}; the others are left out."
    )
    log.info(what)
    repair = "Lower min_area_frac if too few are left." if kept else "Lower min_area_frac."
    return rows, failed, [Problem("warning", "", str(cases[0].source), what, repair)]


def _tagged(case: Case, settings: TagSettings) -> list[Case] | Problem:
    """Give the rows of a volume; a test slice below the least area has no label. Errors become a Problem."""
    try:
        return _rows(case, settings)
    except TagmaskError as error:
        return Problem("failed", case.study, error.where or case.where, error.what, error.repair)
    except Exception as error:  # one bad case never stops the others
        log.warning("case %s failed", case.study, exc_info=True)
        what = f"{type(error).__name__}: {error}"
        return Problem("failed", case.study, case.where, what, "Leave it out, and report this.")


def _rows(case: Case, settings: TagSettings) -> list[Case]:
    # Imported here: for a data set with tags, nothing gets this far.
    from tagmask.io import read_mask

    assert case.mask is not None
    header = read_header(case.images[0])
    mask = read_mask(case.mask, labels=settings.labels, image=case.images[0])
    check_grid((mask.array.shape, mask.affine), (header.shape, header.affine), case.mask, case.images[0].name)
    grid = plan(Study(case.id, mask.array[None], header.affine, header.kind, ()), settings.plane, 1)
    area = _areas(mask.array, grid)
    labels: list[int | None] = [int(n > 0) for n in area.tolist()]
    if settings.min_area_frac and case.split == "test":
        enough = area >= settings.min_area_frac * _wholes(case, settings, grid)
        labels = [label if label and big else None for label, big in zip(labels, enough, strict=True)]
    return [replace(case, id=f"{case.id}/{k}", slice=k, label=label) for k, label in enumerate(labels)]


def _areas(volume: np.ndarray, grid: Grid) -> np.ndarray:
    """Give the (D,) number of pixels of each slice that are set."""
    others = tuple(axis for axis in range(3) if axis != grid.axis)
    return np.asarray(np.count_nonzero(volume, axis=others))


def _wholes(case: Case, settings: TagSettings, grid: Grid) -> np.ndarray:
    """Give the (D,) number of pixels that a share is of."""
    if settings.area_of == "slice":
        return np.full(grid.depth, grid.shape[grid.rows] * grid.shape[grid.cols])
    study = read_study(case.images, id=case.id)
    return _areas(body(on_one_scale(study.image, study.kind)), grid)
