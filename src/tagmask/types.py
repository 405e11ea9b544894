"""The records that travel: a study as read, a batch of slices, what a method says of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Batch", "Method", "Prediction", "Study"]


@dataclass(frozen=True)
class Study:
    """One image as it lies on disk: intensities untouched, axes in the file's own order.

    Parameters
    ----------
    id
        Name of the case, unique within one job; names the output files.
    image : (C, I, J, K) float32
        Raw intensities. A picture has shape (C, rows, columns, 1).
    affine : (4, 4) float64, optional
        Voxel index to millimetres, RAS+ as in NIfTI. None for pictures.
    kind
        "volume" (NIfTI, DICOM: results are NIfTI) or "picture" (results are PNG and TIFF).
    sources
        The files read, one per channel, or a DICOM folder.
    """

    id: str
    image: np.ndarray
    affine: np.ndarray | None
    kind: Literal["volume", "picture"]
    sources: tuple[Path, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(I, J, K), the study's own grid."""
        _, i, j, k = self.image.shape
        return i, j, k

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel edges in mm along I, J, K; None where it is not known."""
        if self.affine is None:
            return None
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)


@dataclass(frozen=True)
class Batch:
    """Slices on the network's grid.

    Parameters
    ----------
    image : (B, C, S, S) float32 in [-1, 1]
    ids
        "study/slice", unique. Noise is keyed by these, so a slice gets the same noise in any company.
    label : (B,) int64, optional
        Image tags: 1 target present, 0 absent.
    """

    image: Tensor
    ids: tuple[str, ...]
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """Give the same batch on another device."""
        label = None if self.label is None else self.label.to(device)
        return replace(self, image=self.image.to(device), label=label)


@dataclass(frozen=True)
class Prediction:
    """What a method says of a batch.

    Parameters
    ----------
    score_map : (B, 1, S, S) float32
        Higher where the target is more likely. The unit belongs to the method.
    """

    score_map: Tensor


class Method(Protocol):
    """A paper's way from images to score maps: a frozen dataclass of networks and settings."""

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Score every pixel of a batch. Same slice, same seed: same map, whatever the company."""
        ...
