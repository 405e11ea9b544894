"""Settings that are chosen after training, and win over the experiment's: by tags, or by validation masks.

The candidates of a search are every combination of a grid, those of the method apart from those of its masks.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tagmask.config import build, plain, read_toml
from tagmask.data.csv_rows import read_rows
from tagmask.errors import RunError
from tagmask.experiment import Experiment, layer

__all__ = ["TAGS", "VAL_MASKS", "combinations", "mask_part", "table_of", "tried", "with_chosen"]

TAGS = "tuned.toml"
VAL_MASKS = "tuned-val-masks.toml"
_PREFIX = "mask."


def with_chosen(path: Path, experiment: Experiment, *, tuned: bool, val_masks: str | None) -> dict[str, Any]:
    """Lay what was chosen for a run over its experiment; give the table.

    Parameters
    ----------
    path
        The run's folder.
    tuned
        Whether to take tuned.toml, if it is there.
    val_masks
        The method for which to take what validation masks chose.

    Raises
    ------
    ConfigError
        A file that is damaged.
    RunError
        Nothing was chosen by masks for that method.
    """
    table = plain(experiment)
    if tuned and (path / TAGS).is_file():
        table = layer(table, read_toml(path / TAGS))
        build(Experiment, table, where=path / TAGS)
    if val_masks is not None:
        table = layer(table, _chosen_by_masks(path, val_masks))
        build(Experiment, table, where=path / VAL_MASKS)
    return table


def _chosen_by_masks(path: Path, method: str) -> dict[str, Any]:
    """Give the settings of a method and its masks that `tagmask tune --criterion dice` chose."""
    chosen = read_toml(path / VAL_MASKS).get("methods", {}) if (path / VAL_MASKS).is_file() else {}
    if method not in chosen:
        raise RunError(
            f"nothing was chosen for {method} by validation masks.",
            where=path,
            repair=f"Run tagmask tune {path} --method {method} --criterion dice --masks PREPARED.",
        )
    return {"methods": {method: chosen[method]}}


def table_of(path: Path, method: str) -> Path:
    """Name the table in which `tagmask tune` lists what it tried by tags."""
    return path / f"tune-{method}.csv"


def tried(path: Path, method: str) -> list[dict[str, Any]]:
    """Give the candidates that `tagmask tune` tried for a method by tags, empty where it has not run.

    Raises
    ------
    TableError
        A table that is damaged.
    """
    table = table_of(path, method)
    if not table.is_file():
        return []
    return [{key: _read(text) for key, text in row.items() if text} for _, row in read_rows(table)]


def _read(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def combinations(grid: Mapping[str, Sequence[Any]], *, masks: bool) -> list[dict[str, Any]]:
    """Give every combination of the grid's settings of the method, or of its masks ("mask.NAME").

    Examples
    --------
    >>> combinations({"noise_level": [50, 100], "mask.median": [3]}, masks=False)
    [{'noise_level': 50}, {'noise_level': 100}]
    """
    part = {key: values for key, values in grid.items() if key.startswith(_PREFIX) == masks}
    return [dict(zip(part, values, strict=True)) for values in itertools.product(*part.values())]


def mask_part(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of the masks, by their own names.

    Examples
    --------
    >>> mask_part({"noise_level": 50, "mask.median": 3})
    {'median': 3}
    """
    return {key.removeprefix(_PREFIX): v for key, v in settings.items() if key.startswith(_PREFIX)}
