"""A frozen backbone that is one line, and what tests of heads on top of one share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tagmask.networks.features import FeatureSettings
from tagmask.types import TextTokens


class StillFeatures(nn.Module):
    """Stands in for `FrozenFeatures`: the picture shrunk to each side, times random columns.

    A module, unlike the real one, so that a head which took it in by mistake would show its weights.
    """

    def __init__(self, channels: Sequence[int], sides: Sequence[int], image_channels: int = 3) -> None:
        super().__init__()
        self.channels, self.sides_of, self.image_channels = tuple(channels), tuple(sides), image_channels
        self.sha256 = "0" * 64
        generator = torch.Generator().manual_seed(3)
        self.columns = nn.ParameterList(torch.randn(c, image_channels, generator=generator) for c in channels)

    @torch.no_grad()
    def forward(self, image: Tensor) -> list[Tensor]:
        small = (F.adaptive_avg_pool2d(image.float(), side) for side in self.sides_of)
        return [
            torch.einsum("ci,bihw->bchw", column, x) for column, x in zip(self.columns, small, strict=True)
        ]


def backbone(count: int, **changes: Any) -> FeatureSettings:
    """Settings of a backbone of which so many blocks are read."""
    return FeatureSettings(Path("denoiser.safetensors"), blocks=tuple(range(count)), **changes)


def random_features(channels: Sequence[int], sides: Sequence[int], count: int = 2) -> list[Tensor]:
    return [torch.randn(count, c, s, s) for c, s in zip(channels, sides, strict=True)]


def sentences(count: int = 2, tokens: int = 3, width: int = 5) -> TextTokens:
    """Sentences in which every token counts."""
    return TextTokens(torch.randn(count, tokens, width), torch.ones(count, tokens, dtype=torch.bool))


class _Sizes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


@contextmanager
def largest_tensor() -> Iterator[_Sizes]:
    """Watch every operation, those of the backward pass too, for the number of elements it gives."""
    with _Sizes() as sizes:
        yield sizes
