"""Whether the values of a mask that somebody named are in any of the masks that were read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tagmask.errors import InputError, TagmaskError
from tagmask.io import mask_labels

__all__ = ["LabelCheck"]

_SHOWN = 8


@dataclass(frozen=True)
class LabelCheck:
    """Notes of each mask whether it holds a label; several threads may do so.

    Parameters
    ----------
    labels
        As somebody named them; None where nobody did, and nothing is refused.
    """

    labels: Sequence[int] | None
    _holding: dict[Path, bool] = field(default_factory=dict, repr=False)

    def note(self, path: Path, mask: np.ndarray) -> None:
        """Note a mask, bool, as it was read with the labels."""
        self._holding[path] = bool(mask.any())

    def check(self) -> None:
        """Refuse labels that no mask holds, where any mask was read.

        Raises
        ------
        InputError
            Naming the labels, and values of the first mask.
        """
        if self.labels is None or not self._holding or any(self._holding.values()):
            return
        first = min(self._holding)
        raise InputError(
            f"none of {len(self._holding)} masks holds a label of {', '.join(map(str, self.labels))}{_values(first)}.",
            where="mask_labels",
            repair="Name values that the masks have (--mask-labels).",
        )


def _values(path: Path) -> str:
    """Say which values a mask has, where it is one file."""
    try:
        values = [str(value) for value in mask_labels(path)]
    except TagmaskError:
        return ""
    return f"; {path} holds {', '.join(values[:_SHOWN])}" + (", ..." if len(values) > _SHOWN else "")
