"""The handful of pictures whose masks are read: drawn by seed from the train split, or named in a list."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from tagmask.data.csv_rows import read_rows
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError
from tagmask.io import write_csv
from tagmask.seeds import keyed

__all__ = ["Shots", "choose_shots", "read_shots", "shot_rows", "write_shots"]

Shots = int | Path | tuple[str, ...]
"""How many pictures, a CSV file with their ids, or the ids themselves."""


def choose_shots(prepared: Prepared, shots: Shots, draw: int = 0) -> tuple[str, ...]:
    """Give the ids of the pictures whose masks may be read.

    Parameters
    ----------
    shots
        A number is drawn without replacement; the order of the table does not matter. The pictures of a
        smaller number are among those of a larger one.
    draw
        Which of the draws; of no effect on a list.

    Raises
    ------
    ConfigError
        None, more than there are, or pictures that are not in the train split.
    InputError, TableError
        A list that cannot be read.
    """
    where, ids = "[data]", sorted(row["id"] for row in prepared.rows("train"))
    if not isinstance(shots, int):
        listed = read_shots(shots) if isinstance(shots, Path) else shots
        shot_rows(prepared, listed, where=shots if isinstance(shots, Path) else where)
        return tuple(listed)
    if not 1 <= shots <= len(ids):
        raise ConfigError(
            f"shots = {shots}, but the train split has {len(ids)} pictures.",
            where=where,
            repair="Leave shots out to learn from all of them." if shots > 0 else "Use 1 or more.",
        )
    order = torch.randperm(len(ids), generator=keyed(draw, "shots")).tolist()
    return tuple(ids[i] for i in order[:shots])


def shot_rows(prepared: Prepared, ids: Sequence[str], *, where: object) -> np.ndarray:
    """Give the places (n,) int64 of some pictures of the train split, rising.

    Raises
    ------
    ConfigError
        None at all, one twice, or one that is not in the train split.
    """
    rows = {row["id"]: row for row in prepared.index}

    def refuse(what: str) -> None:
        raise ConfigError(what, where=where, repair="Name pictures of the train split, each once.")

    if not ids:
        refuse("no picture is named.")
    for i, name in enumerate(ids):
        if name not in rows:
            refuse(f"there is no picture {name!r} in {prepared.path}.")
        if rows[name]["split"] != "train":
            refuse(f"the picture {name!r} is in the split {rows[name]['split']}.")
        if name in ids[:i]:
            refuse(f"the picture {name!r} is named twice.")
    return np.array(sorted(rows[name]["row"] for name in ids), dtype=np.int64)


def read_shots(path: Path) -> tuple[str, ...]:
    """Read the column `id` of a CSV file, a table of images for instance.

    Raises
    ------
    InputError, TableError
        No such file, or one without that column.
    """
    return tuple(fields["id"] for _, fields in read_rows(path, ("id",)))


def write_shots(path: Path, ids: Sequence[str]) -> None:
    """Write what `read_shots` reads."""
    write_csv(path, ("id",), ({"id": name} for name in ids))
