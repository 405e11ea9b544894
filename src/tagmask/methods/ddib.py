"""DDIB: encode without a label, decode towards "healthy" by classifier-free guidance.

P. Sanchez, A. Kascenas, X. Liu, A. Q. O'Neil, S. A. Tsaftaris, "What is healthy? Generative counterfactual
diffusion for lesion localization", DGM4MICCAI 2022, https://arxiv.org/abs/2207.12268; after X. Su, J. Song,
C. Meng, S. Ermon, "Dual diffusion implicit bridges", ICLR 2023, https://arxiv.org/abs/2203.08382. AnoFPDM
(https://arxiv.org/abs/2404.15683) compares with it as "DDIM classifier-free"; the defaults are its.
Where papers and codes part ways: docs/adr/0009-reconstruction-methods-paper-and-code.md.

    L, w, h, ∅  ->  noise_level, weight, ABSENT, embed(None)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from tagmask.diffusion.guidance import classifier_free_guidance
from tagmask.diffusion.reconstruction import check_ladder, check_level, normalised, pick, stops
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.denoiser import Denoiser
from tagmask.types import ABSENT, Batch, Prediction

__all__ = ["DDIB", "DDIBSettings"]


@dataclass(frozen=True)
class DDIBSettings:
    """Hyper-parameters as AnoFPDM's comparison has them, then those of Sanchez et al.

    Parameters
    ----------
    noise_level
        L, the step the image is encoded to. 0 < L <= T.
    weight
        w >= -1 in (1 + w) ε_h - w ε_∅. Sanchez et al. write s = 1 + w and use s = 3. -1 decodes without
        guidance, 0 under the plain condition.
    stride
        Take every stride-th step of the way up and of the way down; Sanchez et al. take every tenth.
    map
        "squared": mean over channels of (x - x_0)². "absolute": mean over channels of |x - x_0|.
    modalities
        Channels that are compared, from 0; None compares all.
    clip
        Cut x̂_0 to [-1, 1] in every step, as the code of AnoFPDM does.
    dynamic_clip
        In (0, 1]: in place of `clip`, bring x̂_0 into [-1, 1] by this quantile of its own, 0.99 in the code of
        Sanchez et al.
    offset
        1 repeats the slip of AnoFPDM's comparison: the image counts as step 1, is encoded to L + 1, and
        decoded as if it were at L.
    """

    noise_level: int = 450
    weight: float = 1.1
    stride: int = 1
    map: Literal["squared", "absolute"] = "squared"
    modalities: tuple[int, ...] | None = None
    clip: bool = True
    dynamic_clip: float | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        check_ladder(self.noise_level, self.stride, self.modalities)
        if self.weight < -1:
            raise ConfigError(
                f"weight = {self.weight}, but weight >= -1 must hold: below it guides towards the target.",
                repair="Published values are 1.1 to 2.",
            )
        if self.dynamic_clip is not None and not 0 < self.dynamic_clip <= 1:
            raise ConfigError(
                f"dynamic_clip = {self.dynamic_clip}, but it is a quantile in (0, 1].",
                repair="The published value is 0.99; leave it out for a fixed clip.",
            )
        if self.offset not in (0, 1):
            raise ConfigError(f"offset = {self.offset}, but it is 0 or 1.")


@dataclass(frozen=True)
class DDIB:
    """Rebuild the image as a healthy one with the same noise; what changes is the target.

    Parameters
    ----------
    denoiser, schedule
        ε_θ and the schedule it was trained with, on images of both labels, some with their label hidden.
    settings
        L, w and the deviations.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    settings: DDIBSettings = DDIBSettings()

    def __post_init__(self) -> None:
        check_level(self.settings.noise_level + self.settings.offset, self.schedule)

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Score each pixel by what the reconstruction changes; `seed` has no effect."""
        s = self.settings
        change = pick(batch.image, s.modalities) - pick(self.reconstruct(batch.image), s.modalities)
        change = change.square() if s.map == "squared" else change.abs()
        return Prediction(score_map=change.mean(dim=1, keepdim=True))

    @torch.no_grad()
    def reconstruct(self, image: Tensor) -> Tensor:
        """Give the healthy counterpart of images: (B, C, S, S) float32."""
        s, ladder = self.settings, stops(self.settings.noise_level, self.settings.stride)
        null, healthy = self.denoiser.embed(None), self.denoiser.embed(ABSENT)
        x = image
        for t, above in pairwise(step + s.offset for step in ladder):  # abduction: ε_∅
            # A network knows no step 0: the clean image is shown to it as step 1.
            eps = self.denoiser(x, max(t, 1), null)
            x = self.schedule.ddim(x, self._clipped(x, t, eps), t, above)
        # Both conditions go through the network as one batch: [ε_h; ε_∅].
        e = torch.cat([healthy.expand(len(x), -1), null.expand(len(x), -1)])
        for t, below in pairwise(reversed(ladder)):
            conditional, unconditional = self.denoiser(x.repeat(2, 1, 1, 1), t, e).chunk(2)
            eps = classifier_free_guidance(conditional, unconditional, s.weight)
            x = self.schedule.ddim(x, self._clipped(x, t, eps), t, below)
        return x

    def _clipped(self, x: Tensor, t: int, eps: Tensor) -> Tensor:
        """Give the ε that belongs to x̂_0 brought into [-1, 1], as set; at step 0 x̂_0 is the image itself."""
        s = self.settings
        if s.dynamic_clip is not None and t:
            return normalised(self.schedule, x, t, eps, s.dynamic_clip)
        return self.schedule.clip(x, t, eps) if s.clip and t else eps
