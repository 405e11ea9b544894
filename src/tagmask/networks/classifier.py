"""p_φ(y | x_t, t): the encoder half of the ADM U-Net with attention pooling, for noisy and clean images.

Own code, since diffusers has no such network. Group norms only, so the members of a batch never see
each other and the gradients of a batch are those of its members.

References
----------
Dhariwal, Nichol 2021, "Diffusion models beat GANs on image synthesis" (ADM), https://arxiv.org/abs/2105.05233.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image, check_unet, network_index

__all__ = ["Classifier", "ClassifierSettings"]

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class ClassifierSettings:
    """The shape of a classifier; the words are those of `DenoiserSettings`.

    Parameters
    ----------
    size, channels
        S and C of the image.
    widths
        Feature channels per level, full resolution first, each a multiple of 8.
    blocks
        Residual blocks per level.
    attention
        Levels that attend, 0 = full resolution. The middle block and the pooling always attend.
    head_channels
        Width of one attention head.
    patch
        Side of the pixel patches that become channels on the way in.
    dropout
        In the residual blocks, in [0, 1).
    classes
        Number of classes.
    """

    size: int = 64
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 96)
    blocks: int = 1
    attention: tuple[int, ...] = (2,)
    head_channels: int = 32
    patch: int = 1
    dropout: float = 0.0
    classes: int = 2

    def __post_init__(self) -> None:
        check_unet("classifier", self)
        if self.classes < 2:
            raise ConfigError(f"classifier.classes = {self.classes}.", repair="Use 2 or more.")

    @property
    def groups(self) -> int:
        """Groups of every group norm: 32 as in ADM, or the largest power of two that divides every width."""
        return math.gcd(32, *self.widths)


class Classifier(nn.Module):
    """log p_φ(y | x_t) up to a constant.

    Parameters
    ----------
    settings : ClassifierSettings

    Examples
    --------
    >>> net = Classifier(ClassifierSettings(size=16, widths=(32, 32), attention=()))
    >>> net(torch.zeros(3, 1, 16, 16), 0).shape
    torch.Size([3, 2])
    """

    def __init__(self, settings: ClassifierSettings) -> None:
        super().__init__()
        self.settings = s = settings
        width, embedding, last = s.widths[0], 4 * s.widths[0], s.widths[-1]
        self.time_mlp = nn.Sequential(nn.Linear(width, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(s.channels * s.patch**2, width, 3, padding=1)

        def block(before: int, after: int, *, halve: bool = False) -> ResidualBlock:
            return ResidualBlock(before, after, embedding, s.groups, s.dropout, halve=halve)

        layers: list[nn.Module] = []
        self._last: list[int] = []  # of each level, its place in `layers`
        for level, after in enumerate(s.widths):
            for _ in range(s.blocks):
                layers.append(block(width, after))
                width = after
                if level in s.attention:
                    layers.append(SelfAttention(width, s.head_channels, s.groups))
            self._last.append(len(layers) - 1)
            if level < len(s.widths) - 1:
                layers.append(block(width, width, halve=True))
        layers += [block(last, last), SelfAttention(last, s.head_channels, s.groups), block(last, last)]
        self.layers = nn.ModuleList(layers)
        self.norm_out = nn.GroupNorm(s.groups, last)
        self.silu_out = nn.SiLU()  # a module, so that `layer` can name what is pooled
        side = s.size // s.patch // 2 ** (len(s.widths) - 1)
        self.pool = AttentionPool(side, last, s.head_channels, s.classes)

    def forward(self, x: Tensor, t: int | Tensor) -> Tensor:
        """Give the logits of every class.

        Parameters
        ----------
        x : (B, C, S, S) float
            Image at step t.
        t : int or (B,)
            Step, 0 ... T, as papers count it. The network's first index is for t = 1; a clean image, t = 0,
            shares it, its noise being the closest that the network was trained on.

        Returns
        -------
        (B, classes), dtype of x. Differentiable in x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings, or t is negative.
        """
        check_image("classifier", x, self.settings.channels, self.settings.size)
        emb = self.time_mlp(_sinusoid(network_index(t, x, first=0), self.settings.widths[0]).to(x.dtype))
        h = self.conv_in(F.pixel_unshuffle(x, self.settings.patch))
        for layer in self.layers:
            h = layer(h, emb) if isinstance(layer, ResidualBlock) else layer(h)
        return self.pool(self.silu_out(self.norm_out(h))).to(x.dtype)

    def layer(self, name: Literal["pooled", "middle"] | int) -> nn.Module:
        """Give the module whose output is that of the last block of a level, before it is halved.

        Parameters
        ----------
        name
            0, 1, ..., full resolution first; "middle" is the last block of all; "pooled" the same block, normed
            and activated, as the pooling sees it.

        Raises
        ------
        ConfigError
            If there is no such level.
        """
        if name == "pooled":
            return self.silu_out
        if name == "middle":
            return self.layers[-1]
        if not 0 <= name < len(self._last):
            raise ConfigError(
                f"layer = {name}, but the classifier's levels run from 0 to {len(self._last) - 1}.",
                repair='Use one of them, "middle" or "pooled".',
            )
        return self.layers[self._last[name]]


class ResidualBlock(nn.Module):
    """ADM's residual block: the time scales and shifts the features (FiLM); `halve` averages 2 x 2 pixels."""

    def __init__(
        self, before: int, after: int, embedding: int, groups: int, dropout: float, *, halve: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.time = nn.Linear(embedding, 2 * after)
        self.norm2 = nn.GroupNorm(groups, after)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zero(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        self.resample = nn.AvgPool2d(2) if halve else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Give (B, F', H', W') from features x (B, F, H, W) and the embedded step emb (B, E)."""
        h = self.conv1(self.resample(F.silu(self.norm1(x))))
        scale, shift = self.time(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(self.dropout(F.silu(self.norm2(h) * (1 + scale) + shift)))
        return self.skip(self.resample(x)) + h


class SelfAttention(nn.Module):
    """ADM's attention block. Channels of `qkv` are (query | key | value, heads, head width)."""

    def __init__(self, width: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = width // head_channels
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = _zero(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Give features of the shape of x (B, F, H, W)."""
        qkv = self.qkv(self.norm(x.flatten(2)).transpose(1, 2))
        query, key, value = (_split_heads(part, self.heads) for part in qkv.chunk(3, dim=-1))
        h = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.out(h).transpose(1, 2).reshape(x.shape)


class AttentionPool(nn.Module):
    """The mean of all pixels asks all pixels (Radford et al. 2021, CLIP, https://arxiv.org/abs/2103.00020)."""

    def __init__(self, side: int, width: int, head_channels: int, out: int) -> None:
        super().__init__()
        self.heads = width // head_channels
        self.position = nn.Parameter(torch.randn(side**2 + 1, width) / width**0.5)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, out) from features x (B, F, H, W)."""
        pixels = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([pixels.mean(dim=1, keepdim=True), pixels], dim=1) + self.position
        # Only the mean's answer is used, so only its question is asked.
        width = tokens.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(tokens[:, :1], weight[:width], bias[:width])
        key, value = F.linear(tokens, weight[width:], bias[width:]).chunk(2, dim=-1)
        q, k, v = (_split_heads(part, self.heads) for part in (query, key, value))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, F) -> (B, heads, N, F / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(1, 2)


def _sinusoid(index: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) float32: cosines, then sines, of frequencies from 1 down to 1 / 10,000."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=index.device) * (-math.log(10_000) / half))
    angle = index[:, None].float() * frequency
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _zero(module: Layer) -> Layer:
    """Start a layer at zero, as ADM does with the last of every block."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
