"""LViT: a U-Net with a vision transformer beside each level, into whose finest level a sentence is added.

Z. Li, Y. Li, Q. Li, P. Wang, D. Guo, L. Lu, D. Jin, Y. Zhang, Q. Hong, "LViT: Language meets vision transformer in
medical image segmentation", IEEE TMI 2023, https://arxiv.org/abs/2206.14718. The defaults are its LViT-T, with
`text = False` its variant without text. Counts, texts and what differs: docs/adr/0015-rivals-of-textdiff.md.

    DownCNN, UpCNN    ->  down, up           PLAM, the pixel-level attention module  ->  gates
    DownViT, UpViT    ->  vit_down, vit_up   CTBN, convolution, batch norm and ReLU  ->  hand_down, hand_up, place
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image
from tagmask.types import TextTokens

__all__ = ["LViT", "LViTSettings"]

PATCHES = (
    16,
    8,
    4,
    2,
)  # pixels of a level, finest first, that make one image token: S / 16 tokens a side at all


@dataclass(frozen=True)
class LViTSettings:
    """The shape of an LViT; the defaults are the published LViT-T for MoNuSeg and QaTa-COV19.

    Parameters
    ----------
    size, channels
        S and C of the image. S is a multiple of 16.
    width
        Feature channels at full resolution; the levels below have 2, 4, 8 and 8 times as many.
    heads
        Attention heads, a divisor of the width.
    dropout
        Of image tokens and inside MLPs, in [0, 1).
    text
        Whether it reads a sentence.
    text_width
        W, the width of the text encoder's tokens: 768 for BERT, 384 for MiniLM.
    tokens
        Words it reads of a sentence. Shorter sentences end in zeros, longer ones are cut. 10 as published;
        32 hold the whole sentence in QaTa-COV19 and MoNuSeg.
    null_text
        Learn what stands for a missing sentence; without it a picture that has none is refused.
    """

    size: int = 224
    channels: int = 3
    width: int = 64
    heads: int = 8
    dropout: float = 0.1
    text: bool = True
    text_width: int = 768
    tokens: int = 10
    null_text: bool = False

    def __post_init__(self) -> None:
        def refuse(what: str, repair: str) -> None:
            raise ConfigError(f"lvit.{what}.", repair=repair)

        for name in ("channels", "width", "heads", "text_width", "tokens"):
            if (value := getattr(self, name)) < 1:
                refuse(f"{name} = {value}, but it must be at least 1", f"Set lvit.{name}.")
        if self.size < PATCHES[0] or self.size % PATCHES[0]:
            near = max(PATCHES[0], math.ceil(self.size / PATCHES[0]) * PATCHES[0])
            refuse(f"size = {self.size} is not a multiple of {PATCHES[0]}", f"Use size = {near}.")
        if self.width % self.heads:
            refuse(f"heads = {self.heads} do not divide width = {self.width}", "Use a divisor of the width.")
        if not 0 <= self.dropout < 1:
            refuse(f"dropout = {self.dropout}, but it must lie in [0, 1)", "Use 0 to turn it off.")
        if self.null_text and not self.text:
            refuse("null_text = True, but text = False", "Leave null_text out: this network reads no text.")

    @property
    def reads_text(self) -> bool:
        """Whether a sentence can change the answer."""
        return self.text


class LViT(nn.Module):
    """Pixel logits of the target, from a picture and its sentence.

    Parameters
    ----------
    settings : LViTSettings

    Examples
    --------
    >>> net = LViT(LViTSettings(size=32, width=4, heads=2, text_width=6, tokens=5))
    >>> text = TextTokens(torch.zeros(3, 7, 6), torch.ones(3, 7, dtype=torch.bool))
    >>> net(torch.zeros(3, 3, 32, 32), text).shape
    torch.Size([3, 1, 32, 32])
    """

    def __init__(self, settings: LViTSettings) -> None:
        super().__init__()
        self.settings = s = settings
        widths = [s.width * 2**level for level in range(4)]
        n = (s.size // PATCHES[0]) ** 2
        self.enter = _convolutions(s.channels, widths[0], 1)
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _convolutions(before, after, 2))
            for before, after in zip(widths, (*widths[1:], widths[3]), strict=True)
        )
        self.embed = nn.ModuleList(nn.Conv2d(w, w, p, stride=p) for w, p in zip(widths, PATCHES, strict=True))
        self.position = nn.ParameterList(torch.zeros(1, n, w) for w in widths)
        self.dropout = nn.Dropout(s.dropout)
        self.vit_down = nn.ModuleList(_Layer(w, s.heads, s.dropout) for w in widths)
        self.vit_up = nn.ModuleList(_Layer(w, s.heads, s.dropout) for w in widths)
        self.hand_down = nn.ModuleList(_along(2 * w, w) for w in widths[:3])
        self.hand_up = nn.ModuleList(_along(2 * w, w) for w in widths[:3])
        self.back = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, w, 1), nn.BatchNorm2d(w), nn.ReLU(inplace=True)) for w in widths
        )
        self.gates = nn.ModuleList(_Gate(w) for w in widths)
        self.up = nn.ModuleList(
            _convolutions(2 * w, after, 2) for w, after in zip(widths, (widths[0], *widths[:3]), strict=True)
        )
        self.out = nn.Conv2d(widths[0], 1, 1)
        if s.text:
            chain = (s.text_width, *widths[::-1])
            self.words = nn.Sequential(*(nn.Conv1d(a, b, 3, padding=1) for a, b in pairwise(chain)))
            self.place = _along(s.tokens, n)
        if s.null_text:
            self.null = nn.Parameter(torch.zeros(1, s.tokens, s.text_width))

    def forward(self, x: Tensor, text: TextTokens | None = None) -> Tensor:
        """Give the logit of every pixel.

        Parameters
        ----------
        x : (B, C, S, S) float
            Image, in [-1, 1].
        text : B sentences of width W
            Not looked at if the settings say `text = False`.

        Returns
        -------
        (B, 1, S, S), dtype of x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings, the sentences are of another number or width, or one
            is missing that the network has no null text for.
        """
        check_image("lvit", x, self.settings.channels, self.settings.size)
        said = self._read(text, len(x)) if self.settings.text else None
        h = self.enter(x)
        skips: list[Tensor] = []
        tokens: list[Tensor] = []
        for level in range(4):
            y = self.dropout(self.embed[level](h).flatten(2).transpose(1, 2) + self.position[level])
            if level == 0 and said is not None:
                y = y + said  # text enters at the first level alone
            y = self.vit_down[level](y)
            if level > 0:
                y = torch.cat([_over(self.hand_down[level - 1], y), tokens[-1]], dim=2)
            skips.append(h)
            tokens.append(y)
            h = self.down[level](h)
        for level in (3, 2, 1, 0):
            own = self.vit_up[level](tokens[level])
            y = own if level == 3 else own + _over(self.hand_up[level], y)
            side = x.shape[-1] // PATCHES[0]
            picture = F.interpolate(y.transpose(1, 2).unflatten(2, (side, side)), scale_factor=PATCHES[level])
            skips[level] = skips[level] + self.back[level](picture)
        for level in (3, 2, 1, 0):
            h = F.interpolate(h, scale_factor=2)
            h = self.up[level](torch.cat([self.gates[level](skips[level]), h], dim=1))
        return self.out(h).to(x.dtype)

    def _read(self, text: TextTokens | None, pictures: int) -> Tensor:
        """Say what a sentence adds to each image token: (B, (S / 16)², width)."""
        s = self.settings
        if text is None:
            blank = self.position[0].new_zeros(pictures, s.tokens, s.text_width)
            text = TextTokens(blank, blank[..., 0].bool())
        if len(text) != pictures or text.embedding.shape[2] != s.text_width:
            raise ConfigError(
                f"the lvit takes {pictures} sentences of width {s.text_width} with as many pictures, not "
                f"{len(text)} of width {text.embedding.shape[2]}.",
                repair="Use the text encoder the network was trained with.",
            )
        z = text.embedding.masked_fill(~text.mask[..., None], 0)[:, : s.tokens]
        z = F.pad(z, (0, 0, 0, s.tokens - z.shape[1]))
        told = text.mask.any(dim=1)
        if s.null_text:
            z = torch.where(told[:, None, None], z, self.null)
        elif not told.all():
            raise ConfigError(
                f"the lvit reads sentences, but {int((~told).sum())} of {pictures} pictures have none.",
                repair="Give every picture its text, or train with null_text = true and text_dropout.",
            )
        words = self.words(z.transpose(1, 2)).transpose(1, 2)
        return self.place(words)


class _Layer(nn.Module):
    """A transformer layer, norms first; GELU and dropout after both linear maps of the MLP."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(4 * width, width), nn.GELU(), nn.Dropout(dropout),
        )  # fmt: skip
        for linear in (self.mlp[0], self.mlp[3]):
            nn.init.xavier_uniform_(cast(Tensor, linear.weight))
            nn.init.normal_(cast(Tensor, linear.bias), std=1e-6)

    def forward(self, y: Tensor) -> Tensor:
        """Give (B, N, F) from tokens y (B, N, F)."""
        q, k, v = self.qkv(self.norm1(y)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v)
        y = y + self.attended(a.transpose(1, 2).flatten(2))
        return y + self.mlp(self.norm2(y))


