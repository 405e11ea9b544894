"""CDM and CG-CDM: conditional diffusion models for weakly supervised segmentation.

X. Hu, Y.-J. Chen, T.-Y. Ho, Y. Shi, MICCAI 2023, https://doi.org/10.1007/978-3-031-43901-8_72.
Read beside Algorithm 1. Where the paper and its published code part ways: docs/adr/0003-cdm-paper-and-code.md.

    Q, R, τ, s, f(y)  ->  noise_level, stages, tau, scale, denoiser.embed(y)
    x_t, x'_t, a      ->  x, x_near, a
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from tagmask.config import ADDED
from tagmask.diffusion.guidance import classifier_guidance, label_gradient
from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.classifier import Classifier
from tagmask.networks.denoiser import Denoiser
from tagmask.types import ABSENT, PRESENT, Batch, Prediction

__all__ = ["CDM", "CDMSettings"]


@dataclass(frozen=True)
class CDMSettings:
    """The paper's hyper-parameters, then what its code does otherwise.

    Parameters
    ----------
    noise_level, stages
        Q, the step the image is noised to, and R, the steps walked back. 0 < R <= Q <= T.
    tau
        τ in [0, 1), the share of f(y1) that the second walk keeps. 0 compares y1 with y0 outright. By the
        "formula" in (0, 1], where 1 does.
    scale
        s >= 0, the weight of the classifier's gradient. Read by CG-CDM alone.
    draws
        Independent noises whose maps are averaged. The paper takes one.
    tau_convention
        "code" keeps τ of f(y1), as Sect. 3.2 and the authors' code do; "formula" keeps 1 - τ, as Eq. 6
        and Algorithm 1 print.
    clip
        Cut x̂_0 to [-1, 1] in every step before guidance, as the authors' code does and Eq. 5 does not.
    offset
        Steps by which the image is noised beyond Q. 1 repeats the published code's slip (noised at
        index 400, denoised from 399).
    sign
        "positive": the signed difference x - x', as printed; a target darker than its surround scores negative.
        "negative": x' - x, for such targets. "absolute": |x - x'|, as the authors' CHAOS script sums.
    min_max
        Scale each map to [0, 1], as the authors' code does. Otsu's threshold and shares of the pixels do not mind; one
        threshold for all slices, as Che et al. 2024 gave CG-CDM, needs it.
    """

    noise_level: int = 400
    stages: int = 10
    tau: float = 0.95
    scale: float = 10.0
    draws: int = 1
    tau_convention: Literal["code", "formula"] = "code"
    clip: bool = False
    offset: int = 0
    sign: Literal["positive", "negative", "absolute"] = "positive"
    min_max: bool = field(default=False, metadata=ADDED)

    def __post_init__(self) -> None:
        if not 0 < self.stages <= self.noise_level:
            raise ConfigError(
                f"stages = {self.stages} and noise_level = {self.noise_level}, but 0 < stages <= noise_level "
                "must hold: the walk goes back from the noise level, one step a stage.",
            )
        if not 0 <= self.share_of_f1 < 1:
            same, bounds = (1, "0 <= tau < 1") if self.tau_convention == "code" else (0, "0 < tau <= 1")
            raise ConfigError(
                f"tau = {self.tau}, but {bounds} must hold: at {same} both walks have the same condition.",
                repair='The paper uses 0.95 with tau_convention = "code".',
            )
        if self.scale < 0 or self.draws < 1 or self.offset not in (0, 1):
            raise ConfigError(
                f"scale = {self.scale}, draws = {self.draws}, offset = {self.offset}, but scale >= 0, "
                "draws >= 1 and offset 0 or 1 must hold.",
            )

    @property
    def share_of_f1(self) -> float:
        """Weight of f(y1) in the condition of x', Eq. 6."""
        return self.tau if self.tau_convention == "code" else 1 - self.tau


@dataclass(frozen=True)
class CDM:
    """Find the pixels that move when the condition leaves y1 (target present) for y0 (absent).

    Parameters
    ----------
    denoiser, schedule
        ε_θ and the schedule it was trained with, on images of both labels.
    classifier
        p_φ(y | x_t). With it the method is the paper's CG-CDM.
    settings
        Q, R, τ, s and the published deviations.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    classifier: Classifier | None = None
    settings: CDMSettings = CDMSettings()

    def __post_init__(self) -> None:
        top = self.settings.noise_level + self.settings.offset
        if top > self.schedule.steps:
            raise ConfigError(
                f"noise_level = {self.settings.noise_level}, but the network was trained with "
                f"{self.schedule.steps} steps.",
                repair=f"Choose a noise level of at most {self.schedule.steps - self.settings.offset}.",
            )

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Algorithm 1, averaged over draws of the noise.

        The score map has no unit: compare its values within one image only, unless `min_max` has scaled it.
        """
        walks = (self.walk(batch, gaussian(batch, seed, draw)) for draw in range(self.settings.draws))
        return self.mean([deque(walk, maxlen=1).pop() for walk in walks])  # the sum after all R stages

    def mean(self, maps: Sequence[Tensor]) -> Prediction:
        """Average the maps (B, 1, S, S) of some draws, and scale the average of each image if that is asked for."""
        a = torch.stack(list(maps)).mean(dim=0)
        if self.settings.min_max:
            low, high = a.amin(dim=(1, 2, 3), keepdim=True), a.amax(dim=(1, 2, 3), keepdim=True)
            a = (a - low) / torch.where(high > low, high - low, 1)
        return Prediction(score_map=a)

    @torch.no_grad()
    def walk(self, batch: Batch, noise: Tensor) -> Iterator[Tensor]:
        """Algorithm 1 for one draw: yields the map after every stage, so one walk serves each smaller R.

        Parameters
        ----------
        noise : (B, C, S, S) float32

        Yields
        ------
        Tensor : (B, 1, S, S) float32
        """
        s, n = self.settings, len(batch)
        keep = s.share_of_f1
        f1, f0 = self.denoiser.embed(PRESENT), self.denoiser.embed(ABSENT)
        near_f1 = keep * f1 + (1 - keep) * f0  # Eq. 6
        # Both walks go through the network as one batch: [x; x'].
        e = torch.cat([f1.expand(n, -1), near_f1.expand(n, -1)])
        y = torch.tensor([PRESENT, ABSENT], device=noise.device).repeat_interleave(n)

        x = self.schedule.add_noise(batch.image, s.noise_level + s.offset, noise).repeat(2, 1, 1, 1)  # Eq. 2
        a = torch.zeros_like(batch.image)
        for t in range(s.noise_level, s.noise_level - s.stages, -1):
            x = self.schedule.ddim(x, self._eps(x, t, e, y), t, t - 1)  # Eq. 5
            step = (x[:n] - x[n:]) / (1 - keep)  # Eq. 6
            a = a + {"positive": step, "negative": -step, "absolute": step.abs()}[s.sign]
            yield a.sum(dim=1, keepdim=True)

    def _eps(self, x: Tensor, t: int, e: Tensor, y: Tensor) -> Tensor:
        """ε̂, pulled towards labels y if there is a classifier (end of Sect. 2.2)."""
        eps = self.denoiser(x, t, e)
        if self.settings.clip:
            eps = self.schedule.clip(x, t, eps)
        if self.classifier is None or self.settings.scale == 0:
            return eps
        gradient = label_gradient(self.classifier, x, t, y)
        return classifier_guidance(eps, gradient, t, self.settings.scale, self.schedule)
