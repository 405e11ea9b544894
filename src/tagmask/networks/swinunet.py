"""Swin-Unet: a U-Net made of transformers that attend within windows, shifted from block to block.

H. Cao, Y. Wang, J. Chen, D. Jiang, X. Zhang, Q. Tian, M. Wang, "Swin-Unet: Unet-like pure transformer for medical
image segmentation", 2021, https://arxiv.org/abs/2105.05537. Counts, sizes and what differs:
docs/adr/0015-rivals-of-textdiff.md.

    C, M, d, B, z^l  ->  width, window, width of a head, bias, z

References
----------
Liu et al. 2021, "Swin transformer", https://arxiv.org/abs/2103.14030.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, pairwise

import torch
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.checks import check_image
from tagmask.types import TextTokens

__all__ = ["SwinUNet", "SwinUNetSettings"]

PATCH = 4  # pixels a side that become one token, and that the last expansion gives back


@dataclass(frozen=True)
class SwinUNetSettings:
    """The shape of a Swin-Unet; the defaults are the published one.

    Parameters
    ----------
    size, channels
        S and C of the image. Every stage's side, S / 4, S / 8, ..., must divide by the window or be smaller than it,
        and by 2 but for the last: with 4 stages 224 px for a window of 7, 256 px for one of 8.
    width
        C, channels of a token in the first stage; each stage doubles them.
    depths, heads
        Blocks (plain and shifted in turn) and attention heads of each stage, finest first; the decoder mirrors them,
        but for the last stage, which the expansion takes the place of.
    window
        M, tokens a side of a window.
    drop_path
        Share of the pictures that skip a residual branch in training, at the deepest block; it rises to that
        linearly from 0. In [0, 1).
    """

    size: int = 224
    channels: int = 3
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.2

    def __post_init__(self) -> None:
        def refuse(what: str, repair: str) -> None:
            raise ConfigError(f"swinunet.{what}.", repair=repair)

        for name in ("size", "channels"):
            if (value := getattr(self, name)) < 1:
                refuse(f"{name} = {value}, but it must be at least 1", f"Set swinunet.{name}.")
        if self.width < 2 or self.width % 2:
            refuse(f"width = {self.width}, but it must be even, at least 2", "The published network has 96.")
        if len(self.depths) < 2 or min(self.depths) < 1:
            refuse(
                f"depths = {list(self.depths)}, but there are 2 stages or more, of 1 block or more",
                "Use [2, 2].",
            )
        levels = len(self.depths)
        if len(self.heads) != levels or any(h < 1 or self.width * 2**i % h for i, h in enumerate(self.heads)):
            refuse(
                f"heads = {list(self.heads)}, but each of the {levels} stages needs a divisor of its width "
                f"({self.width}, then doubled each stage)",
                "The published network has [3, 6, 12, 24].",
            )
        if self.window < 2:
            refuse(f"window = {self.window}, but it must be at least 2", "The published network has 7.")
        if not 0 <= self.drop_path < 1:
            refuse(f"drop_path = {self.drop_path}, but it must lie in [0, 1)", "Use 0 to turn it off.")
        if not _fits(self.size, self.window, levels):
            good = next(size for size in count(self.size) if _fits(size, self.window, levels))
            other = [w for w in range(4, 17) if _fits(self.size, w, levels)]
            nearest = min(other, key=lambda w: abs(w - self.window), default=None)
            sides = ", ".join(f"{self.size / PATCH / 2**level:g}" for level in range(levels))
            refuse(
                f"size = {self.size} gives stages of {sides} tokens a side, which do not halve and divide into "
                f"windows of {self.window}",
                f"Use size = {good}" + (f", or window = {nearest}." if nearest else "."),
            )


def _fits(size: int, window: int, levels: int) -> bool:
    """Whether every stage halves and is tiled by windows, or is one smaller window itself."""
    if size % (PATCH * 2 ** (levels - 1)):
        return False
    sides = [size // PATCH // 2**level for level in range(levels)]
    return all(side % min(window, side) == 0 for side in sides)


class SwinUNet(nn.Module):
    """Pixel logits of the target; takes no text.

    Parameters
    ----------
    settings : SwinUNetSettings

    Examples
    --------
    >>> net = SwinUNet(SwinUNetSettings(size=32, channels=1, width=8, depths=(2, 1), heads=(2, 2), window=4))
    >>> net(torch.zeros(3, 1, 32, 32)).shape
    torch.Size([3, 1, 32, 32])
    """

    def __init__(self, settings: SwinUNetSettings) -> None:
        super().__init__()
        self.settings = s = settings
        widths = [s.width * 2**level for level in range(len(s.depths))]
        rates = torch.linspace(0, s.drop_path, sum(s.depths), device="cpu").tolist()

        def stage(level: int) -> nn.Sequential:
            side, first = s.size // PATCH // 2**level, sum(s.depths[:level])
            window = min(s.window, side)
            blocks = []
            for k, drop in enumerate(rates[first : first + s.depths[level]]):
                shift = window // 2 if k % 2 and window < side else 0
                blocks.append(_Block(widths[level], s.heads[level], window, shift, drop))
            return nn.Sequential(*blocks)

        self.embed = nn.Conv2d(s.channels, s.width, PATCH, stride=PATCH)
        self.norm_in = nn.LayerNorm(s.width)
        self.down = nn.ModuleList(stage(level) for level in range(len(widths)))
        self.merge = nn.ModuleList(_Merge(width) for width in widths[:-1])
        self.norm = nn.LayerNorm(widths[-1])
        self.expand = nn.ModuleList(_Expand(low, 2, high) for high, low in reversed(list(pairwise(widths))))
        self.fuse = nn.ModuleList(nn.Linear(2 * width, width) for width in widths[-2::-1])
        self.up = nn.ModuleList(stage(level) for level in range(len(widths) - 2, -1, -1))
        self.norm_out = nn.LayerNorm(s.width)
        self.enlarge = _Expand(s.width, PATCH, s.width)
        self.out = nn.Conv2d(s.width, 2, 1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

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
        check_image("swinunet", x, self.settings.channels, self.settings.size)
        z = self.norm_in(self.embed(x).permute(0, 2, 3, 1))  # tokens lie as (B, side, side, channels)
        skips = []
        for stage, merge in zip(self.down[:-1], self.merge, strict=True):
            skips.append(z)  # as published: what enters a stage, not what leaves it
            z = merge(stage(z))
        z = self.norm(self.down[-1](z))
        for expand, fuse, stage in zip(self.expand, self.fuse, self.up, strict=True):
            z = stage(fuse(torch.cat([expand(z), skips.pop()], dim=-1)))
        z = self.enlarge(self.norm_out(z))
        background, target = self.out(z.permute(0, 3, 1, 2)).split(1, dim=1)
        return (target - background).to(x.dtype)


class _Block(nn.Module):
    """Attention within windows, then an MLP; Eq. 1 and 2, or Eq. 3 and 4 if shifted."""

    def __init__(self, width: int, heads: int, window: int, shift: int, drop: float) -> None:
        super().__init__()
        self.heads, self.window, self.shift, self.drop = heads, window, shift, drop
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.attended = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.bias = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)

    def forward(self, z: Tensor) -> Tensor:
        """Give (B, H, H, C) from tokens z (B, H, H, C)."""
        z = z + self._dropped(self._attend(self.norm1(z)))
        return z + self._dropped(self.mlp(self.norm2(z)))

    def _attend(self, z: Tensor) -> Tensor:
        """W-MSA, or SW-MSA if shifted."""
        side, window, shift = z.shape[1], self.window, self.shift
        z = torch.roll(z, (-shift, -shift), dims=(1, 2))
        q, k, v = self.qkv(partition(z, window)).unflatten(3, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        bias = self.bias[relative_index(window, z.device)].permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias
        if shift:
            scores = scores.masked_fill(apart(side, window, shift, z.device)[:, None], -torch.inf)
        a = scores.softmax(dim=-1) @ v  # Eq. 5
        a = self.attended(a.transpose(2, 3).flatten(3))
        return torch.roll(reverse(a, side), (shift, shift), dims=(1, 2))

    def _dropped(self, branch: Tensor) -> Tensor:
        """Leave the branch out for some pictures of the batch, in training (stochastic depth)."""
        if not self.training or self.drop == 0:
            return branch
        kept = torch.rand(len(branch), 1, 1, 1, device=branch.device) >= self.drop
        return branch * kept / (1 - self.drop)


def partition(z: Tensor, window: int) -> Tensor:
    """Cut (B, H, H, C) into windows: (B, windows, window², C)."""
    b, side, _, c = z.shape
    n = side // window
    return z.reshape(b, n, window, n, window, c).transpose(2, 3).reshape(b, n * n, window * window, c)


def reverse(windows: Tensor, side: int) -> Tensor:
    """Put the windows of `partition` together again: (B, H, H, C)."""
    b, total, inside, c = windows.shape
    n, window = round(total**0.5), round(inside**0.5)
    return windows.reshape(b, n, n, window, window, c).transpose(2, 3).reshape(b, side, side, c)


def relative_index(window: int, device: torch.device | str = "cpu") -> Tensor:
    """Row of the table that holds the bias of two places of a window: (window², window²) int64.

    There is a row for every step (dy, dx) from one place to the other, both from -(window - 1) to window - 1.
    """
    places = torch.cartesian_prod(*2 * [torch.arange(window, device=device)])
    dy, dx = (places[:, None] - places[None] + window - 1).unbind(-1)
    return dy * (2 * window - 1) + dx


def apart(side: int, window: int, shift: int, device: torch.device | str = "cpu") -> Tensor:
    """Which places of a window must not see each other after a cyclic shift: (windows, window², window²) bool.

    The shift brings together what lies at opposite borders of the picture.
    """
    line = torch.arange(side, device=device)
    came_round = (
        line >= side - shift
    ).long()  # from the other border, into the last window of a row or column
    regions = 2 * came_round[:, None] + came_round[None]
    regions = partition(regions[None, :, :, None], window)[0, ..., 0]
    return regions[:, :, None] != regions[:, None, :]


class _Merge(nn.Module):
    """Four neighbours become one token, twice as wide (patch merging)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Give (B, H / 2, H / 2, 2 C) from tokens z (B, H, H, C)."""
        corners = [z[:, y::2, x::2] for x in (0, 1) for y in (0, 1)]
        return self.reduce(self.norm(torch.cat(corners, dim=-1)))


class _Expand(nn.Module):
    """One token becomes `times`² neighbours (patch expanding)."""

    def __init__(self, before: int, times: int, after: int) -> None:
        super().__init__()
        self.times = times
        self.enlarge = nn.Linear(before, times * times * after, bias=False)
        self.norm = nn.LayerNorm(after)

    def forward(self, z: Tensor) -> Tensor:
        """Give (B, H times, H times, F') from tokens z (B, H, H, F)."""
        b, side, _, _ = z.shape
        z = self.enlarge(z).reshape(b, side, side, self.times, self.times, -1).transpose(2, 3)
        return self.norm(z.reshape(b, side * self.times, side * self.times, -1))
