"""The machine a job runs on: which device to use, and what a manifest says of it."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tagmask import __version__
from tagmask.errors import ConfigError

__all__ = ["bf16_is_fast", "device_of", "environment", "free_memory"]


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
    """Versions, machine, processes, command and, in a checkout, the commit, for manifests."""
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
        "gpu": _gpu(),
        "cuda": torch.version.cuda,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "versions": {"tagmask": __version__} | {name: _version(name) for name in names},
        "commit": _commit(),
        "command": sys.argv,
    }


def _gpu() -> str | None:
    """Name the GPU that is used where none is named."""
    try:
        return torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except (RuntimeError, AssertionError):  # one that cannot be asked: what is done there will say so
        return None


def free_memory() -> None:
    """Let go of what nothing refers to any more, in the cache of the GPUs too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def bf16_is_fast() -> bool:
    """Whether this CPU multiplies bf16 numbers itself; otherwise fp32 is the faster of the two."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


@cache
def _commit() -> str | None:
    """Say which commit this is, "-dirty" where files were changed; None for a package that lies in no checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
