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

from collections import deque
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.adm_unet import DenoiserSettings, build_unet
from tagmask.networks.checks import check_image, network_index

__all__ = ["Denoiser", "DenoiserSettings"]

_EMBEDDING_SPREAD = 0.2
_TOGETHER = 4 * 2**20
"""Bytes of an image's largest activation; beyond, a CPU loses by a batch (docs/evidence/speed.md)."""


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
            c = self.class_mlp(self.table(torch.where(null[:, 0], 0, y)))
            return torch.where(null, torch.zeros_like(c), c)
        if not self.settings.null_row and bool((y == classes).any()):
            raise ConfigError(
                "this denoiser was trained without a row for no class.",
                repair="Use a method that needs only the classes (cdm), or train with null_row = true.",
            )
        return self.table(y)

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

    def decoder(self, x: Tensor, t: int | Tensor, e: Tensor) -> Iterator[Tensor]:
        """Walk the U-Net and give the output of decoder block after decoder block, the deepest first.

        A block runs when it is asked for, so who stops asking saves the rest.

        Parameters
        ----------
        x : (B, C, S, S) float
            Image at step t. S may differ from the settings' size; it divides by patch · 2^(levels - 1).
        t, e
            As of `forward`.

        Yields
        ------
        (B, F, s, s) float
            Of block k = (blocks + 1) u + j, the j-th of the u-th level from below: after its residual and
            attention block, and after the change of resolution if it is the last of its level.
        """
        # UNet2DModel.forward hands no condition to its attention blocks, and gives no block's output.
        u, dtype = self.unet, self.unet.conv_in.weight.dtype
        e = e.expand(len(x), -1)
        condition = (e,) if self.settings.conditioning == "attention" else ()
        emb = u.time_embedding(u.time_proj(network_index(t, x)).to(dtype)) + e
        h = u.conv_in(F.pixel_unshuffle(x, self.settings.patch))
        skips = [h]
        for block in u.down_blocks:
            for resnet, attention in _layers(block):
                h = resnet(h, emb)
                h = h if attention is None else attention(h, *condition)
                skips.append(h)
            for sampler in block.downsamplers or ():
                h = sampler(h, emb) if self.settings.resample_blocks else sampler(h)
                skips.append(h)
        h = u.mid_block.resnets[0](h, emb)
        h = u.mid_block.resnets[1](u.mid_block.attentions[0](h, *condition), emb)
        for block in u.up_blocks:
            for resnet, attention in _layers(block):
                h = resnet(torch.cat([h, skips.pop()], dim=1), emb)
                h = h if attention is None else attention(h, *condition)
                if resnet is block.resnets[-1]:
                    for sampler in block.upsamplers or ():
                        h = sampler(h, emb) if self.settings.resample_blocks else sampler(h)
                yield h

    def one_by_one(self, x: Tensor) -> bool:
        """Whether a batch gains nothing over its images one after the other: large ones on a CPU, in inference."""
        pixels = x[0, 0].numel() // self.settings.patch**2
        bytes_each = pixels * self.settings.widths[0] * x.element_size()
        return x.device.type == "cpu" and not torch.is_grad_enabled() and bytes_each > _TOGETHER

    def _raw(self, x: Tensor, t: int | Tensor, e: Tensor) -> Tensor:
        """All output channels: (B, C or 2C, S, S)."""
        check_image("denoiser", x, self.settings.channels, self.settings.size)
        if len(x) > 1 and self.one_by_one(x):
            t, e = network_index(t, x) + 1, e.expand(len(x), -1)
            return torch.cat([self._raw(x[i : i + 1], t[i : i + 1], e[i : i + 1]) for i in range(len(x))])
        h, u = deque(self.decoder(x, t, e), maxlen=1).pop(), self.unet
        out = u.conv_out(u.conv_act(u.conv_norm_out(h)))
        return F.pixel_shuffle(out, self.settings.patch).to(x.dtype)


def _layers(block: Any) -> Iterator[tuple[Any, Any]]:
    """Pair the residual blocks of a level with the attention blocks that follow them, if it attends."""
    return zip(block.resnets, getattr(block, "attentions", None) or repeat(None), strict=False)
