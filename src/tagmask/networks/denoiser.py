"""ε_θ(x_t, t, e): the ADM U-Net around diffusers' UNet2DModel, with the class embedding kept outside.

The table of classes stays outside the U-Net because methods move between its rows: CDM asks for
(1 - τ) f(y0) + τ f(y1), classifier-free methods for a null row. `Denoiser.embed` is f, and
`Denoiser.forward` takes any point of its space.

References
----------
Dhariwal, Nichol 2021, "Diffusion models beat GANs on image synthesis" (ADM), https://arxiv.org/abs/2105.05233.
Che et al. 2024, "AnoFPDM" (conditioning "attention"), https://arxiv.org/abs/2404.15683.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.backbone import check_backbone, check_image, network_index
from tagmask.networks.unet import build_unet

__all__ = ["Denoiser", "DenoiserSettings"]

_EMBEDDING_SPREAD = 0.2


@dataclass(frozen=True)
class DenoiserSettings:
    """The shape of a denoiser. The defaults are the small network that a CPU can train.

    Parameters
    ----------
    size
        S, side of the image in pixels.
    channels
        C, channels of the image.
    widths
        Feature channels per level, full resolution first; each level halves the side. Multiples of 8.
        The group norms have 32 groups where that divides every width, as in ADM, else the largest
        power of two that does.
    blocks
        Residual blocks per level of the encoder; the decoder has one more.
    attention
        Levels that attend, 0 = full resolution. The middle block always attends.
    head_channels, heads
        Width of one attention head, or their number; at most one is given. Neither means a width of 32.
    patch
        Side of the pixel patches that become channels on the way in and pixels again on the way out.
    dropout
        In the residual blocks, in [0, 1).
    scale_shift
        Time and class scale and shift the normalised features (FiLM) rather than being added to them.
    resample_blocks
        Residual blocks change the resolution (ADM's `resblock_updown`) rather than convolutions.
    learn_sigma
        The network also gives the C channels that place log σ² between its two bounds.
    classes
        Number of classes; 0 = unconditional.
    conditioning
        "add": f(y) is a row of a table, added to the time embedding. "attention": f(y) is an MLP of a
        row, added likewise, and f(y) f(y)ᵀ gives every attention block extra keys and values.
    null_row
        Keep a learnt row for "no class" ("add" only; in "attention" no class is the zero vector). Off
        for published CDM networks, which have no such row.
    """

    size: int = 64
    channels: int = 1
    widths: tuple[int, ...] = (64, 96, 128)
    blocks: int = 1
    attention: tuple[int, ...] = (2,)
    head_channels: int | None = None
    heads: int | None = None
    patch: int = 1
    dropout: float = 0.0
    scale_shift: bool = True
    resample_blocks: bool = True
    learn_sigma: bool = False
    classes: int = 2
    conditioning: Literal["add", "attention"] = "add"
    null_row: bool = True

    def __post_init__(self) -> None:
        if self.head_channels is None and self.heads is None:
            object.__setattr__(self, "head_channels", 32)  # so that records of the settings say it
        check_backbone(
            "denoiser",
            size=self.size,
            channels=self.channels,
            widths=self.widths,
            blocks=self.blocks,
            attention=self.attention,
            head_channels=self.head_channels,
            heads=self.heads,
            patch=self.patch,
            dropout=self.dropout,
        )
        if self.classes < 0:
            raise ConfigError(f"denoiser.classes = {self.classes}.", repair="Use 2, or 0 for unconditional.")
        if self.conditioning not in ("add", "attention"):
            raise ConfigError(
                f'denoiser.conditioning = "{self.conditioning}".', repair='Use "add" or "attention".'
            )
        if self.conditioning == "attention" and not self.classes:
            raise ConfigError(
                'denoiser.conditioning = "attention" with denoiser.classes = 0.',
                repair='Use conditioning = "add", or give the number of classes.',
            )

    @property
    def groups(self) -> int:
        """Groups of every group norm."""
        return math.gcd(32, *self.widths)

    @property
    def embedding_width(self) -> int:
        """E, width of f(y)."""
        return 4 * self.widths[0]


class Denoiser(nn.Module):
    """ε_θ(x_t, t, e), the noise in an image at step t under condition e.

    Parameters
    ----------
    settings : DenoiserSettings

    Notes
    -----
    As in ADM the last layer of every residual block, attention block and of the network starts at
    zero, so an untrained denoiser answers 0. The class rows of "add" start near each other (standard
    deviation 0.2) so that the first thing learnt is what the classes share.

    Examples
    --------
    >>> net = Denoiser(DenoiserSettings(size=16, widths=(32, 32), attention=(1,)))
    >>> x = torch.zeros(3, 1, 16, 16)
    >>> net(x, 400, net.embed(1)).shape
    torch.Size([3, 1, 16, 16])
    """

    def __init__(self, settings: DenoiserSettings) -> None:
        super().__init__()
        self.settings = settings
        self.unet: Any = build_unet(settings)
        if settings.classes and settings.conditioning == "add":
            self.table = nn.Embedding(settings.classes + settings.null_row, self.embedding_width)
            nn.init.normal_(self.table.weight, std=_EMBEDDING_SPREAD)
        elif settings.classes:
            width = settings.widths[0]
            self.table = nn.Embedding(settings.classes, width)
            self.class_mlp = nn.Sequential(
                nn.Linear(width, self.embedding_width),
                nn.SiLU(),
                nn.Linear(self.embedding_width, self.embedding_width),
            )

    @property
    def embedding_width(self) -> int:
        """E, width of f(y)."""
        return self.settings.embedding_width

    def embed(self, y: int | Tensor | None) -> Tensor:
        """Give f(y), the condition of class y.

        Parameters
        ----------
        y : int, (B,) int64, or None
            Class, 0 ... classes - 1. None, or the number of classes, means "no class".

        Returns
        -------
        (1, E) float32 for an int or None, (B, E) for a tensor.

        Raises
        ------
        ConfigError
            If the network has no such class, or no row for "no class".
        """
        classes, device = self.settings.classes, self.unet.conv_in.weight.device
        if y is None:
            y = classes
        if isinstance(y, int):
            if not 0 <= y <= classes:
                raise ConfigError(
                    f"class {y} was asked of a denoiser with {classes} classes.",
                    repair=f"Use 0 to {classes}; {classes} means no class.",
                )
            y = torch.tensor([y], device=device)
        if not classes:
            return torch.zeros(len(y), self.embedding_width, device=device)
        if self.settings.conditioning == "attention":
            null = (y == classes)[:, None]
            c = cast(Tensor, self.class_mlp(self.table(torch.where(null[:, 0], 0, y))))
            return torch.where(null, torch.zeros_like(c), c)
        if not self.settings.null_row and bool((y == classes).any()):
            raise ConfigError(
                "this denoiser was trained without a row for no class.",
                repair="Use a method that needs only the classes (cdm), or train with null_row = true.",
            )
        return cast(Tensor, self.table(y))

    def forward(self, x: Tensor, t: int | Tensor, e: Tensor) -> Tensor:
        """Estimate the noise.

        Parameters
        ----------
        x : (B, C, S, S) float
            Image at step t.
        t : int or (B,)
            Step, 1 ... T, as papers count it.
        e : (1, E) or (B, E)
            Condition: `embed(y)` or a mixture of several.

        Returns
        -------
        (B, C, S, S), dtype of x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings, or t is 0.
        """
        return self._raw(x, t, e)[:, : self.settings.channels]

    def eps_and_variance(self, x: Tensor, t: int | Tensor, e: Tensor) -> tuple[Tensor, Tensor | None]:
        """Estimate the noise and, where it is learnt, the variance of the step back.

        Same arguments as `forward`.

        Returns
        -------
        eps : (B, C, S, S)
        v : (B, C, S, S), optional
            Nominally in [-1, 1], from the least to the largest log σ² of the step (Nichol & Dhariwal 2021,
            Eq. 15, https://arxiv.org/abs/2102.09672). None without learn_sigma.
        """
        raw, channels = self._raw(x, t, e), self.settings.channels
        return raw[:, :channels], raw[:, channels:] if self.settings.learn_sigma else None

    def _raw(self, x: Tensor, t: int | Tensor, e: Tensor) -> Tensor:
        """All output channels: (B, C or 2C, S, S)."""
        check_image("denoiser", x, self.settings.channels, self.settings.size)
        patches = F.pixel_unshuffle(x, self.settings.patch)
        out = self._unet_forward(patches, network_index(t, x), e.expand(len(x), -1))
        return F.pixel_shuffle(out, self.settings.patch).to(x.dtype)

    def _unet_forward(self, h: Tensor, index: Tensor, e: Tensor) -> Tensor:
        """Walk the U-Net. Ours because UNet2DModel.forward hands no condition to its attention blocks."""
        u, dtype = self.unet, self.unet.conv_in.weight.dtype
        condition = (e,) if self.settings.conditioning == "attention" else ()
        emb = u.time_embedding(u.time_proj(index).to(dtype)) + e
        h = u.conv_in(h)
        skips = [h]
        for block in u.down_blocks:
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                h = resnet(h, emb)
                h = h if attention is None else attention(h, *condition)
                skips.append(h)
            for sampler in block.downsamplers or ():
                h = sampler(h, emb) if self.settings.resample_blocks else sampler(h)
                skips.append(h)
        h = u.mid_block.resnets[0](h, emb)
        h = u.mid_block.resnets[1](u.mid_block.attentions[0](h, *condition), emb)
        for block in u.up_blocks:
            attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
            for resnet, attention in zip(block.resnets, attentions, strict=True):
                h = resnet(torch.cat([h, skips.pop()], dim=1), emb)
                h = h if attention is None else attention(h, *condition)
            for sampler in block.upsamplers or ():
                h = sampler(h, emb) if self.settings.resample_blocks else sampler(h)
        return cast(Tensor, u.conv_out(u.conv_act(u.conv_norm_out(h))))
