"""Features computed once and kept: in memory up to a bound, beyond it in a file that nobody else sees.

A frozen backbone and a fixed noise make features a function of the picture, so an augmentation with few outcomes
(the eight turns and mirror images) needs each of them once: docs/adr/0013-frozen-backbone.md.
"""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from tagmask.errors import ConfigError

__all__ = ["FeatureCache"]

log = logging.getLogger(__name__)

_SPARED = 2**30
"""Bytes of a disk that are left to others."""


class _Features(Protocol):
    """What is asked of `FrozenFeatures`."""

    @property
    def channels(self) -> tuple[int, ...]: ...
    def sides(self, size: int) -> tuple[int, ...]: ...
    def __call__(self, image: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True)
class _Entry:
    """Kept features: of which picture, and either themselves or where in the file they lie."""

    digest: bytes
    features: list[Tensor] | None
    offset: int = 0


class FeatureCache:
    """The features of pictures, each computed once.

    A picture goes through the backbone by itself, so what is kept is, bit for bit, what computing it again by
    itself would give.

    Parameters
    ----------
    frozen : FrozenFeatures
    limit_bytes
        Memory for kept features. What is beyond it lies on disk, and is computed again each time where the disk
        has no room for it.
    folder
        Where on disk; by default where temporary files go. Nothing can be seen there, and nothing stays, however
        the process ends.

    Raises
    ------
    ConfigError
        A negative limit, or a folder that is none.
    """

    def __init__(self, frozen: _Features, limit_bytes: int, *, folder: Path | None = None) -> None:
        if limit_bytes < 0:
            raise ConfigError(f"a feature cache of {limit_bytes} bytes.", repair="Use 0 to keep all on disk.")
        folder = Path(folder or tempfile.gettempdir())
        if not folder.is_dir():
            raise ConfigError("is no folder for cached features.", where=folder, repair="Name one, or none.")
        self.frozen, self.limit_bytes, self.folder = frozen, limit_bytes, folder
        self.memory_bytes = self.disk_bytes = 0
        self._entries: dict[Hashable, _Entry] = {}
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (nameless: gone with the process)
        self._full = False
        weakref.finalize(self, self._file.close)

    def __len__(self) -> int:
        """Number of pictures that are kept."""
        return len(self._entries)

    def entry_bytes(self, size: int) -> int:
        """Room that one picture of side `size` takes."""
        return sum(math.prod(shape) for shape in self._shapes(size)) * 4

    def get(self, key: Hashable, image: Tensor) -> list[Tensor]:
        """Give the features of one picture, computed at the first time and kept.

        Parameters
        ----------
        key
            Picture and variant, as ("case 7", 3).
        image : (1, C, S, S) float in [-1, 1]
            The variant itself.

        Returns
        -------
        As the backbone gives them: (1, channels, side, side) float32 for each block, on the image's device.
        They are not to be written to.

        Raises
        ------
        ConfigError
            Not one picture, or another picture than this key had before.
        """
        if len(image) != 1:
            raise ConfigError(f"a feature cache takes one picture at a time, not {len(image)}.")
        digest = hashlib.sha256(image.detach().float().cpu().contiguous().numpy().data).digest()
        entry = self._entries.get(key)
        if entry is None:
            found = [f.cpu().contiguous(memory_format=torch.channels_last) for f in self.frozen(image)]
            self._keep(key, digest, found)
        elif entry.digest != digest:
            raise ConfigError(
                f"the picture {key!r} is not the one whose features were kept under that name.",
                repair="Give every picture and variant a name of its own.",
            )
        else:
            found = self._read(entry.offset, image.shape[-1]) if entry.features is None else entry.features
        return [f.to(image.device) for f in found]

    def _keep(self, key: Hashable, digest: bytes, found: list[Tensor]) -> None:
        size = sum(f.numel() * f.element_size() for f in found)
        if self.memory_bytes + size <= self.limit_bytes:
            self.memory_bytes += size
            self._entries[key] = _Entry(digest, found)
        elif self._write(found, size):
            self._entries[key] = _Entry(digest, None, self.disk_bytes - size)

    def _write(self, found: list[Tensor], size: int) -> bool:
        """Add to the file, and say whether that could be done."""
        try:
            fits = not self._full and shutil.disk_usage(self.folder).free >= size + _SPARED
            if fits:
                self._file.seek(self.disk_bytes)
                for features in found:
                    self._file.write(_bytes(features))
                self._file.flush()
                self.disk_bytes += size
        except OSError:  # a quota, or somebody else was faster
            fits = False
        if not fits and not self._full:
            log.warning(
                "%s has no more room for features: those of %d pictures are kept, others are computed each time",
                self.folder,
                len(self),
            )
            self._full = True
        return fits

    def _read(self, offset: int, size: int) -> list[Tensor]:
        self._file.seek(offset)
        found = [torch.empty(shape, memory_format=torch.channels_last) for shape in self._shapes(size)]
        for features in found:
            wanted = _bytes(features)
            if self._file.readinto(wanted) != wanted.nbytes:
                raise OSError(f"kept features cannot be read back from {self.folder}")
        return found

    def _shapes(self, size: int) -> list[tuple[int, int, int, int]]:
        return [(1, c, s, s) for c, s in zip(self.frozen.channels, self.frozen.sides(size), strict=True)]


def _bytes(features: Tensor) -> memoryview:
    """Give the memory of features that lie channels last."""
    return features.permute(0, 2, 3, 1).numpy().data
