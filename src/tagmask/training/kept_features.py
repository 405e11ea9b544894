"""Features of a frozen backbone for a batch, each picture's and variant's computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tagmask.networks.feature_cache import FeatureCache

__all__ = ["MEMORY", "KeptFeatures"]

MEMORY = 2 * 2**30
"""Bytes of features that are held in memory; those beyond lie on disk."""


@dataclass(frozen=True)
class KeptFeatures:
    """The features of the slices of a prepared folder.

    Parameters
    ----------
    cache
        Of the backbone.
    device
        Where the backbone is.
    """

    cache: FeatureCache
    device: torch.device | str

    def of(self, rows: Sequence[int], image: Tensor, variants: Tensor | None = None) -> tuple[Tensor, ...]:
        """Give the features of some slices, one (B, C_z, s_z, s_z) float32 for each block, on the device.

        Parameters
        ----------
        rows
            Their places in the folder.
        image : (B, C, S, S) float32
            The slices as they are looked at.
        variants : (B,) int64, optional
            How each was turned and mirrored; without them none was.
        """
        turns = [0] * len(rows) if variants is None else variants.tolist()
        each = [
            self.cache.get((row, turn), one[None].to(self.device))
            for row, turn, one in zip(rows, turns, image, strict=True)
        ]
        return tuple(torch.cat(block) for block in zip(*each, strict=True))
