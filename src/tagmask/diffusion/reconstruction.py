"""What the methods share that rebuild an image without its target and look at the difference.

Between an image and its noise lies a ladder of steps 0 < ... < L; they climb it, or jump, and come back down.
"""

from __future__ import annotations

from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError

__all__ = ["check_ladder", "check_level", "normalised", "pick", "stops"]


def check_ladder(noise_level: int, stride: int, modalities: tuple[int, ...] | None) -> None:
    """Refuse settings of a walk that make no sense with any network.

    Raises
    ------
    ConfigError
        A level below 1, a stride beyond it, or modalities that are none, negative or listed twice.
    """
    if not 1 <= stride <= noise_level:
        raise ConfigError(
            f"noise_level = {noise_level} and stride = {stride}, but 1 <= stride <= noise_level must hold: "
            "the walk takes every stride-th step up to the noise level.",
        )
    listed = (0,) if modalities is None else modalities
    if not listed or min(listed) < 0 or len(set(listed)) < len(listed):
        raise ConfigError(
            f"modalities = {list(listed)}, but they are channels, each once, counted from 0.",
            repair="Leave it out to compare all channels.",
        )


def check_level(noise_level: int, schedule: NoiseSchedule) -> None:
    """Refuse a noise level that the network never saw.

    Raises
    ------
    ConfigError
        It is beyond the schedule.
    """
    if noise_level > schedule.steps:
        raise ConfigError(
            f"the walk goes to step {noise_level}, but the network was trained with {schedule.steps} steps.",
            repair="Choose a lower noise_level.",
        )


def stops(noise_level: int, stride: int = 1) -> list[int]:
    """Give the steps from 0 to the noise level, every stride-th counted down from it.

    Examples
    --------
    >>> stops(4), stops(7, 3)
    ([0, 1, 2, 3, 4], [0, 1, 4, 7])
    """
    return [0, *reversed(range(noise_level, 0, -stride))]


def pick(x: Tensor, modalities: tuple[int, ...] | None) -> Tensor:
    """Give some channels of (B, C, S, S), or all.

    Raises
    ------
    ConfigError
        There is no such channel.
    """
    if modalities is None:
        return x
    if max(modalities) >= x.shape[1]:
        raise ConfigError(
            f"modalities = {list(modalities)}, but the images have {x.shape[1]} channels.",
            repair=f"Use 0 to {x.shape[1] - 1}.",
        )
    return x[:, list(modalities)]


def normalised(schedule: NoiseSchedule, x: Tensor, t: int, eps: Tensor, quantile: float) -> Tensor:
    """Give the ε that belongs to x̂_0 brought into [-1, 1] by a quantile of its own (dynamic thresholding).

    x̂_0 is cut at ± q and divided by it, q being the quantile of |x̂_0| over the pixels of a channel, at least
    1: it leaves alone what lies in [-1, 1] and saturates less than `NoiseSchedule.clip` under strong guidance
    (Saharia et al. 2022, Sect. 2.3, https://arxiv.org/abs/2205.11487).

    Parameters
    ----------
    x, eps : (B, C, S, S) float32
    t
        Step, at least 1.
    quantile
        In (0, 1].
    """
    x0 = schedule.clean(x, t, eps)
    q = x0.abs().flatten(2).quantile(quantile, dim=2).clamp(min=1)[..., None, None]
    signal, sigma = schedule.signal_noise(t, x)
    return (x - signal * (x0.clamp(-q, q) / q)) / sigma
