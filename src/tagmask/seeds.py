"""Randomness by name: what is drawn belongs to a key, and not to the order in which things happen."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["keyed"]


def keyed(*key: object) -> torch.Generator:
    """Make a CPU generator whose stream belongs to the key, for instance (seed, "noise", step)."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode(errors="backslashreplace")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
