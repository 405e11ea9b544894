"""The machine a job runs on: which device to use, and what a manifest says of it."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from tagmask import __version__
from tagmask.errors import ConfigError

__all__ = ["device_of", "environment"]


def device_of(name: str) -> str:
    """Resolve "auto" to the best device of this machine; refuse one that cannot be used.

    Raises
    ------
    ConfigError
        No such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}", repair="Use auto or cpu."
        ) from None
    return name


def environment() -> dict[str, Any]:
    """Versions, machine and command, for manifests."""
    names = (
        "torch",
        "numpy",
        "diffusers",
        "accelerate",
        "monai",
        "nibabel",
        "scipy",
        "safetensors",
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": {"tagmask": __version__} | {name: _version(name) for name in names},
        "command": sys.argv,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
