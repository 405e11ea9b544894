"""Where slices lie in a study, how they are turned for display, and how they are resampled."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from tagmask.types import Study

__all__ = ["FILE_AXIS", "NORMAL", "Grid", "Plane", "plan", "resize"]

Plane = Literal["axial", "coronal", "sagittal", "i", "j", "k"]
NORMAL = {"sagittal": 0, "coronal": 1, "axial": 2}
"""The anatomical axis that a plane's slices are counted along: 0 right, 1 anterior, 2 superior."""
FILE_AXIS = {"i": 0, "j": 1, "k": 2}


@dataclass(frozen=True)
class Grid:
    """Where the slices of a study lie: all that is needed to go back.

    Parameters
    ----------
    shape
        (I, J, K) of the study.
    axis
        The file's axis that counts the slices, in the file's own direction.
    rows, cols
        The file's axes that become rows and columns of a slice.
    flip_rows, flip_cols
        Whether they run backwards in a slice, so that rows run A to P or S to I and columns R to L or A to P.
    content
        (height, width) in pixels of the image inside the square; the rest is padding, even on both sides.
    size
        S.
    """

    shape: tuple[int, int, int]
    axis: int
    rows: int
    cols: int
    flip_rows: bool
    flip_cols: bool
    content: tuple[int, int]
    size: int

    @property
    def depth(self) -> int:
        """D, the number of slices."""
        return self.shape[self.axis]

    def plane_of(self, volume: np.ndarray, index: int) -> np.ndarray:
        """Give a view of one slice of an (I, J, K) volume, turned for display: (height, width) in voxels."""
        view = volume[(slice(None),) * self.axis + (index,)]
        if self.rows > self.cols:
            view = view.T
        return view[:: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]

    @property
    def window(self) -> tuple[slice, slice]:
        """Give the rows and columns of the square that hold the image."""
        top, left = ((self.size - n) // 2 for n in self.content)
        return slice(top, top + self.content[0]), slice(left, left + self.content[1])


def plan(study: Study, plane: Plane, size: int) -> Grid:
    """Decide which axis counts slices, how they are turned, and how much of the square they fill.

    Parameters
    ----------
    study
        Its shape, affine and kind count.
    plane, size
        As in SliceSettings.
    """
    if study.kind == "picture" or study.affine is None:
        axis, rows, cols, flips = 2, 0, 1, (False, False, False)
        edges = study.spacing or (1.0, 1.0, 1.0)
    else:
        anatomy, flips = _orientation(study.affine)
        thin = [a for a in range(3) if study.shape[a] == 1]
        if plane in FILE_AXIS:
            axis = FILE_AXIS[plane]
        elif len(thin) == 1:
            # Across the only slice there is, any other plane would be one pixel wide.
            axis = thin[0]
        else:
            axis = anatomy.index(NORMAL[plane])
        # Of the two axes in plane, the one nearer to S (else A) runs down the picture.
        cols, rows = sorted((a for a in range(3) if a != axis), key=lambda a: anatomy[a])
        edges = study.spacing or (1.0, 1.0, 1.0)
    height, width = study.shape[rows] * edges[rows], study.shape[cols] * edges[cols]
    pixel = max(height, width) / size
    content = tuple(min(size, max(1, round(length / pixel))) for length in (height, width))
    return Grid(
        shape=study.shape,
        axis=axis,
        rows=rows,
        cols=cols,
        flip_rows=flips[rows],
        flip_cols=flips[cols],
        content=(content[0], content[1]),
        size=size,
    )


def _orientation(affine: np.ndarray) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """Give for each file axis the nearest anatomical one (0 R, 1 A, 2 S), and whether it runs that way.

    Of the six ways to pair them, the one whose cosines add up to most.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    best = max(
        itertools.permutations(range(3)),
        key=lambda pairing: sum(abs(cosines[a, f]) for f, a in enumerate(pairing)),
    )
    i, j, k = best
    positive = [bool(cosines[a, f] > 0) for f, a in enumerate(best)]
    return (i, j, k), (positive[0], positive[1], positive[2])


def resize(plane: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample a (height, width) float32 array bilinearly, antialiased where it shrinks.

    Where the shape is the same, the array itself is given. Slices are resampled one by one: each comes out
    the same whatever its company, and a volume is never held twice.
    """
    if plane.shape == shape:
        return plane
    image = torch.from_numpy(np.ascontiguousarray(plane))[None, None]
    out = functional.interpolate(image, size=shape, mode="bilinear", align_corners=False, antialias=True)
    return out[0, 0].numpy()
