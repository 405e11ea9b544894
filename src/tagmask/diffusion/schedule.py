"""The noise schedule: three formulas, counted as the papers count.

Step t = 0 is the clean image and t = T is noise. Networks and other libraries count from 0 to T - 1;
that shift is made in `tagmask.networks` and nowhere else.

References
----------
Ho, Jain, Abbeel 2020, "Denoising diffusion probabilistic models", https://arxiv.org/abs/2006.11239.
Song, Meng, Ermon 2021, "Denoising diffusion implicit models", https://arxiv.org/abs/2010.02502.
Nichol, Dhariwal 2021, "Improved denoising diffusion probabilistic models" (cosine),
https://arxiv.org/abs/2102.09672.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tagmask.errors import ConfigError

__all__ = ["NoiseSchedule", "ScheduleSettings"]


@dataclass(frozen=True)
class ScheduleSettings:
    """Which schedule a denoiser was, or is to be, trained with.

    Parameters
    ----------
    kind
        "linear" (Ho 2020, Sect. 4; β from 1e-4 to 0.02 at T = 1000, scaled by 1000 / T) or
        "cosine" (Nichol 2021, Eq. 17).
    steps
        T. At least 21 for "linear", whose largest β, 20 / T, must stay below 1; at least 2 for "cosine".

    Raises
    ------
    ConfigError
        Fewer steps.
    """

    kind: Literal["linear", "cosine"] = "linear"
    steps: int = 1000

    def __post_init__(self) -> None:
        least = 21 if self.kind == "linear" else 2
        if self.steps < least:
            raise ConfigError(
                f"schedule.steps = {self.steps}, but a {self.kind} schedule has at least {least} steps.",
                repair="Use 1000 unless a checkpoint says otherwise.",
            )

    def build(self) -> NoiseSchedule:
        """Compute ᾱ."""
        return (NoiseSchedule.linear if self.kind == "linear" else NoiseSchedule.cosine)(self.steps)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """ᾱ_t for t = 0 ... T.

    Parameters
    ----------
    alpha_bar : (T + 1,) float64
        alpha_bar[0] == 1.

    Examples
    --------
    >>> schedule = NoiseSchedule.linear()
    >>> round(float(schedule.alpha_bar[400]), 4)
    0.1951
    """

    alpha_bar: Tensor

    @classmethod
    def linear(cls, steps: int = 1000) -> NoiseSchedule:
        """β_t linear in t (Ho et al. 2020, Sect. 4)."""
        scale = 1000 / steps
        return cls._from_beta(torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64))

    @classmethod
    def cosine(cls, steps: int = 1000) -> NoiseSchedule:
        """ᾱ_t a squared cosine, β_t at most 0.999 (Nichol & Dhariwal 2021, Eq. 17)."""
        u = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls._from_beta((1 - f[1:] / f[:-1]).clamp(max=0.999))

    @classmethod
    def _from_beta(cls, beta: Tensor) -> NoiseSchedule:
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - beta, 0)]))

    @property
    def steps(self) -> int:
        """T."""
        return len(self.alpha_bar) - 1

    def signal_noise(self, t: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t), in the dtype and on the device of `like` (B, ...), ready to broadcast.

        Parameters
        ----------
        t
            One step, or (B,) int64 with a step for each member.
        """
        a = self.alpha_bar[t.cpu() if isinstance(t, Tensor) else t]
        if a.ndim:
            a = a.reshape(-1, *[1] * (like.ndim - 1))
        return a.sqrt().to(like), (1 - a).sqrt().to(like)

    def add_noise(self, x0: Tensor, t: int | Tensor, noise: Tensor) -> Tensor:
        """Draw x_t ~ q(x_t | x_0), given the noise (Ho et al. 2020, Eq. 4)."""
        signal, sigma = self.signal_noise(t, x0)
        return signal * x0 + sigma * noise

    def clean(self, x: Tensor, t: int | Tensor, eps: Tensor) -> Tensor:
        """Solve `add_noise` for x_0 (Song et al. 2021, Eq. 9)."""
        signal, sigma = self.signal_noise(t, x)
        return (x - sigma * eps) / signal

    def clip(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        """Give the ε that belongs to x̂_0 cut to [-1, 1]; equal to `eps` where nothing is cut.

        Published code clips in every step by default; the equations of the papers do not.
        """
        signal, sigma = self.signal_noise(t, x)
        return (x - signal * self.clean(x, t, eps).clamp(-1, 1)) / sigma

    def ddim(self, x: Tensor, eps: Tensor, t: int, s: int) -> Tensor:
        """Move from step t to step s without randomness (Song et al. 2021, Eq. 12, σ = 0).

        s < t removes noise; s > t encodes the image into noise.
        """
        return self.add_noise(self.clean(x, t, eps), s, eps)

    def ddpm(self, x: Tensor, eps: Tensor, t: int, s: int, noise: Tensor) -> Tensor:
        """Draw x_s, s < t, from the reverse process that visits s and t, with the larger of its variances.

        With s = t - 1 that is β_t (Ho et al. 2020, Alg. 2), with steps left out 1 - ᾱ_t / ᾱ_s (Nichol & Dhariwal
        2021, Sect. 4). Towards s = 0 no noise is added, as in the algorithm.
        """
        a, before = self.alpha_bar[t], self.alpha_bar[s]
        beta = 1 - a / before
        x0 = self.clean(x, t, eps)
        mean = beta * before.sqrt() / (1 - a) * x0 + (1 - before) * (1 - beta).sqrt() / (1 - a) * x
        return (mean + beta.sqrt() * noise if s > 0 else mean).to(x)
