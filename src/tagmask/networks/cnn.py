"""p(y | x): an ordinary classifier of clean images, a residual network with group norms.

Group norms, so the members of a batch never see each other, the gradients of a batch are those of its
members, and small batches train as well as large ones. `RESNET50` has the shape of ResNet-50.

References
----------
He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", https://arxiv.org/abs/1512.03385.
Wu, He 2018, "Group normalization", https://arxiv.org/abs/1803.08494.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image

__all__ = ["CNN", "RESNET50", "CNNSettings"]


@dataclass(frozen=True)
class CNNSettings:
    """The shape of a residual network.

    Parameters
    ----------
    size, channels
        S and C of the image.
    widths
        Feature channels per level, finest first, each a multiple of 8 (of 32 with `bottleneck`). The first
        block of every level but the first halves the side.
    blocks
        Residual blocks of each level.
    bottleneck
        Blocks of 1 x 1, 3 x 3 and 1 x 1 convolutions that are a quarter as wide inside, as in ResNet-50;
        otherwise two 3 x 3 convolutions, as in ResNet-18.
    stem
        What comes before the first level: "3x3" keeps the side; "7x7" and its pooling quarter it, as published.
    dropout
        Before the last layer, in [0, 1).
    classes
        Number of classes.
    """

    size: int = 64
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128)
    blocks: tuple[int, ...] = (1, 2, 2)
    bottleneck: bool = False
    stem: Literal["3x3", "7x7"] = "3x3"
    dropout: float = 0.0
    classes: int = 2

    def __post_init__(self) -> None:
        def refuse(what: str, repair: str) -> None:
            raise ConfigError(f"cnn.{what}.", repair=repair)

        for name, value in (("size", self.size), ("channels", self.channels)):
            if value < 1:
                refuse(f"{name} = {value}, but it must be at least 1", f"Set cnn.{name}.")
        unit = 32 if self.bottleneck else 8
        if not self.widths or any(w < unit or w % unit for w in self.widths):
            refuse(
                f"widths = {list(self.widths)}, but each must be a multiple of {unit}", "Give one a level."
            )
        if len(self.blocks) != len(self.widths) or min(self.blocks) < 1:
            refuse(
                f"blocks = {list(self.blocks)}, but each of the {len(self.widths)} levels has at least 1",
                "Give as many numbers as there are widths.",
            )
        step = (4 if self.stem == "7x7" else 1) * 2 ** (len(self.widths) - 1)
        if self.size % step:
            near = max(step, round(self.size / step) * step)
            refuse(
                f"size = {self.size} does not divide by {step} (stem {self.stem} and {len(self.widths)} levels)",
                f"Use size = {near}, or fewer widths.",
            )
        if not 0 <= self.dropout < 1:
            refuse(f"dropout = {self.dropout}, but it must lie in [0, 1)", "Use 0 to turn it off.")
        if self.classes < 2:
            refuse(f"classes = {self.classes}", "Use 2 or more.")

    @property
    def inner(self) -> tuple[int, ...]:
        """Width of the 3 x 3 convolutions of each level; the stem has that of the first."""
        return tuple(w // 4 for w in self.widths) if self.bottleneck else self.widths

    @property
    def groups(self) -> int:
        """Groups of every group norm: 32 as published, or the largest power of two that divides every width."""
        return math.gcd(32, *self.inner)


RESNET50 = CNNSettings(
    size=224, widths=(256, 512, 1024, 2048), blocks=(3, 4, 6, 3), bottleneck=True, stem="7x7"
)


class CNN(nn.Module):
    """log p(y | x) up to a constant, of clean images.

    Parameters
    ----------
    settings : CNNSettings

    Examples
    --------
    >>> import torch
    >>> net = CNN(CNNSettings(size=16, widths=(8, 16), blocks=(1, 1)))
    >>> net(torch.zeros(3, 1, 16, 16)).shape
    torch.Size([3, 2])
    """

    def __init__(self, settings: CNNSettings) -> None:
        super().__init__()
        self.settings = s = settings
        width = s.inner[0]
        side, stride = (3, 1) if s.stem == "3x3" else (7, 2)
        self.conv_in = nn.Conv2d(s.channels, width, side, stride, padding=side // 2, bias=False)
        self.norm_in = nn.GroupNorm(s.groups, width)
        self.pool_in = nn.Identity() if s.stem == "3x3" else nn.MaxPool2d(3, stride=2, padding=1)
        levels = []
        for level, (after, inner, count) in enumerate(zip(s.widths, s.inner, s.blocks, strict=True)):
            blocks = []
            for k in range(count):
                stride = 2 if level > 0 and k == 0 else 1
                blocks.append(_Block(width, inner, after, stride, s.groups, bottleneck=s.bottleneck))
                width = after
            levels.append(nn.Sequential(*blocks))
        self.levels = nn.ModuleList(levels)
        self.dropout = nn.Dropout(s.dropout)
        self.out = nn.Linear(width, s.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Give the logits of every class.

        Parameters
        ----------
        x : (B, C, S, S) float
            Clean image, in [-1, 1].

        Returns
        -------
        (B, classes), dtype of x. Differentiable in x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings.
        """
        check_image("cnn", x, self.settings.channels, self.settings.size)
        h = self.pool_in(F.relu(self.norm_in(self.conv_in(x))))
        for level in self.levels:
            h = level(h)
        return self.out(self.dropout(h.mean(dim=(2, 3)))).to(x.dtype)

    def layer(self, name: Literal["pooled", "middle"] | int) -> nn.Module:
        """Give the module whose output is that of the last block of a level.

        Parameters
        ----------
        name
            0, 1, ..., finest first; "middle" and "pooled" are both the last of all.

        Raises
        ------
        ConfigError
            If there is no such level.
        """
        number = name if isinstance(name, int) else len(self.levels) - 1
        if not 0 <= number < len(self.levels):
            raise ConfigError(
                f"layer = {name}, but the cnn's levels run from 0 to {len(self.levels) - 1}.",
                repair='Use one of them, "middle" or "pooled".',
            )
        return self.levels[number]


class _Block(nn.Module):
    """A residual block; the first 3 x 3 convolution takes the stride."""

    def __init__(
        self, before: int, inner: int, after: int, stride: int, groups: int, *, bottleneck: bool
    ) -> None:
        super().__init__()
        sides, strides = ((1, 3, 1), (1, stride, 1)) if bottleneck else ((3, 3), (stride, 1))
        widths = (before, inner, inner, after) if bottleneck else (before, inner, after)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, side, s, padding=side // 2, bias=False)
            for a, b, side, s in zip(widths, widths[1:], sides, strides, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(groups, w) for w in widths[1:])
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.GroupNorm(groups, after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, F', H', W') from features x (B, F, H, W)."""
        h = x
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            h = F.relu(norm(conv(h)))
        return F.relu(self.norms[-1](self.convs[-1](h)) + self.skip(x))
