"""The shape of a denoiser, its ADM U-Net borrowed from diffusers, and attention that also looks at the class.

Che et al. 2024 (AnoFPDM, https://arxiv.org/abs/2404.15683) condition by such attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_unet

__all__ = ["ClassAttention", "DenoiserSettings", "build_unet"]


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
        check_unet("denoiser", self)
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


class ClassAttention(nn.Module):
    """An attention block whose pixels also attend to the class: c cᵀ seen as E tokens of width E.

    Parameters
    ----------
    image
        The block without the class; its layers are used as they are.
    width
        E, width of the condition c.
    """

    def __init__(self, image: Any, width: int) -> None:
        super().__init__()
        self.image = image
        # Output channels are (heads, key | value, head width), as published.
        self.class_kv = nn.Linear(width, 2 * image.inner_dim)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """Attend from every pixel to all pixels and class tokens: h (B, F, H, W), c (B, E) -> as h."""
        image = self.image
        tokens = image.group_norm(h.flatten(2)).transpose(1, 2)
        query, key, value = (
            layer(tokens).unflatten(-1, (image.heads, -1)).transpose(1, 2)
            for layer in (image.to_q, image.to_k, image.to_v)
        )
        class_key, class_value = self._class_tokens(c).to(query.dtype).unbind(2)
        key, value = torch.cat([class_key, key], dim=2), torch.cat([class_value, value], dim=2)
        out = F.scaled_dot_product_attention(query, key, value)
        out = image.to_out[0](out.transpose(1, 2).flatten(2))
        return out.transpose(1, 2).reshape(h.shape) + h

    def _class_tokens(self, c: Tensor) -> Tensor:
        """Give keys and values of the class: (B, heads, 2, E, head width).

        Token j is W (c c_j) + b = c_j (W c) + b, so the E x E matrix is never built.
        """
        heads = self.image.heads
        direction = F.linear(c, self.class_kv.weight).reshape(len(c), heads, 2, 1, -1)
        return direction * c[:, None, None, :, None] + self.class_kv.bias.reshape(heads, 2, 1, -1)


def build_unet(s: DenoiserSettings) -> Any:
    """Build UNet2DModel with the settings under which it equals ADM's U-Net, zero-initialised as ADM.

    With `conditioning = "attention"` every attention block is wrapped in a `ClassAttention`.
    """
    from diffusers import UNet2DModel
    from diffusers.models.attention_processor import Attention

    plain_down, plain_up = ("Resnet", "sample") if s.resample_blocks else ("", "")
    down = [f"{plain_down}Down{plain_up}Block2D", "AttnDownBlock2D"]
    up = [f"{plain_down}Up{plain_up}Block2D", "AttnUpBlock2D"]
    attends = [level in s.attention for level in range(len(s.widths))]
    resample = "resnet" if s.resample_blocks else "conv"
    planes = s.channels * s.patch**2
    unet: Any = UNet2DModel(
        sample_size=s.size // s.patch,
        in_channels=planes,
        out_channels=planes * (1 + s.learn_sigma),
        down_block_types=tuple(down[a] for a in attends),
        up_block_types=tuple(up[a] for a in reversed(attends)),
        block_out_channels=s.widths,
        layers_per_block=s.blocks,
        downsample_type=resample,
        upsample_type=resample,
        dropout=s.dropout,
        attention_head_dim=s.head_channels,
        norm_num_groups=s.groups,
        attn_norm_num_groups=s.groups,  # None would leave the middle attention without its norm
        resnet_time_scale_shift="scale_shift" if s.scale_shift else "default",
        class_embed_type="identity",
    )
    for name, module in unet.named_modules():
        if s.heads is not None and isinstance(module, Attention):
            module.heads = s.heads
        if name.endswith(("conv2", "conv_out", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    if s.conditioning == "attention":
        for block in (*unet.down_blocks, unet.mid_block, *unet.up_blocks):
            for j, attention in enumerate(getattr(block, "attentions", ())):
                block.attentions[j] = ClassAttention(attention, s.embedding_width)
    return unet
