"""Checks of settings and inputs that the networks share, and the shift of t."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tagmask.errors import ConfigError

__all__ = ["check_image", "check_unet", "network_index"]


class _UNet(Protocol):
    """The settings that the denoiser and the classifier share; the denoiser has `heads` besides."""

    @property
    def size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def widths(self) -> tuple[int, ...]: ...
    @property
    def blocks(self) -> int: ...
    @property
    def attention(self) -> tuple[int, ...]: ...
    @property
    def head_channels(self) -> int | None: ...
    @property
    def patch(self) -> int: ...
    @property
    def dropout(self) -> float: ...


def check_unet(section: str, settings: _UNet) -> None:
    """Check the settings that the denoiser and the classifier share.

    Raises
    ------
    ConfigError
        If the network cannot be built, or would be silently other than asked for.
    """

    def refuse(what: str, repair: str) -> None:
        raise ConfigError(f"{section}.{what}.", repair=repair)

    s, heads = (
        settings,
        getattr(settings, "heads", None),
    )  # a classifier's are counted by their channels alone
    for name in ("size", "channels", "blocks", "patch"):
        if (value := getattr(s, name)) < 1:
            refuse(f"{name} = {value}, but it must be at least 1", f"Set {section}.{name}.")
    if not s.widths or any(w < 8 or w % 8 for w in s.widths):
        refuse(f"widths = {list(s.widths)}, but each must be a multiple of 8", "Multiples of 32 are best.")
    levels, step = len(s.widths), s.patch * 2 ** (len(s.widths) - 1)
    if s.size % step:
        near = max(step, round(s.size / step) * step)
        refuse(
            f"size = {s.size} does not divide by {step} (patch {s.patch} and {levels} levels)",
            f"Use size = {near}, a smaller patch, or fewer widths.",
        )
    if any(level not in range(levels) for level in s.attention) or len(set(s.attention)) < len(s.attention):
        refuse(
            f"attention = {list(s.attention)}, but levels run from 0 to {levels - 1}, each named once",
            "Level 0 is full resolution.",
        )
    if (s.head_channels is None) == (heads is None):
        refuse(
            f"head_channels = {s.head_channels} and heads = {heads}, but only one of the two is to be given",
            "Leave out the other.",
        )
    for width in {*(s.widths[level] for level in s.attention), s.widths[-1]}:
        if (parts := s.head_channels or heads or 0) < 1 or width % parts:
            refuse(
                f"head_channels = {s.head_channels}, heads = {heads} do not divide the attending width {width}",
                "Use a divisor of every width that attends, the last one included.",
            )
    if not 0 <= s.dropout < 1:
        refuse(f"dropout = {s.dropout}, but it must lie in [0, 1)", "Use 0 to turn it off.")


def check_image(section: str, x: Tensor, channels: int, size: int) -> None:
    """Check that x has the shape (B, channels, size, size).

    Raises
    ------
    ConfigError
        If it has not.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != (channels, size, size):
        raise ConfigError(
            f"the {section} takes images of shape (B, {channels}, {size}, {size}), not {tuple(x.shape)}.",
            repair="Prepare the slices with the size and channels the network was trained on.",
        )


def network_index(t: int | Tensor, x: Tensor, *, first: int = 1) -> Tensor:
    """Shift a paper's step t (1 ... T) to the network's index (0 ... T - 1): (B,), on x's device.

    Parameters
    ----------
    t : int or (B,)
        Step. A tensor is not checked: to look into it would make a GPU wait.
    x : (B, ...)
        The images.
    first
        Smallest step allowed, 0 or 1. A clean image, t = 0, shares index 0 with t = 1.

    Raises
    ------
    ConfigError
        If an int lies below `first`.
    """
    if isinstance(t, int):
        if t < first:
            raise ConfigError(
                f"step t = {t}, but the first step here is {first}.", repair="Steps run up to T."
            )
        return torch.full((len(x),), max(t - 1, 0), device=x.device)
    return (t.to(x.device) - 1).clamp(min=0).expand(len(x))