class _Gate(nn.Module):
    """Weigh every pixel by the mean and the maximum of its features (PLAM)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Conv2d(width, width, 1, bias=False)
        self.max = nn.Conv2d(width, width, 1, bias=False)
        self.weight = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, F, H, W) from features x (B, F, H, W)."""
        mean = F.relu(self.mean(x)).mean(dim=1, keepdim=True)
        largest = F.relu(self.max(x)).amax(dim=1, keepdim=True)
        return self.weight(torch.cat([mean, largest, mean + largest], dim=1)) * x


def _convolutions(before: int, after: int, times: int) -> nn.Sequential:
    """3 x 3 convolution, batch norm and ReLU, once or twice; with biases, as published."""
    layers: list[nn.Module] = []
    for width in (before, after)[:times]:
        layers += [nn.Conv2d(width, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _along(before: int, after: int) -> nn.Sequential:
    """Convolution of length 3, batch norm and ReLU (CTBN): (B, before, N) to (B, after, N)."""
    return nn.Sequential(nn.Conv1d(before, after, 3, padding=1), nn.BatchNorm1d(after), nn.ReLU(inplace=True))


def _over(module: nn.Module, y: Tensor) -> Tensor:
    """Apply a CTBN to the features of tokens y (B, N, F), along the tokens."""
    return module(y.transpose(1, 2)).transpose(1, 2)
