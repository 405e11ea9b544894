"""Worlds in which the exact denoiser and classifier are one line each, so that methods have known answers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule


@dataclass
class GaussianWorld:
    """x_0 | y ~ N(background + y * lesion, sigma²), pixel by pixel.

    Stands in for a denoiser: `embed(y)` is y itself and ε_θ is exact for every mixture of conditions.
    """

    background: Tensor  # (C, S, S)
    lesion: Tensor  # (C, S, S)
    sigma: float
    schedule: NoiseSchedule

    def embed(self, y: int | Tensor) -> Tensor:
        return torch.as_tensor(y, dtype=torch.float32).reshape(-1, 1)

    def mean(self, e: Tensor) -> Tensor:
        return self.background + e[:, :, None, None] * self.lesion

    def __call__(self, x: Tensor, t: int, e: Tensor) -> Tensor:
        a = float(self.schedule.alpha_bar[t])
        return (x - a**0.5 * self.mean(e)) * (1 - a) ** 0.5 / (a * self.sigma**2 + 1 - a)

    def logits(self, x: Tensor, t: int) -> Tensor:
        """Exact log p(x_t | y), up to what both labels share: a classifier with equal priors."""
        a = float(self.schedule.alpha_bar[t])
        variance = a * self.sigma**2 + 1 - a
        means = (self.mean(torch.full((len(x), 1), float(y))) for y in (0, 1))
        return torch.stack(
            [-((x - a**0.5 * m) ** 2).flatten(1).sum(1) / (2 * variance) for m in means], dim=1
        )


def square_world(size: int = 16, channels: int = 1, contrast: float = 0.8) -> GaussianWorld:
    """A bright square on a sloping background."""
    slope = torch.linspace(-0.5, 0.2, size).expand(channels, size, size).clone()
    lesion = torch.zeros(channels, size, size)
    lesion[:, 4:9, 6:12] = contrast
    return GaussianWorld(slope, lesion, 0.3, NoiseSchedule.linear())
