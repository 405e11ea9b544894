"""The errors a person can cause, and what each one means for the exit code.

    TagmaskError                     base; also a ValueError, so bad use from Python reads as usual
    ├── InputError       exit 2      a file, table or folder that cannot be used as it is
    │   ├── TableError               a row or column of a table
    │   └── GeometryError            an affine, spacing or shape
    ├── ConfigError      exit 2      a setting: unknown, out of range, or at odds with another
    ├── RunError         exit 2      a run folder that is missing, foreign or incomplete
    ├── ResourceError    exit 3      memory, disk, time: the input would need more than is allowed
    └── SecurityError    exit 4      a file that asks for more trust than Tagmask gives (pickle, path escape)

Every message says what is wrong with its value, where (file, case, key), and what to do.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

__all__ = [
    "DISK_FULL",
    "ConfigError",
    "GeometryError",
    "InputError",
    "ResourceError",
    "RunError",
    "SecurityError",
    "TableError",
    "TagmaskError",
    "did_you_mean",
]

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says where there is no room for a file: numbers of OSError."""


class TagmaskError(ValueError):
    """Something a person can mend.

    Parameters
    ----------
    what
        What is wrong, with its value.
    where
        The file, case or key it was found in. Empty when the message says so already.
    repair
        What to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: object = "", repair: str = "") -> None:
        self.what, self.where, self.repair = what, str(where), repair
        super().__init__(what, self.where, repair)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text} {self.repair}".strip()


class InputError(TagmaskError):
    """A file, table or folder that cannot be used as it is."""


class TableError(InputError):
    """A row or column of a table of cases."""


class GeometryError(InputError):
    """An affine, a spacing or a shape that does not say where the voxels lie."""


class ConfigError(TagmaskError):
    """A setting that is unknown, out of range, or at odds with another."""


class RunError(TagmaskError):
    """A run folder that is missing, foreign or incomplete."""


class ResourceError(TagmaskError):
    """The input would need more memory, disk or time than is allowed."""

    exit_code = 3


class SecurityError(TagmaskError):
    """A file that asks for more trust than Tagmask gives."""

    exit_code = 4


def did_you_mean(name: object, known: Iterable[str], *, prefix: str = "", cutoff: float = 0.6) -> str:
    """Say what to do about an unknown name: the nearest that is known, or all of them.

    Parameters
    ----------
    prefix
        What goes before the known ones.
    cutoff
        Likeness in 0 ... 1 that a name must have to be near.

    Examples
    --------
    >>> did_you_mean("stage", ["stages", "tau"], prefix="method."), did_you_mean("zzz", ["stages", "tau"])
    ('Did you mean method.stages?', 'Known here: stages, tau.')
    """
    known = list(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)
    return f"Did you mean {prefix}{near[0]}?" if near else f"Known here: {', '.join(known) or 'none'}."
