"""Checks of settings and inputs that the networks share, and the shift of t."""

from __future__ import annotations

import torch
from torch import Tensor

from tagmask.errors import ConfigError

__all__ = ["check_image", "check_unet", "network_index"]


def check_unet(
    section: str,
    *,
    size: int,
    channels: int,
    widths: tuple[int, ...],
    blocks: int,
    attention: tuple[int, ...],
    head_channels: int | None,
    heads: int | None,
    patch: int,
    dropout: float,
) -> None:
    """Check the settings that the denoiser and the classifier share.

    Raises
    ------
    ConfigError
        If the network cannot be built, or would be silently other than asked for.
    """

    def refuse(what: str, repair: str) -> None:
        raise ConfigError(f"{section}.{what}.", repair=repair)

    for name, value in (("size", size), ("channels", channels), ("blocks", blocks), ("patch", patch)):
        if value < 1:
            refuse(f"{name} = {value}, but it must be at least 1", f"Set {section}.{name}.")
    if not widths or any(w < 8 or w % 8 for w in widths):
        refuse(f"widths = {list(widths)}, but each must be a multiple of 8", "Multiples of 32 are best.")
    levels, step = len(widths), patch * 2 ** (len(widths) - 1)
    if size % step:
        near = max(step, round(size / step) * step)
        refuse(
            f"size = {size} does not divide by {step} (patch {patch} and {levels} levels)",
            f"Use size = {near}, a smaller patch, or fewer widths.",
        )
    if any(level not in range(levels) for level in attention) or len(set(attention)) < len(attention):
        refuse(
            f"attention = {list(attention)}, but levels run from 0 to {levels - 1}, each named once",
            "Level 0 is full resolution.",
        )
    if (head_channels is None) == (heads is None):
        refuse(
            f"head_channels = {head_channels} and heads = {heads}, but only one of the two is to be given",
            "Leave out the other.",
        )
    for width in {*(widths[level] for level in attention), widths[-1]}:
        if (parts := head_channels or heads or 0) < 1 or width % parts:
            refuse(
                f"head_channels = {head_channels}, heads = {heads} do not divide the attending width {width}",
                "Use a divisor of every width that attends, the last one included.",
            )
    if not 0 <= dropout < 1:
        refuse(f"dropout = {dropout}, but it must lie in [0, 1)", "Use 0 to turn it off.")


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
