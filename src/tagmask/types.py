"""The records that travel: a study as read, a batch of slices, what a method says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["ABSENT", "PRESENT", "Batch", "Choice", "Method", "Prediction", "Study", "TextTokens"]

ABSENT, PRESENT = 0, 1
"""The tags, which are the classes of denoisers and classifiers: the papers' y0 or healthy, and y1."""


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
class TextTokens:
    """Sentences as a frozen encoder sees them, one for each slice of a batch.

    Parameters
    ----------
    embedding : (B, L, W) float32
        One vector a token; 0 beyond the end of a sentence.
    mask : (B, L) bool
        Where a token counts. A row without any belongs to a picture without text.
    """

    embedding: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, rows: Tensor | slice) -> TextTokens:
        """Give the sentences of some rows."""
        return TextTokens(self.embedding[rows], self.mask[rows])

    def to(self, device: torch.device | str) -> TextTokens:
        """Give the same sentences on another device."""
        return TextTokens(self.embedding.to(device), self.mask.to(device))


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
    text : TextTokens, optional
        Their sentences; most methods look at none.
    """

    image: Tensor
    ids: tuple[str, ...]
    label: Tensor | None = None
    text: TextTokens | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        """Give the same batch on another device."""
        label = None if self.label is None else self.label.to(device)
        text = None if self.text is None else self.text.to(device)
        return replace(self, image=self.image.to(device), label=label, text=text)


@dataclass(frozen=True)
class Prediction:
    """What a method says of a batch.

    Parameters
    ----------
    score_map : (B, 1, S, S) float32
        Higher where the target is more likely. The unit belongs to the method.
    threshold : (B,) float32, optional
        The method's own threshold of each map, in the map's unit; `mask.rule = "method"` takes it.
    score : (B,) float32, optional
        The method's own image-level score: higher where the target is more likely to be in the slice.
    present : (B,) bool, optional
        The method's own image-level decision; comes with `score`.
    uncertainty : (B, 1, S, S) float32, optional
        How unsure the method is of every pixel, 0 where it is sure. The unit belongs to the method.
    """

    score_map: Tensor
    threshold: Tensor | None = None
    score: Tensor | None = None
    present: Tensor | None = None
    uncertainty: Tensor | None = None


@dataclass(frozen=True)
class Choice:
    """What a method chose by tags.

    Parameters
    ----------
    settings
        Setting -> value, to be put into the method's settings: plain values, none of them None, for they are
        written as TOML.
    candidates
        One record for each candidate looked at, with the number it was judged by, in the order tried.
    score
        How good the choice is, higher is better: compares the choices under several values of another setting.
    curve
        Names of two numbers in every candidate, of which `tune` draws the second over the first; none: no figure.
    """

    settings: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    score: float = 0.0
    curve: tuple[str, str] | None = None


class Method(Protocol):
    """A paper's way from images to score maps: a frozen dataclass of networks and settings."""

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Score every pixel of a batch. Same slice, same seed: same map, whatever the company."""
        ...
