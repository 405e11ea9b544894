"""AnoDDPM: noise the image part of the way, and let a network that knows healthy slices alone denoise it.

J. Wyatt, A. Leach, S. M. Schmon, C. G. Willcocks, "AnoDDPM: Anomaly detection with denoising diffusion
probabilistic models using simplex noise", CVPR Workshops 2022, https://doi.org/10.1109/CVPRW56347.2022.00080.
Where the paper, its code and AnoFPDM's comparison with it part ways:
docs/adr/0009-reconstruction-methods-paper-and-code.md.

    λ, E_sq  ->  noise_level, score_map
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.reconstruction import check_ladder, check_level, pick, stops
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.diffusion.simplex import simplex
from tagmask.networks.denoiser import Denoiser
from tagmask.types import ABSENT, Batch, Prediction

__all__ = ["AnoDDPM", "AnoDDPMSettings"]


@dataclass(frozen=True)
class AnoDDPMSettings:
    """The paper's hyper-parameters.

    Parameters
    ----------
    noise_level
        λ, the step the image is noised to. 0 < λ <= T.
    noise
        "gaussian" or "simplex": what the network was trained to remove.
    reverse_noise
        The noise that is added again in every step back; None takes the same kind, as AnoFPDM's comparison
        does. The authors' code adds Gaussian noise unless told otherwise.
    stride
        Take every stride-th step of the way back. The paper takes all.
    modalities
        Channels that are compared, from 0; None compares all.
    clip
        Cut x̂_0 to [-1, 1] in every step, as AnoFPDM's comparison does.
    """

    noise_level: int = 250
    noise: Literal["gaussian", "simplex"] = "gaussian"
    reverse_noise: Literal["gaussian", "simplex"] | None = None
    stride: int = 1
    modalities: tuple[int, ...] | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        check_ladder(self.noise_level, self.stride, self.modalities)


@dataclass(frozen=True)
class AnoDDPM:
    """Rebuild the image as a network would have it that never saw a target; what changes is the target.

    Parameters
    ----------
    denoiser, schedule
        ε_θ and the schedule it was trained with, on images without the target alone.
    settings
        λ and the noise.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    settings: AnoDDPMSettings = AnoDDPMSettings()

    def __post_init__(self) -> None:
        check_level(self.settings.noise_level, self.schedule)

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Score each pixel by (x_0 - x̂_0)², averaged over channels; in squared grey values of [-1, 1]."""
        s = self.settings
        change = pick(batch.image, s.modalities) - pick(self.reconstruct(batch, seed), s.modalities)
        return Prediction(score_map=change.square().mean(dim=1, keepdim=True))

    @torch.no_grad()
    def reconstruct(self, batch: Batch, seed: int = 0) -> Tensor:
        """Give x̂_0, the healthy counterpart of the images: (B, C, S, S) float32."""
        s, healthy = self.settings, self.denoiser.embed(ABSENT)  # an unconditional network has no other
        start = _noise(s.noise, batch, seed, draw=0, t=s.noise_level)
        x = self.schedule.add_noise(batch.image, s.noise_level, start)  # q(x_λ | x_0)
        for t, below in pairwise(reversed(stops(s.noise_level, s.stride))):  # p_θ(x_{t-1} | x_t)
            eps = self.denoiser(x, t, healthy)
            eps = self.schedule.clip(x, t, eps) if s.clip else eps
            x = self.schedule.ddpm(
                x, eps, t, below, _noise(s.reverse_noise or s.noise, batch, seed, draw=t, t=t)
            )
        return x


def _noise(kind: str, batch: Batch, seed: int, draw: int, t: int) -> Tensor:
    """Draw the noise of one step, keyed by slice, seed and draw."""
    return simplex(batch, seed, draw, t=t) if kind == "simplex" else gaussian(batch, seed, draw)
