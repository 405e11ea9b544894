"""What networks on top of a frozen denoiser's features share: settings, the backbone beside them, upsampling.

A head learns; the backbone does not, and is no part of the head's weights. Features come at the resolutions at
which the denoiser computes them, and are brought to that of the picture as late as algebra allows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image
from tagmask.networks.features import FeatureSettings, FrozenFeatures
from tagmask.types import TextTokens

__all__ = ["FeatureHead", "HeadSettings", "initialise", "pixel_features", "upsampled_convolution"]


@dataclass(frozen=True)
class HeadSettings:
    """What every head is told.

    Parameters
    ----------
    features
        The backbone, its blocks and steps.
    feature_channels
        C_z, the channels of the features of every block. Empty until `resolved` has asked the backbone.
    size, channels
        S and C of the picture.
    """

    features: FeatureSettings
    feature_channels: tuple[int, ...] = ()
    size: int = 256
    channels: int = 3

    section: ClassVar[str] = "head"

    def __post_init__(self) -> None:
        self.check_positive("size", "channels")
        blocks = self.features.blocks
        if self.feature_channels and len(self.feature_channels) != len(blocks):
            raise ConfigError(
                f"{self.section}.feature_channels = {list(self.feature_channels)}, but there are {len(blocks)} "
                f"blocks: {list(blocks)}.",
                repair="Leave feature_channels out; the backbone knows them.",
            )
        if any(width < 1 for width in self.feature_channels):
            raise ConfigError(
                f"{self.section}.feature_channels = {list(self.feature_channels)}, but each must be at least 1.",
                repair="Leave feature_channels out; the backbone knows them.",
            )

    def check_positive(self, *names: str) -> None:
        """Refuse numbers below 1, alone or in a list.

        Raises
        ------
        ConfigError
            Naming the first.
        """
        for name in names:
            value = getattr(self, name)
            if min(value if isinstance(value, tuple) else (value,)) < 1:
                raise ConfigError(
                    f"{self.section}.{name} = {list(value) if isinstance(value, tuple) else value}, but it must "
                    "be at least 1.",
                    repair=f"Set {self.section}.{name}.",
                )

    def resolved(self, frozen: FrozenFeatures) -> Self:
        """Give the same settings with the channels of a backbone's features.

        Raises
        ------
        ConfigError
            If it takes pictures of other channels, or was resolved with another one before.
        """
        if frozen.image_channels != self.channels:
            raise ConfigError(
                f"the backbone takes pictures of {frozen.image_channels} channels, but {self.section}.channels = "
                f"{self.channels}.",
                repair="Prepare the data as the backbone's were, or take another backbone.",
            )
        known = self.feature_channels
        if known and known != frozen.channels:
            raise ConfigError(
                f"the backbone's features have {list(frozen.channels)} channels, but {self.section}."
                f"feature_channels = {list(known)}.",
                repair="Take the backbone, blocks and steps that the head was trained on.",
            )
        return replace(self, feature_channels=frozen.channels)


class FeatureHead(nn.Module, ABC):
    """A network that reads the features of a frozen denoiser.

    Parameters
    ----------
    settings : HeadSettings
        Resolved: the features' channels are known.

    Attributes
    ----------
    features : FrozenFeatures or None
        The backbone, once attached. It is no module of this one: neither its weights nor its device are the
        head's, so `.to` of the head leaves it where it is.

    Raises
    ------
    ConfigError
        If the features' channels are not known.
    """

    features: FrozenFeatures | None

    def __init__(self, settings: HeadSettings) -> None:
        super().__init__()
        if not settings.feature_channels:
            raise ConfigError(
                f"{settings.section}.feature_channels is not known yet.",
                repair="Ask the backbone first: settings.resolved(frozen).",
            )
        self.settings = settings
        object.__setattr__(self, "features", None)

    def attach(self, frozen: FrozenFeatures) -> Self:
        """Put a backbone beside the head; gives the head itself.

        Raises
        ------
        ConfigError
            If its features are not those that the head was built for.
        """
        self.settings.resolved(frozen)
        # Past nn.Module: a backbone that is a module must not become a part of this one.
        object.__setattr__(self, "features", frozen)
        return self

    def forward(self, x: Tensor, text: TextTokens | None = None) -> Tensor:
        """Give the logit of every pixel: log p(target) / p(background).

        Parameters
        ----------
        x : (B, C, S, S) float
            Picture, in [-1, 1].
        text : TextTokens, optional
            Its sentences.

        Returns
        -------
        (B, 1, S, S), dtype of x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings, or no backbone is attached.
        """
        return self.decode(self.look(x), self.settings.size, text).to(x.dtype)

    def look(self, x: Tensor) -> list[Tensor]:
        """Give the backbone's features of pictures x (B, C, S, S), one (B, C_z, s_z, s_z) float32 for each block.

        Raises
        ------
        ConfigError
            As `forward`.
        """
        settings = self.settings
        check_image(settings.section, x, settings.channels, settings.size)
        if self.features is None:
            raise ConfigError(
                f"this {settings.section} has no backbone to look through.",
                repair="Attach one: head.attach(weights.load_features(...)), or decode features that were kept.",
            )
        return self.features(x)

    @abstractmethod
    def decode(self, features: Sequence[Tensor], size: int, text: TextTokens | None = None) -> Tensor:
        """Give the logits (B, 1, size, size) from features: one (B, C_z, s_z, s_z) float32 for each block."""

    def check_features(self, features: Sequence[Tensor]) -> None:
        """Refuse features that the head was not built for.

        Raises
        ------
        ConfigError
            If their number or channels differ.
        """
        found = tuple(h.shape[1] for h in features)
        if found != self.settings.feature_channels:
            raise ConfigError(
                f"the features have {list(found)} channels, but this {self.settings.section} was built for "
                f"{list(self.settings.feature_channels)}.",
                repair="Take the backbone, blocks and steps that the head was trained on.",
            )


def upsampled_convolution(h: Tensor, weight: Tensor, size: int) -> Tensor:
    """Convolve features that are brought to another size, without ever holding them there.

    Equal to `conv2d(interpolate(h, size, mode="bilinear"), weight, padding=k // 2)`. A convolution is a sum over
    its k x k taps of a linear map of every pixel, shifted; such a map commutes with bilinear interpolation. So
    each tap is applied where h is small, and what is brought to size has G channels instead of C. Interpolation and
    shift are matrices of rows and of columns, which the sums over the taps of a column and of a row go into.

    Parameters
    ----------
    h : (B, C, s, s) float
    weight : (G, C, k, k) float
        k is odd.
    size
        S.

    Returns
    -------
    (B, G, S, S), without a bias.
    """
    k, s = weight.shape[-1], h.shape[-1]
    if s == size:
        return F.conv2d(h, weight, padding=k // 2)
    place = _shifted_interpolation(s, size, k, h)
    taps = torch.einsum("gcij,bcyx->bgjxiy", weight, h).flatten(4)  # (B, G, j, x, i y)
    rows = taps @ place  # (B, G, j, x, S)
    return rows.permute(0, 1, 4, 2, 3).flatten(3) @ place


def _shifted_interpolation(s: int, size: int, taps: int, like: Tensor) -> Tensor:
    """Give (taps s, S): linear interpolation from s to S places, below itself shifted by every tap; 0 outside."""
    one = torch.eye(s, dtype=like.dtype, device=like.device)[None]
    place = F.interpolate(one, size, mode="linear", align_corners=False)[0]
    place = F.pad(place, (taps // 2, taps // 2))
    return torch.cat([place[:, i : i + size] for i in range(taps)])


def pixel_features(features: Sequence[Tensor], size: int, index: Tensor) -> Tensor:
    """Give the features of single pixels, as enlarging the maps bilinearly to S x S would.

    Parameters
    ----------
    features : one (B, C_z, s_z, s_z) float for each block
    size
        S.
    index : (N,) int64
        Of pixels in B x S x S, 0 ... B S² - 1.

    Returns
    -------
    (N, d) float, d the sum of C_z.
    """
    picture, row, column = index // size**2, index // size % size, index % size
    parts = []
    for f in features:
        (top, bottom, down), (left, right, across) = (_between(i, size, f.shape[-1]) for i in (row, column))
        above = torch.lerp(f[picture, :, top, left], f[picture, :, top, right], across)
        below = torch.lerp(f[picture, :, bottom, left], f[picture, :, bottom, right], across)
        parts.append(torch.lerp(above, below, down))
    return torch.cat(parts, dim=1)


def _between(i: Tensor, size: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give the two rows of a map of `side` between which row i of `size` lies, and how far it is past the first."""
    # Rows are compared by their centres; beyond the outermost ones a map goes on as it is there.
    place = ((i + 0.5) * side / size - 0.5).clamp(min=0)
    first = place.long()
    return first, (first + 1).clamp(max=side - 1), (place - first)[:, None]


def initialise(network: nn.Module) -> None:
    """Draw the weights as both papers' code does: N(0, 0.02) for linear maps, N(1, 0.02) for 2-D batch norms.

    Instance norms, which the papers do not have, start at 1.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
