"""TransUNet: a ResNet whose coarsest features a vision transformer reads as words, and a U-Net's way back up.

J. Chen, Y. Lu, Q. Yu, et al., "TransUNet: Transformers make strong encoders for medical image segmentation", 2021,
https://arxiv.org/abs/2102.04306. The defaults are its R50-ViT-B/16. Counts and what differs:
docs/adr/0015-rivals-of-textdiff.md.

    D, L, z_l, E_pos  ->  width, layers, z, position
    CUP               ->  the decoder, "cascaded upsampler"

References
----------
Dosovitskiy et al. 2021, "An image is worth 16x16 words" (hybrid model), https://arxiv.org/abs/2010.11929.
Kolesnikov et al. 2020, "Big transfer" (its ResNet), https://arxiv.org/abs/1912.11370.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image
from tagmask.types import TextTokens

__all__ = ["SMALL", "TransUNet", "TransUNetSettings"]

PATCH = 16  # pixels between tokens: the ResNet's stem and stages halve the side four times


@dataclass(frozen=True)
class TransUNetSettings:
    """The shape of a TransUNet; the defaults are the published R50-ViT-B/16.

    Parameters
    ----------
    size, channels
        S and C of the image. S is a multiple of 16, at least 32; (S / 16)² tokens.
    stem
        Feature channels of the first convolution, even; the three stages have 4, 8 and 16 times as many.
    blocks
        Residual blocks of the three stages.
    width, layers, heads, hidden
        D of a token, transformer layers, attention heads (a divisor of D), and width inside the MLPs.
    decoder
        Feature channels of the decoder's four steps, coarsest first. Twice the first enter it.
    dropout
        Of token embeddings and inside MLPs, in [0, 1).
    """

    size: int = 224
    channels: int = 3
    stem: int = 64
    blocks: tuple[int, int, int] = (3, 4, 9)
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    decoder: tuple[int, int, int, int] = (256, 128, 64, 16)
    dropout: float = 0.1

    def __post_init__(self) -> None:
        def refuse(what: str, repair: str) -> None:
            raise ConfigError(f"transunet.{what}.", repair=repair)

        for name in ("channels", "width", "layers", "heads", "hidden"):
            if (value := getattr(self, name)) < 1:
                refuse(f"{name} = {value}, but it must be at least 1", f"Set transunet.{name}.")
        if self.size < 2 * PATCH or self.size % PATCH:
            near = max(2 * PATCH, math.ceil(self.size / PATCH) * PATCH)
            refuse(
                f"size = {self.size}, but it must be a multiple of {PATCH}, at least {2 * PATCH}",
                f"Use size = {near}.",
            )
        if self.stem < 2 or self.stem % 2:
            refuse(f"stem = {self.stem}, but it must be even, at least 2", "The published network has 64.")
        if len(self.blocks) != 3 or min(self.blocks) < 1:
            refuse(f"blocks = {list(self.blocks)}, but each of the 3 stages has at least 1", "Use [3, 4, 9].")
        if self.width % self.heads:
            refuse(f"heads = {self.heads} do not divide width = {self.width}", "Use a divisor of the width.")
        if len(self.decoder) != 4 or min(self.decoder) < 1:
            refuse(
                f"decoder = {list(self.decoder)}, but its 4 steps have at least 1 channel each",
                "Use [256, 128, 64, 16].",
            )
        if not 0 <= self.dropout < 1:
            refuse(f"dropout = {self.dropout}, but it must lie in [0, 1)", "Use 0 to turn it off.")


SMALL = TransUNetSettings(
    stem=16, blocks=(1, 1, 2), width=96, layers=4, heads=4, hidden=192, decoder=(64, 48, 32, 16)
)
"""A hundredth of the published size, for a CPU."""


class TransUNet(nn.Module):
    """Pixel logits of the target; takes no text.

    Parameters
    ----------
    settings : TransUNetSettings

    Examples
    --------
    >>> tiny = TransUNetSettings(
    ...     size=32, channels=1, stem=4, blocks=(1, 1, 1), width=8, layers=1, heads=2, hidden=8, decoder=(8, 8, 4, 4)
    ... )
    >>> TransUNet(tiny)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 1, 32, 32])
    """

    def __init__(self, settings: TransUNetSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.resnet = _ResNet(s.channels, s.stem, s.blocks)
        self.embed = nn.Conv2d(16 * s.stem, s.width, 1)
        self.position = nn.Parameter(torch.zeros(1, (s.size // PATCH) ** 2, s.width))
        self.dropout = nn.Dropout(s.dropout)
        self.layers = nn.ModuleList(_Layer(s.width, s.heads, s.hidden, s.dropout) for _ in range(s.layers))
        self.norm = nn.LayerNorm(s.width, eps=1e-6)
        self.enter = _convolution(s.width, 2 * s.decoder[0])
        before, skips = (2 * s.decoder[0], *s.decoder), (8 * s.stem, 4 * s.stem, s.stem, 0)
        self.up = nn.ModuleList(
            nn.Sequential(_convolution(low + skip, high), _convolution(high, high))
            for low, skip, high in zip(before, skips, s.decoder, strict=False)
        )
        self.out = nn.Conv2d(s.decoder[-1], 2, 3, padding=1)

    def forward(self, x: Tensor, text: TextTokens | None = None) -> Tensor:
        """Give the logit of every pixel: that of the target less that of the background.

        Parameters
        ----------
        x : (B, C, S, S) float
            Image, in [-1, 1].
        text
            Not looked at.

        Returns
        -------
        (B, 1, S, S), dtype of x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings.
        """
        check_image("transunet", x, self.settings.channels, self.settings.size)
        h, skips = self.resnet(x)
        side = h.shape[-1]
        z = self.dropout(self.embed(h).flatten(2).transpose(1, 2) + self.position)  # Eq. 1
        for layer in self.layers:
            z = layer(z)
        h = self.enter(self.norm(z).transpose(1, 2).unflatten(2, (side, side)))
        for block in self.up:  # CUP
            h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=True)
            h = block(torch.cat([h, skips.pop()], dim=1) if skips else h)
        background, target = self.out(h).split(1, dim=1)
        return (target - background).to(x.dtype)


class _Layer(nn.Module):
    """A transformer layer, norms first."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(hidden, width), nn.Dropout(dropout),
        )  # fmt: skip
        for linear in (self.mlp[0], self.mlp[3]):
            nn.init.xavier_uniform_(cast(Tensor, linear.weight))
            nn.init.normal_(cast(Tensor, linear.bias), std=1e-6)

    def forward(self, z: Tensor) -> Tensor:
        """Give (B, N, D) from tokens z (B, N, D)."""
        q, k, v = self.qkv(self.norm1(z)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v)
        z = z + self.attended(a.transpose(1, 2).flatten(2))  # Eq. 2
        return z + self.mlp(self.norm2(z))  # Eq. 3


