"""The supervised baseline: a U-Net that reads masks, the upper row of every table.

References
----------
Ronneberger, Fischer, Brox 2015, "U-Net", https://arxiv.org/abs/1505.04597; with batch norms, as the
papers of this field count it: `SegmenterSettings(channels=3, widths=(64, 128, 256, 512, 1024))` has
31.04 M parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image
from tagmask.networks.norms import Norm, check_norm, norm_layer
from tagmask.types import TextTokens

__all__ = ["Segmenter", "SegmenterSettings"]


@dataclass(frozen=True)
class SegmenterSettings:
    """The shape of a segmenter.

    Parameters
    ----------
    size, channels
        S and C of the image.
    widths
        Feature channels per level, full resolution first; each level halves the side. The default is
        small; the papers' baseline is (64, 128, 256, 512, 1024).
    dropout
        Of whole feature channels at the lowest level, in [0, 1).
    norm
        "batch" as published, or "instance" or "group", which do not depend on the other pictures of a training; see
        `tagmask.networks.norms.norm_layer`.
    """

    size: int = 64
    channels: int = 1
    widths: tuple[int, ...] = (32, 64, 128, 256)
    dropout: float = 0.0
    norm: Norm = "batch"

    def __post_init__(self) -> None:
        def refuse(what: str, repair: str) -> None:
            raise ConfigError(f"segmenter.{what}.", repair=repair)

        for name, value in (("size", self.size), ("channels", self.channels)):
            if value < 1:
                refuse(f"{name} = {value}, but it must be at least 1", f"Set segmenter.{name}.")
        if not self.widths or min(self.widths) < 1:
            refuse(f"widths = {list(self.widths)}, but each must be at least 1", "Give one for each level.")
        step = 2 ** (len(self.widths) - 1)
        if self.size % step:
            near = max(step, round(self.size / step) * step)
            refuse(
                f"size = {self.size} does not divide by {step} ({len(self.widths)} levels)",
                f"Use size = {near}, or fewer widths.",
            )
        if not 0 <= self.dropout < 1:
            refuse(f"dropout = {self.dropout}, but it must lie in [0, 1)", "Use 0 to turn it off.")
        check_norm("segmenter", self.norm, self.size // step)


class Segmenter(nn.Module):
    """Pixel logits of the target.

    Parameters
    ----------
    settings : SegmenterSettings

    Notes
    -----
    With batch norms the members of a batch see each other in training, and never in evaluation mode.

    Examples
    --------
    >>> net = Segmenter(SegmenterSettings(size=16, widths=(8, 16)))
    >>> net(torch.zeros(3, 1, 16, 16)).shape
    torch.Size([3, 1, 16, 16])
    """

    def __init__(self, settings: SegmenterSettings) -> None:
        super().__init__()
        self.settings = settings
        widths = settings.widths
        self.down = nn.ModuleList(
            _two_convolutions(before, after, settings.norm)
            for before, after in zip((settings.channels, *widths), widths, strict=False)
        )
        self.halve = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(settings.dropout)
        steps = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(low, high, 2, stride=2) for low, high in steps)
        self.up = nn.ModuleList(_two_convolutions(2 * high, high, settings.norm) for _, high in steps)
        self.out = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: Tensor, text: TextTokens | None = None) -> Tensor:
        """Give the logit of every pixel.

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
        check_image("segmenter", x, self.settings.channels, self.settings.size)
        h, skips = self.down[0](x), []
        for block in self.down[1:]:
            skips.append(h)
            h = block(self.halve(h))
        h = self.dropout(h)
        for enlarge, block in zip(self.enlarge, self.up, strict=True):
            h = block(torch.cat([skips.pop(), enlarge(h)], dim=1))
        return self.out(h).to(x.dtype)


def _two_convolutions(before: int, after: int, norm: Norm) -> nn.Sequential:
    """Twice 3 x 3 convolution, norm, ReLU. No bias: the norm's shift is one."""
    layers: list[nn.Module] = []
    for width in (before, after):
        layers += [nn.Conv2d(width, after, 3, padding=1, bias=False), norm_layer(norm, after), nn.ReLU(True)]
    return nn.Sequential(*layers)
