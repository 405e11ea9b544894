"""Over what the features of a convolution are normalised: the batch as published, or each picture by itself."""

from __future__ import annotations

from typing import Literal, get_args

from torch import nn

from tagmask.errors import ConfigError

__all__ = ["Norm", "check_norm", "norm_layer"]

Norm = Literal["batch", "instance", "group"]
_GROUP = 16
"""Channels of a group, as Wu and He recommend."""


def norm_layer(norm: Norm, width: int) -> nn.Module:
    """Give a layer (B, width, h, w) -> the same, with a scale and a shift for each channel.

    Parameters
    ----------
    norm
        "batch": mean and variance of the batch in training, and their running averages afterwards (Ioffe, Szegedy
        2015, https://arxiv.org/abs/1502.03167). "instance": those of each picture, always (Ulyanov et al. 2016,
        https://arxiv.org/abs/1607.08022). With batches of one picture both are the same in training, and only the
        second is so afterwards. "group": those of 16 channels of each picture together, or of all where 16
        do not divide them (Wu, He 2018, https://arxiv.org/abs/1803.08494), so that what is the same at every pixel of
        one channel is not taken away.
        docs/adr/0018-norms-of-few-pictures.md.
    """
    if norm == "batch":
        return nn.BatchNorm2d(width)
    if norm == "instance":
        return nn.InstanceNorm2d(width, affine=True)
    return nn.GroupNorm(width // _GROUP if width % _GROUP == 0 else 1, width)


def check_norm(section: str, norm: str, smallest: int) -> None:
    """Refuse what is no norm, or one that would have a single pixel to normalise over.

    Parameters
    ----------
    smallest
        Side of the smallest features.

    Raises
    ------
    ConfigError
        Naming the setting.
    """
    if norm not in (known := get_args(Norm)):
        raise ConfigError(
            f'{section}.norm = "{norm}".', repair=f"Use {', '.join(known[:-1])} or {known[-1]}."
        )
    if norm == "instance" and smallest < 2:
        raise ConfigError(
            f'{section}.norm = "instance", but the smallest features are of one pixel, whose variance is 0.',
            repair='Use norm = "group" or "batch", a larger size or fewer levels.',
        )
