"""Which tagged slices of a split a choice looks at."""

from __future__ import annotations

import numpy as np

from tagmask.data.prepared import Prepared
from tagmask.errors import InputError

__all__ = ["tagged_rows"]


def tagged_rows(
    prepared: Prepared, split: str, limit: int | None, seed: int, *, balanced: bool
) -> np.ndarray:
    """Give the places (n,) int64 of the tagged slices of a split, rising: `limit` of either tag, or as they come.

    Raises
    ------
    InputError
        None with one of the tags.
    """
    rows = prepared.split_indices(split)
    kept = []
    if not balanced and limit is not None:
        rows = rows[np.isin(prepared.labels[rows], (0, 1))]
        rows = np.random.default_rng(seed).permutation(rows)[:limit]
    for tag in (0, 1):
        found = rows[prepared.labels[rows] == tag]
        if not len(found):
            raise InputError(
                f"no slice with tag {tag} is among the {len(rows)} of the {split} split that are looked at.",
                where=prepared.path,
                repair=("P" if limit is None else "Raise the limit, or p")
                + "repare a table whose validation patients have slices of both tags.",
            )
        if balanced and limit is not None and len(found) > limit:
            found = np.random.default_rng(seed).choice(found, limit, replace=False)
        kept.append(found)
    return np.sort(np.concatenate(kept))
