"""From a table of settings to dataclasses: the constructor is the schema.

A settings file is TOML. Its tables are the fields of `tagmask.experiment.Experiment`; each key is an
argument of a frozen dataclass. `--set a.b=c` overrides one key. An unknown key is an error that names
its nearest neighbour.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, is_dataclass
from datetime import date, time
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from tagmask.errors import ConfigError, did_you_mean

__all__ = ["ADDED", "build", "check_seed", "override", "plain", "read_toml", "settled", "write_toml"]

T = TypeVar("T")

ADDED = {"added": True}
"""Metadata of a field that came later, whose default is what was done before: `settled` leaves it out at that."""


def read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file; a byte order mark is accepted.

    Raises
    ------
    ConfigError
        The file is missing or is not TOML, and the message has line and column; or a value is a date.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError("no such settings file.", where=path, repair="Check the path.") from None
    except (ValueError, RecursionError, OSError) as error:
        repair = "Give an experiment file, which ends in .toml." if path.is_dir() else ""
        raise ConfigError(f"cannot be read as TOML: {error}.", where=path, repair=repair) from None
    _refuse_dates(table, path)
    return table


def override(table: dict[str, Any], assignments: Iterable[str], *, option: str = "--set") -> dict[str, Any]:
    """Apply `a.b=c` assignments; c is read as a TOML value, or as text if it is none.

    Parameters
    ----------
    option
        What the assignments are given with, for messages.

    Raises
    ------
    ConfigError
        An assignment of another form, or of a date.

    Examples
    --------
    >>> override({"method": {"tau": 0.95}}, ["method.tau=0.9", "mask.rule=otsu"])
    {'method': {'tau': 0.9}, 'mask': {'rule': 'otsu'}}
    """
    result: dict[str, Any] = json.loads(json.dumps(table))
    for assignment in [assignments] if isinstance(assignments, str) else assignments:
        key, equals, text = assignment.partition("=")
        *parents, leaf = key.strip().split(".")
        if not equals or not leaf:
            raise ConfigError(
                f"{option} {assignment!r} is not of the form a.b=c.",
                repair=f"For instance {option} method.tau=0.9",
            )
        target = result
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{option} {assignment!r}: {parent!r} is a value, not a table.")
        target[leaf] = _value(text.strip())
        _refuse_dates({key.strip(): target[leaf]}, option)
    return result


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _refuse_dates(value: Any, where: object, key: str = "") -> None:
    """Refuse TOML's dates and times, which no setting has: somebody left out the quotes of a name."""
    if isinstance(value, (date, time)):
        kind = "date" if isinstance(value, date) else "time"
        raise ConfigError(
            f"{key} = {value} is a {kind}, and no setting is one.",
            where=where,
            repair=f'Put it in quotes: {key} = "{value}".',
        )
    parts = value.items() if isinstance(value, Mapping) else ()
    for name, part in parts:
        _refuse_dates(part, where, f"{key}.{name}" if key else str(name))
    for part in value if isinstance(value, (list, tuple)) else ():
        _refuse_dates(part, where, key)


def settled(record: Any) -> dict[str, Any]:
    """Give a settings dataclass as a plain table, without what was added later and is at its default.

    So that what was computed before a setting existed is known as computed with its default.
    """
    table = plain(record)
    for field in fields(record):
        if field.metadata.get("added") and getattr(record, field.name) == field.default:
            del table[field.name]
    return table


def check_seed(seed: int, where: object = "") -> None:
    """Refuse a seed that not every generator takes.

    Raises
    ------
    ConfigError
        Below 0, or 2^63 and more.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(
            f"seed = {seed} is not allowed.",
            where=where,
            repair="Use a whole number from 0 to 2^63 - 1.",
        )


def build(kind: type[T], table: Mapping[str, Any], *, where: object = "") -> T:
    """Make a settings dataclass (nested ones too) from a plain table.

    Values are checked strictly: no text for a number, no unknown key.

    Raises
    ------
    ConfigError
        Naming the key, its value and what is allowed.
    """
    _refuse_unknown_keys(kind, table, where, prefix="")
    _refuse_dates(table, where)
    try:
        # Tables come from TOML or JSON, whose arrays are lists: "lax" lists for tuples, strict elsewhere.
        return TypeAdapter(kind).validate_json(json.dumps(table), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            raise ConfigError(
                cause.what, where=f"{where} {cause.where}".strip(), repair=cause.repair
            ) from None
        key = ".".join(str(part) for part in first["loc"])
        value = "" if first["type"] == "missing" else f" = {first['input']!r}"
        raise ConfigError(f"{key}{value}: {first['msg']}.", where=where) from None


def _refuse_unknown_keys(kind: type, table: Mapping[str, Any], where: object, prefix: str) -> None:
    """Walk the table beside the dataclass; the first key without a field is refused by name."""
    hints = _settings_fields(kind)
    for key, value in table.items():
        if key not in hints:
            guess = did_you_mean(key, sorted(hints), prefix=prefix)
            raise ConfigError(f"unknown key {prefix}{key}.", where=where, repair=guess)
        nested = hints[key]
        if nested is not None and isinstance(value, Mapping):
            _refuse_unknown_keys(nested, value, where, prefix=f"{prefix}{key}.")


def _settings_fields(kind: type) -> dict[str, type | None]:
    """Field name -> the dataclass it holds, or None for a plain value."""
    found: dict[str, type | None] = {}
    hints = get_type_hints(kind)
    for field in fields(kind):
        options = (hints[field.name], *get_args(hints[field.name]))
        found[field.name] = next((o for o in options if isinstance(o, type) and is_dataclass(o)), None)
    return found


def plain(settings: Any) -> dict[str, Any]:
    """Turn a settings dataclass into a table of JSON values; keys that are None are left out."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if v is not None}
        if isinstance(value, (list, tuple)):
            return [strip(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return strip(asdict(settings))


def write_toml(table: Mapping[str, Any], *, heading: str = "") -> str:
    """Write a table of plain values, at most tables of tables deep, as TOML text."""
    lines = [f"# {heading}"] if heading else []

    def emit(name: str, values: Mapping[str, Any]) -> None:
        leaves = {k: v for k, v in values.items() if not isinstance(v, Mapping)}
        if name and (leaves or not values):
            lines.extend(["", f"[{name}]"])
        lines.extend(f"{k} = {_toml(v)}" for k, v in leaves.items())
        for k, v in values.items():
            if isinstance(v, Mapping):
                emit(f"{name}.{k}" if name else k, v)

    emit("", table)
    return "\n".join(lines).strip() + "\n"


def _toml(value: Any) -> str:
    if value is None:
        raise TypeError("TOML has no word for None: leave the key out.")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, -inf, nan
    # TOML's numbers, booleans and basic strings are JSON's, but it has no surrogate pairs and wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
