"""Which slices a training step sees: a function of (seed, step), so that any step can be repeated."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tagmask.errors import ConfigError
from tagmask.seeds import keyed

__all__ = ["Sampler"]


@dataclass(frozen=True)
class Sampler:
    """Draw batches without replacement, epoch after epoch, each epoch in a new order.

    Parameters
    ----------
    labels : (N,) int64
        The tag of every training slice.
    batch
        Slices a step.
    balance
        Take as many slices of either tag, each tag with epochs of its own. An odd batch has one more of tag 0.
    """

    labels: Tensor
    batch: int
    balance: bool
    seed: int
    _orders: dict[tuple[int, int], Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.balance and len(set(self.labels.tolist())) < 2:
            raise ConfigError(
                f"all {len(self.labels)} training slices have tag {int(self.labels[0])}, so batches cannot be "
                "balanced, and no condition can be learnt from them.",
                repair="Prepare a table with slices of both tags in the train split.",
            )

    def indices(self, step: int) -> Tensor:
        """Positions in `labels` of the slices of one step (step = 1, 2, ...).

        Returns
        -------
        Tensor : (batch,) int64
        """
        if not self.balance:
            return self._take(-1, self.batch, step)
        return torch.cat(
            [self._take(0, self.batch - self.batch // 2, step), self._take(1, self.batch // 2, step)]
        )

    def _take(self, tag: int, count: int, step: int) -> Tensor:
        pool = torch.arange(len(self.labels)) if tag < 0 else (self.labels == tag).nonzero()[:, 0]
        start = (step - 1) * count
        places = torch.arange(start, start + count)
        picked = [self._order(tag, int(p) // len(pool), len(pool))[int(p) % len(pool)] for p in places]
        return pool[torch.stack(picked)] if picked else pool[:0]

    def _order(self, tag: int, epoch: int, size: int) -> Tensor:
        if (tag, epoch) not in self._orders:
            for stale in [k for k in self._orders if k[0] == tag and k[1] < epoch - 1]:
                del self._orders[stale]
            generator = keyed(self.seed, "order", tag, epoch)
            self._orders[tag, epoch] = torch.randperm(size, generator=generator)
        return self._orders[tag, epoch]
