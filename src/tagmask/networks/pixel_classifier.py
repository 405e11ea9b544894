"""The pixel classifier of ddpm-segmentation: small networks that look at one pixel's features, and vote.

D. Baranchuk, I. Rubachev, A. Voynov, V. Khrulkov, A. Babenko, "Label-efficient semantic segmentation with diffusion
models", ICLR 2022, https://arxiv.org/abs/2112.03126. Read beside Sect. 4; `FeatureSettings` holds its steps and
blocks, (50, 150, 250) as indices and (5, 6, 7, 8, 12) in the published configuration.

    f, d          ->  features, sum(feature_channels)    of a pixel, at the resolutions of their blocks
    p_m(y | f)    ->  probabilities                      of member m, from its multi-layer perceptron

The published code holds d = 8448 numbers for each pixel of each picture. Here nothing of d channels ever has the
picture's size: training reads single pixels, and maps are projected to a member's first layer before they are enlarged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.head import FeatureHead, HeadSettings, initialise, pixel_features, upsampled_convolution
from tagmask.types import TextTokens

__all__ = [
    "PixelClassifier",
    "PixelClassifierSettings",
    "jensen_shannon",
    "picture_uncertainty",
]


@dataclass(frozen=True)
class PixelClassifierSettings(HeadSettings):
    """The ensemble.

    Parameters
    ----------
    features
        The backbone, its blocks and steps.
    feature_channels
        C_z, the channels of the features of every block. Empty until `resolved` has asked the backbone.
    size, channels
        S and C of the picture.
    members
        Perceptrons in the ensemble.
    widths
        Of their two hidden layers.
    pixels
        Pixels that each member sees in a training step, at least 2 for the batch norms.
    """

    members: int = 10
    widths: tuple[int, int] = (128, 32)
    pixels: int = 64

    section: ClassVar[str] = "pixel_classifier"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("members", "widths", "pixels")
        if self.pixels < 2:
            raise ConfigError(
                f"pixel_classifier.pixels = {self.pixels}, but the batch norms need 2 at least.",
                repair="The paper's code uses 64.",
            )


class PixelClassifier(FeatureHead):
    """Pixel logits of the target, each pixel judged by its own features: log p̄ / (1 - p̄), p̄ the members' mean.

    Parameters
    ----------
    settings : PixelClassifierSettings
        Resolved: the features' channels are known.

    Notes
    -----
    The paper's mask is the class that most members choose (`[methods.pixel_classifier] vote`); its map for everything
    that needs a number is p̄. They agree wherever all members agree. Elsewhere a few sure members can outweigh many
    unsure ones in p̄ and not in the vote.

    To train: Adam at a rate of 1e-3, `loss` on pictures' features, a generator that is new in every step, and no
    decay. Members share no weight and draw their own pixels, so one step on the sum of their losses is a step of each
    alone. The code stops a member after more than 50 steps in a row without a new least loss, and after 100
    rounds of all pixels at the latest.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tagmask.networks.features import FeatureSettings
    >>> features = FeatureSettings(Path("denoiser.safetensors"), blocks=(2, 3))
    >>> head = PixelClassifier(PixelClassifierSettings(features, (12, 8), members=3)).eval()
    >>> head.decode([torch.zeros(1, 12, 4, 4), torch.zeros(1, 8, 8, 8)], 16).shape
    torch.Size([1, 1, 16, 16])
    """

    settings: PixelClassifierSettings

    def __init__(self, settings: PixelClassifierSettings) -> None:
        super().__init__(settings)
        d = sum(settings.feature_channels)
        self.members = nn.ModuleList(_Member(d, *settings.widths) for _ in range(settings.members))
        initialise(self)

    def decode(self, features: Sequence[Tensor], size: int, text: TextTokens | None = None) -> Tensor:
        """Give the logit of the members' mean probability.

        Parameters
        ----------
        features : one (B, C_z, s_z, s_z) float32 for each block
        size
            S.
        text
            Is not looked at.

        Returns
        -------
        (B, 1, S, S), dtype of the features.

        Raises
        ------
        ConfigError
            Features of other channels than the head was built for.
        """
        z = self.member_logits(features, size)
        # The means' common factor 1 / M cancels.
        odds = F.logsigmoid(z).logsumexp(dim=0) - F.logsigmoid(-z).logsumexp(dim=0)
        return odds.to(features[0].dtype)

    def of_members(self, x: Tensor) -> Tensor:
        """Give p_m(target) of every member for pictures x (B, C, S, S) in [-1, 1]: (M, B, 1, S, S) in [0, 1]."""
        return self.probabilities(self.look(x), self.settings.size)

    def probabilities(self, features: Sequence[Tensor], size: int) -> Tensor:
        """Give p_m(target) of every member: (M, B, 1, S, S) in [0, 1]. For votes and `jensen_shannon`."""
        return self.member_logits(features, size).sigmoid()

    def member_logits(self, features: Sequence[Tensor], size: int) -> Tensor:
        """Give the logit of every member: (M, B, 1, S, S) float32."""
        self.check_features(features)
        return torch.stack([cast(_Member, member).map(features, size) for member in self.members])

    def loss(self, features: Sequence[Tensor], mask: Tensor, generator: torch.Generator) -> Tensor:
        """Sum of `member_losses`, whose gradient in a member is that of its own loss alone."""
        return self.member_losses(features, mask, generator).sum()

    def member_losses(self, features: Sequence[Tensor], mask: Tensor, generator: torch.Generator) -> Tensor:
        """Cross-entropy of every member on pixels of its own, drawn evenly from all of the pictures.

        Parameters
        ----------
        features : one (B, C_z, s_z, s_z) float32 for each block
        mask : (B, 1, S, S) float in {0, 1}
        generator
            On the CPU; all that is random.

        Returns
        -------
        Tensor : (M,) float32
        """
        self.check_features(features)
        draws = torch.randint(mask.numel(), (len(self.members), self.settings.pixels), generator=generator)
        draws = draws.to(mask.device)
        f = pixel_features(features, mask.shape[-1], draws.flatten()).reshape(*draws.shape, -1)
        y = mask.flatten()[draws].long()
        losses = [
            F.cross_entropy(member(own).float(), truth)
            for member, own, truth in zip(self.members, f, y, strict=True)
        ]
        return torch.stack(losses)


class _Member(nn.Module):
    """d - 128 - ReLU - BN - 32 - ReLU - BN - 2, of a pixel."""

    def __init__(self, d: int, first: int, second: int) -> None:
        super().__init__()
        self.first = nn.Linear(d, first)
        self.rest = nn.Sequential(
            nn.ReLU(), nn.BatchNorm1d(first),
            nn.Linear(first, second), nn.ReLU(), nn.BatchNorm1d(second),
            nn.Linear(second, 2),
        )  # fmt: skip

    def forward(self, f: Tensor) -> Tensor:
        """Give both logits (N, 2), background and target, of N pixels f (N, d)."""
        return self.rest(self.first(f))

    def map(self, features: Sequence[Tensor], size: int) -> Tensor:
        """Give the target's logit of every pixel, (B, 1, S, S) float32.

        The first layer is a sum over blocks of linear maps, so each is applied where its block is small.
        """
        weights = torch.split(self.first.weight[:, :, None, None], [f.shape[1] for f in features], dim=1)
        parts = (upsampled_convolution(f, w, size) for f, w in zip(features, weights, strict=True))
        h = reduce(torch.add, parts).movedim(1, -1) + self.first.bias
        z: Tensor = self.rest(h.flatten(0, 2)).float()
        return (z[:, 1] - z[:, 0]).reshape(len(h), 1, size, size)


def jensen_shannon(p: Tensor) -> Tensor:
    """Give how far the members disagree: entropy of their mean minus mean of their entropies, in nats.

    0 where all say the same, at most log 2.

    Parameters
    ----------
    p : (M, B, 1, S, S) float in [0, 1]
        p_m(target), of `PixelClassifier.probabilities`.

    Returns
    -------
    Tensor : (B, 1, S, S), dtype of p.

    Examples
    --------
    >>> jensen_shannon(torch.tensor([[0.0, 0.3], [1.0, 0.3]]))
    tensor([0.6931, 0.0000])
    """
    return (_entropy(p.mean(dim=0)) - _entropy(p).mean(dim=0)).clamp(min=0)


def _entropy(p: Tensor) -> Tensor:
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))


def picture_uncertainty(divergence: Tensor, share: float = 0.1) -> Tensor:
    """Give one number a picture: the mean of its most uncertain pixels.

    Parameters
    ----------
    divergence : (B, 1, S, S) float
        Of `jensen_shannon`.
    share
        Of the pixels, in (0, 1].

    Returns
    -------
    Tensor : (B,)
    """
    flat = divergence.flatten(1)
    return flat.topk(max(1, math.floor(share * flat.shape[1])), dim=1).values.mean(dim=1)
