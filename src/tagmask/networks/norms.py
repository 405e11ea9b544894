"""Over what the features of a convolution are normalised: the batch as published, or each picture by itself."""

from __future__ import annotations

from typing import Literal

from torch import nn

from tagmask.errors import ConfigError

__all__ = ["Norm", "check_norm", "norm_layer"]

Norm = Literal["batch", "instance"]


def norm_layer(norm: Norm, width: int) -> nn.Module:
    """Give a layer (B, width, h, w) -> the same, with a scale and a shift for each channel.

    Parameters
    ----------
    norm
        "batch": mean and variance of the batch in training, and their running averages afterwards (Ioffe, Szegedy
        2015, https://arxiv.org/abs/1502.03167). "instance": those of each picture, always (Ulyanov et al. 2016,
        https://arxiv.org/abs/1607.08022). With batches of one picture both are the same in training, and only the
        second is so afterwards: docs/adr/0018-norms-of-few-pictures.md.
    """
    return nn.BatchNorm2d(width) if norm == "batch" else nn.InstanceNorm2d(width, affine=True)


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
    if norm not in ("batch", "instance"):
        raise ConfigError(f'{section}.norm = "{norm}".', repair='Use "batch" or "instance".')
    if norm == "instance" and smallest < 2:
        raise ConfigError(
            f'{section}.norm = "instance", but the smallest features are of one pixel, whose variance is 0.',
            repair='Use norm = "batch", a larger size or fewer levels.',
        )
