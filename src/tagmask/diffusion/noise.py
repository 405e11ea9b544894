"""Noise that belongs to a slice: the same slice, seed and draw give the same noise in any company."""

from __future__ import annotations

import torch
from torch import Tensor

from tagmask.seeds import keyed
from tagmask.types import Batch

__all__ = ["gaussian"]


def gaussian(batch: Batch, seed: int, draw: int = 0) -> Tensor:
    """Standard normal noise keyed by (slice id, seed, draw).

    Drawn on the CPU, so that a GPU sees the same numbers.

    Returns
    -------
    Tensor : (B, C, S, S) float32, on the batch's device.
    """
    shape = batch.image.shape[1:]
    fields = [torch.randn(shape, generator=keyed(id, seed, draw)) for id in batch.ids]
    return torch.stack(fields).to(batch.image.device)
