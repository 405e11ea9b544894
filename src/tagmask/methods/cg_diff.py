"""CG-Diff: diffusion models for medical anomaly detection, guided by a classifier.

J. Wolleb, F. Bieder, R. Sandkühler, P. C. Cattin, MICCAI 2022, https://doi.org/10.1007/978-3-031-16452-1_4.
Read beside Algorithm 1. Where the paper, its code and the papers that compare with it part ways:
docs/adr/0009-reconstruction-methods-paper-and-code.md.

    L, s, h      ->  noise_level, scale, ABSENT
    x_t, x_0, a  ->  x, reconstruction, score_map
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from tagmask.diffusion.guidance import classifier_guidance, label_gradient
from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.reconstruction import check_ladder, check_level, pick, stops
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.classifier import Classifier
from tagmask.networks.denoiser import Denoiser
from tagmask.types import ABSENT, Batch, Prediction

__all__ = ["CGDiff", "CGDiffSettings"]


@dataclass(frozen=True)
class CGDiffSettings:
    """The paper's hyper-parameters, then what codes do otherwise.

    Parameters
    ----------
    noise_level
        L, the step the image is brought to. 0 < L <= T.
    scale
        s >= 0, the weight of the classifier's gradient. 0 gives a plain reconstruction.
    stride
        Take every stride-th step of the way up and of the way down. The paper takes all.
    encoding
        "ddim": the deterministic way up of Algorithm 1. "noise": x_L is drawn from q(x_L | x_0), as the code
        of AnoFPDM does for its comparison.
    condition
        What the denoiser is told on both ways: "null" nothing, as Algorithm 1 and the code of AnoFPDM;
        "healthy" the label h, as the authors' code.
    map
        "absolute": sum over channels of |x - x_0|, as the paper. "squared": mean over channels of
        (x - x_0)², as AnoFPDM compares it.
    modalities
        Channels that are compared, from 0; None compares all.
    clip
        Cut x̂_0 to [-1, 1] in every step before guidance, as the codes do and Algorithm 1 does not.
    """

    noise_level: int = 500
    scale: float = 100.0
    stride: int = 1
    encoding: Literal["ddim", "noise"] = "ddim"
    condition: Literal["null", "healthy"] = "null"
    map: Literal["absolute", "squared"] = "absolute"
    modalities: tuple[int, ...] | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        check_ladder(self.noise_level, self.stride, self.modalities)
        if self.scale < 0:
            raise ConfigError(
                f"scale = {self.scale}, but scale >= 0 must hold: below 0 guides towards the target.",
                repair="The paper uses 100.",
            )


@dataclass(frozen=True)
class CGDiff:
    """Rebuild the image as a classifier would have it without the target; what changes is the target.

    Parameters
    ----------
    denoiser, schedule
        ε_θ and the schedule it was trained with, on images of both labels.
    classifier
        p_φ(y | x_t), of noisy images.
    settings
        L, s and the deviations.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    classifier: Classifier
    settings: CGDiffSettings = CGDiffSettings()

    def __post_init__(self) -> None:
        check_level(self.settings.noise_level, self.schedule)

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Score each pixel by what the reconstruction changes; in grey values of [-1, 1], or their squares."""
        s = self.settings
        change = pick(batch.image, s.modalities) - pick(self.reconstruct(batch, seed), s.modalities)
        if s.map == "absolute":
            return Prediction(score_map=change.abs().sum(dim=1, keepdim=True))  # Alg. 1, last line
        return Prediction(score_map=change.square().mean(dim=1, keepdim=True))

    @torch.no_grad()
    def reconstruct(self, batch: Batch, seed: int = 0) -> Tensor:
        """Algorithm 1 up to x_0: (B, C, S, S) float32, the image without the target."""
        s, ladder = self.settings, stops(self.settings.noise_level, self.settings.stride)
        x = batch.image
        if s.encoding == "noise":
            x = self.schedule.add_noise(x, s.noise_level, gaussian(batch, seed))
        else:
            for t, above in pairwise(ladder):  # Alg. 1, t = 0 ... L - 1
                x = self.schedule.ddim(x, self._eps(x, t), t, above)
        healthy = torch.full((len(batch),), ABSENT, device=x.device)
        for t, below in pairwise(reversed(ladder)):  # Alg. 1, t = L ... 1
            eps = self._eps(x, t)
            if s.scale:
                gradient = label_gradient(self.classifier, x, t, healthy)
                eps = classifier_guidance(eps, gradient, t, s.scale, self.schedule)
            x = self.schedule.ddim(x, eps, t, below)
        return x

    def _eps(self, x: Tensor, t: int) -> Tensor:
        """ε_θ(x_t, t). A network knows no step 0: the clean image is shown to it as step 1."""
        e = self.denoiser.embed(None if self.settings.condition == "null" else ABSENT)
        eps = self.denoiser(x, max(t, 1), e)
        return self.schedule.clip(x, t, eps) if self.settings.clip and t else eps
