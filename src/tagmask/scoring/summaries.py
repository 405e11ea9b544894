"""summary.json as it lies on disk: read, and refused where it is not what `evaluate` wrote."""

from __future__ import annotations

import json
import reprlib
import sys
from pathlib import Path
from typing import Any

from tagmask.errors import InputError

__all__ = ["damaged", "read_object", "read_summary"]

_FORMAT = "tagmask-evaluation"
_CELLS = {...: {...: {...: float}}}
_AREA = {"auc": float, "low": float, "high": float, "score": str, "fit": str}
_SUMMARY = {
    **{"results": str, "truth": str, "patients": float, "created": str, "tagmask": str},
    "settings": {"min_area_frac": float},
    "slices": {...: float},
    "warnings": {...: float},
    "hd95": {...: str},
    "cases": {"matched": float, "missing": [str], "extra": [str], "failed": [{"case": str, "problem": str}]},
    "notes": [str],
    "rows": [{"row": str, "title": str, "reads": str, "positives": _CELLS, "mixed": _CELLS}],
    "image_level": {
        **{"against": str, "n": float, "positives": float, "method": _AREA, "position": _AREA},
        "detection": [{"row": str, "sensitivity": float, "false_positive_rate": float}],
    },
    "environment": {},
}
"""Key -> a type, the keys of a table (`...`: any other key), or a list of one shape; float is any number."""
_WORDS = {str: "text", float: "a number", dict: "a table", list: "a list"}


def damaged(path: Path, problem: str) -> InputError:
    """Make the error of an evaluation that cannot be used."""
    cell = path.parent.parent
    repair = "Evaluate again."
    if (cell / "evaluated.json").is_file():
        repair = f"Evaluate again: delete {cell} and run the benchmark once more."
    return InputError(f"The evaluation cannot be used: {problem}.", where=path, repair=repair)


def read_summary(path: Path) -> dict[str, Any]:
    """Read summary.json. What it has is of the right type; keys may be absent, and values null.

    Raises
    ------
    InputError
        Missing, damaged, or of something else; the message names the value.
    """
    summary = read_object(path, {})
    if (summary.get("format", _FORMAT), summary.get("version", 1)) != (_FORMAT, 1):
        raise damaged(path, "it is not the summary of an evaluation that this version knows")
    if wrong := _misfit(summary, _SUMMARY, ""):
        raise damaged(path, wrong)
    rows = [row.get("row") for row in summary.get("rows") or []]
    if "method" not in rows or None in rows:
        raise damaged(path, "it has no row for the method, or one without a name")
    return summary


def read_object(path: Path, shape: dict[Any, Any]) -> dict[str, Any]:
    """Read a JSON object whose values have a shape.

    Raises
    ------
    InputError
        Missing, no JSON, no object, or of another shape.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, f"it cannot be read ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise damaged(path, "it is not a JSON object")
    if wrong := _misfit(content, shape, ""):
        raise damaged(path, wrong)
    return content


def _misfit(value: Any, shape: Any, key: str) -> str:
    """Say which value has another shape; nothing where all fit. null fits everywhere but in a list."""
    if value is None:
        return ""
    kind = type(shape) if isinstance(shape, (dict, list)) else shape
    if not (_is_number(value) if kind is float else isinstance(value, kind)):
        return f"{key} = {reprlib.repr(value)} is not {_WORDS[kind]}"
    found: list[str] = []
    if isinstance(shape, dict):
        parts = {name: shape.get(name, shape.get(...)) for name in value}
        found = [
            _misfit(value[name], part, f"{key}.{name}" if key else name)
            for name, part in parts.items()
            if part is not None
        ]
    if isinstance(shape, list):
        found = [
            f"{key}[{i}] is null" if part is None else _misfit(part, shape[0], f"{key}[{i}]")
            for i, part in enumerate(value)
        ]
    return next(filter(None, found), "")


def _is_number(value: Any) -> bool:
    """Whether it is a number that fits a float; true and false are none."""
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    return whole or isinstance(value, float)