class _ResNet(nn.Module):
    """A ResNet-50 without its last stage; group norms and standardised weights."""

    def __init__(self, channels: int, stem: int, blocks: tuple[int, int, int]) -> None:
        super().__init__()
        groups = math.gcd(32, stem // 2)  # 32 as published; never as many as channels
        self.conv = _StandardConv(channels, stem, 7, stride=2, padding=3, bias=False)
        self.norm = nn.GroupNorm(groups, stem, eps=1e-6)
        stages, before = [], stem
        for stage, count in enumerate(blocks):
            after, layers = 4 * stem * 2**stage, []
            for k in range(count):
                stride = 2 if stage > 0 and k == 0 else 1
                layers.append(_Bottleneck(before, after, stride, groups))
                before = after
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Give features (B, 16 stem, S / 16, S / 16), and the skips at S / 2, S / 4 and S / 8."""
        h = F.relu(self.norm(self.conv(x)))
        skips = [h]
        h = F.max_pool2d(h, 3, stride=2)  # no padding, as published: S / 4 - 1 a side
        h = self.stages[0](h)
        skips.append(F.pad(h, (0, 1, 0, 1)))  # so the skip lacks a row and a column
        h = self.stages[1](h)
        skips.append(h)
        return self.stages[2](h), skips


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, a quarter as wide inside, beside a skip."""

    def __init__(self, before: int, after: int, stride: int, groups: int) -> None:
        super().__init__()
        inner = after // 4
        self.conv1 = _StandardConv(before, inner, 1, bias=False)
        self.conv2 = _StandardConv(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.conv3 = _StandardConv(inner, after, 1, bias=False)
        self.norm1, self.norm2 = (nn.GroupNorm(groups, inner, eps=1e-6) for _ in range(2))
        self.norm3 = nn.GroupNorm(groups, after, eps=1e-6)
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.skip = nn.Sequential(
                _StandardConv(before, after, 1, stride=stride, bias=False), nn.GroupNorm(after, after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, F', H', W') from features x (B, F, H, W)."""
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        return F.relu(self.norm3(self.conv3(h)) + self.skip(x))


class _StandardConv(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 for each output channel (Qiao et al. 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        standard = (self.weight - mean) / torch.sqrt(variance + 1e-5)
        return self._conv_forward(x, standard, self.bias)


def _convolution(before: int, after: int) -> nn.Sequential:
    """3 x 3 convolution, batch norm, ReLU. No bias: the norm's shift is one."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )
