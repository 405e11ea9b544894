"""GLoRIA's segmenter: a U-Net upon a ResNet-50 that has learnt from pictures and their sentences.

S.-C. Huang, L. Shen, M. P. Lungren, S. Yeung, "GLoRIA: a multimodal global-local representation learning framework for
label-efficient medical image recognition", ICCV 2021, https://doi.org/10.1109/ICCV48922.2021.00391. It reads no
text; how its encoder learns from text is in `tagmask.networks.gloria_pair`. Counts and what differs:
docs/adr/0015-rivals-of-textdiff.md.

References
----------
He et al. 2016, "Deep residual learning", https://arxiv.org/abs/1512.03385; tensors are named as everywhere.
Iakubovskii 2019, "Segmentation models PyTorch", https://github.com/qubvel-org/segmentation_models.pytorch: the decoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image
from tagmask.types import TextTokens

__all__ = ["Encoder", "Gloria", "GloriaSettings", "check_encoder"]

STRIDE = 32  # pixels between the encoder's coarsest features


@dataclass(frozen=True)
class GloriaSettings:
    """The shape of GLoRIA's segmenter; the defaults are the published one.

    Parameters
    ----------
    size, channels
        S and C of the image. S is a multiple of 32.
    width
        Feature channels of the encoder's first convolution; its stages have 4, 8, 16 and 32 times as many.
    blocks
        Residual blocks of the encoder's four stages.
    decoder
        Feature channels of the decoder's five steps, coarsest first.
    """

    size: int = 224
    channels: int = 3
    width: int = 64
    blocks: tuple[int, int, int, int] = (3, 4, 6, 3)
    decoder: tuple[int, int, int, int, int] = (256, 128, 64, 32, 16)

    def __post_init__(self) -> None:
        check_encoder("gloria", size=self.size, channels=self.channels, width=self.width, blocks=self.blocks)
        if len(self.decoder) != 5 or min(self.decoder) < 1:
            raise ConfigError(
                f"gloria.decoder = {list(self.decoder)}, but its 5 steps have at least 1 channel each.",
                repair="Use [256, 128, 64, 32, 16].",
            )


def check_encoder(
    section: str, *, size: int, channels: int, width: int, blocks: tuple[int, int, int, int]
) -> None:
    """Check the settings of the encoder, which the segmenter and the pairs share.

    Raises
    ------
    ConfigError
        If it cannot be built.
    """
    for name, value in (("channels", channels), ("width", width)):
        if value < 1:
            raise ConfigError(
                f"{section}.{name} = {value}, but it must be at least 1.", repair=f"Set {section}.{name}."
            )
    if size < STRIDE or size % STRIDE:
        near = max(STRIDE, math.ceil(size / STRIDE) * STRIDE)
        raise ConfigError(
            f"{section}.size = {size} is not a multiple of {STRIDE}.", repair=f"Use size = {near}."
        )
    if len(blocks) != 4 or min(blocks) < 1:
        raise ConfigError(
            f"{section}.blocks = {list(blocks)}, but each of the 4 stages has at least 1.",
            repair="Use [3, 4, 6, 3].",
        )


class Gloria(nn.Module):
    """Pixel logits of the target; takes no text.

    Parameters
    ----------
    settings : GloriaSettings

    Examples
    --------
    >>> tiny = GloriaSettings(size=32, channels=1, width=4, blocks=(1, 1, 1, 1), decoder=(8, 8, 4, 4, 4))
    >>> Gloria(tiny)(torch.zeros(2, 1, 32, 32)).shape
    torch.Size([2, 1, 32, 32])
    """

    def __init__(self, settings: GloriaSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.encoder = Encoder(s.channels, s.width, s.blocks)
        skips = (*self.encoder.widths[-2::-1], 0)
        before = (self.encoder.widths[-1], *s.decoder)
        self.decoder = nn.ModuleList(
            _two_convolutions(low + skip, high)
            for low, skip, high in zip(before, skips, s.decoder, strict=False)
        )
        self.out = nn.Conv2d(s.decoder[-1], 1, 3, padding=1)

    def forward(self, x: Tensor, text: TextTokens | None = None) -> Tensor:
        """Give the logit of every pixel.

        Parameters
        ----------
        x : (B, C, S, S) float
            Image, in [-1, 1].
        text
            Not looked at: GLoRIA's words have done their work when the encoder was trained.

        Returns
        -------
        (B, 1, S, S), dtype of x.

        Raises
        ------
        ConfigError
            If x is not of the size and channels of the settings.
        """
        check_image("gloria", x, self.settings.channels, self.settings.size)
        *skips, h = self.encoder(x)
        for block in self.decoder:
            h = F.interpolate(h, scale_factor=2)
            h = block(torch.cat([h, skips.pop()], dim=1) if skips else h)
        return self.out(h).to(x.dtype)


class Encoder(nn.Module):
    """A ResNet-50 without its classifier."""

    def __init__(self, channels: int, width: int, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.widths = (width, *(4 * width * 2**stage for stage in range(4)))
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        before = width
        for stage, count in enumerate(blocks):
            layers = []
            for k in range(count):
                stride = 2 if stage > 0 and k == 0 else 1
                layers.append(_Bottleneck(before, width * 2**stage, stride))
                before = self.widths[stage + 1]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        """Give features (B, widths[k], S / 2^(k + 1), S / 2^(k + 1)), k = 0 ... 4."""
        h = F.relu(self.bn1(self.conv1(x)))
        features = [h]
        h = F.max_pool2d(h, 3, stride=2, padding=1)
        for stage in range(1, 5):
            h = self.get_submodule(f"layer{stage}")(h)
            features.append(h)
        return features


class _Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the last four times as wide, beside a skip."""

    def __init__(self, before: int, inner: int, stride: int) -> None:
        super().__init__()
        after = 4 * inner
        self.conv1, self.bn1 = nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Give (B, F', H', W') from features x (B, F, H, W)."""
        h = F.relu(self.bn1(self.conv1(x)))
        h = F.relu(self.bn2(self.conv2(h)))
        return F.relu(self.bn3(self.conv3(h)) + self.downsample(x))


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    """Twice 3 x 3 convolution, batch norm, ReLU. No bias: the norm's shift is one."""
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
    return nn.Sequential(*layers)
