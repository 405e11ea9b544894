"""Features of a frozen backbone for a batch, each picture's and variant's computed once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from tagmask.networks.feature_cache import FeatureCache

__all__ = ["MEMORY", "KeptFeatures", "kept", "shared_features"]

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


_SHARED: ContextVar[dict[Hashable, KeptFeatures] | None] = ContextVar("_SHARED", default=None)


@contextmanager
def shared_features() -> Iterator[None]:
    """Let the trainings of a block go on with what the one before has kept, where backbone and data are the same.

    Heads that differ in anything else, such as the ablations of one, then compute no feature twice. Those of one
    backbone are held, until another one comes or the block ends.
    """
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def kept(of: Hashable, make: Callable[[], KeptFeatures]) -> KeptFeatures:
    """Give what an earlier training of the block has kept of the same, else new ones.

    Parameters
    ----------
    of
        All that features depend on.
    """
    shared = _SHARED.get()
    if shared is None:
        return make()
    if of not in shared:
        shared.clear()
        shared[of] = make()
    return shared[of]
