"""The rows of a benchmark file: what each is made with, and how one entry becomes many by `vary`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from tagmask.benchmarking.names import PLACES, Place, braces, fill, known
from tagmask.benchmarking.protocol import Setup
from tagmask.errors import ConfigError
from tagmask.methods import METHODS
from tagmask.networks.kinds import NETWORKS
from tagmask.segmenting.presence import Tags

__all__ = ["RESERVED", "RowPlan", "Value", "expanded"]

Value = bool | int | float | str
RESERVED = {
    *PLACES,
    *("row", "source", "method", "reads", "setup", "per", "metric", "mean", "sd", "repeats", "of"),
    *("low", "high", "p", "against", "patients", "line", "seed"),
}
"""Names that no varied setting may have: places in braces, and columns of the tables."""
_FILLED = ("name", "line", "run", "train", "set", "tuned", "experiment")


@dataclass(frozen=True)
class RowPlan:
    """A row of the table.

    Parameters
    ----------
    name, method
        Title, and a name of `METHODS`.
    run
        The run's folder, or one for each data set.
    set
        Overrides, as `tagmask segment --set`.
    snapshot
        Use the weights after this many training steps.
    tuned
        "none", "tags" (RUN/tuned.toml, which must have settings of this method), or a TOML file with settings
        chosen on val masks ([methods.NAME] and [mask]), with which the row is stamped.
    tags
        As `tagmask segment --tags`, or one for each setup, such as {mixed = "predicted", positives = "none"}:
        one walk through the networks serves both. In the file, the protocol's by default.
    seeds
        Instead of the protocol's, for a method without noise.
    data
        Sets that the row is made on; all by default.
    experiment, train
        What the run is trained from where it is not there yet, and overrides, as `tagmask train --set`. A run
        that is there must have been trained so.
    networks
        What is trained of it; by default what the method needs.
    line
        Its line in a figure whose lines are no varied setting; by default the name, without those parts
        between commas that hold a varied one; the whole name where each part holds one.
    vary
        In the file, values of settings: the entry becomes a row for each combination, and {NAME} stands for the
        value in name, line, run, train, set, tuned and experiment. Here, the values of this row.
    """

    name: str
    method: str
    run: str | dict[str, str]
    set: tuple[str, ...] = ()
    snapshot: int | None = None
    tuned: str = "none"
    tags: Tags | dict[Setup, Tags] = "given"
    seeds: tuple[int, ...] | None = None
    data: tuple[str, ...] | None = None
    experiment: str | None = None
    train: tuple[str, ...] = ()
    networks: tuple[str, ...] | None = None
    line: str = ""
    vary: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known(self.method, METHODS, "method")
        if self.tuned not in ("none", "tags") and not self.tuned.endswith(".toml"):
            raise ConfigError(
                f"tuned = {self.tuned!r}.", repair='Use "none", "tags" or a .toml file of settings.'
            )
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) < len(self.seeds)):
            raise ConfigError(f"seeds = {list(self.seeds)}.", repair="Name at least one, each once.")
        self._check_training()
        runs = self.run.values() if isinstance(self.run, dict) else (self.run,)
        for key, texts, names in (
            *(("run", runs, PLACES), ("train", self.train, PLACES), ("tuned", (self.tuned,), PLACES)),
            *(("experiment", (self.experiment or "",), PLACES), ("name", (self.name,), ())),
            *(("line", (self.line,), ()), ("set", self.set, ())),
        ):
            for name in (name for text in texts for name in braces(text)):
                known(name, [*names, *self.vary], f"name in braces in {key}:")

    def _check_training(self) -> None:
        """Refuse what says how to train without what, and one folder for what is trained in several ways."""
        for key, value in (("train", self.train), ("networks", self.networks or ())):
            if value and self.experiment is None:
                raise ConfigError(
                    f"{key} = {list(value)}, but there is no experiment.", repair="Name its file."
                )
        for text in self.train:
            if text.partition("=")[0].strip().split(".")[0] in ("methods", "mask"):
                raise ConfigError(
                    f"train has {text!r}, but no training depends on it.", repair="Write it into set instead."
                )
        if self.networks is not None:
            if not self.networks or len(set(self.networks)) < len(self.networks):
                raise ConfigError(
                    f"networks = {list(self.networks)}.", repair="Name at least one, each once."
                )
            for name in self.networks:
                known(name, NETWORKS, "network")
        for place in PLACES:
            runs = self.run.values() if isinstance(self.run, dict) else (self.run,)
            if any(place in braces(text) for text in self.train) and any(
                place not in braces(run) and (place != "data" or not isinstance(self.run, dict))
                for run in runs
            ):
                raise ConfigError(
                    f"train has {{{place}}}, but run = {self.run!r} is the same for all.",
                    repair=f"Write {{{place}}} into the run too.",
                )

    def tags_of(self, setup: Setup) -> Tags:
        """Where the tags of a setup come from."""
        return self.tags[setup] if isinstance(self.tags, dict) else self.tags

    def differs_by_draw(self, data: str) -> bool:
        """Whether the row is another one for every draw of a data set."""
        texts = (self._run(data), self.tuned, self.experiment or "", *self.train)
        return any("draw" in braces(text) for text in texts)

    def folder(self, at: Place) -> Path:
        """Give the run's folder."""
        return Path(at.fill(self._run(at.data)))

    def _run(self, data: str) -> str:
        return self.run[data] if isinstance(self.run, dict) else self.run


def expanded(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Make one table of each combination of varied values, the last setting fastest; or give the table as it is.

    Raises
    ------
    ConfigError
        A setting whose name is taken or that nothing uses, values that are none, or rows of one name.
    """
    if "vary" not in table:
        yield dict(table)
        return
    vary, used = table["vary"], {key: set(_names(table.get(key))) for key in _FILLED}
    if not isinstance(vary, dict) or not vary:
        raise ConfigError(f"vary = {vary!r}.", repair="Write it as { shots = [5, 20] }.")
    for name, values in vary.items():
        _check_varied(name, values, used)
    parts = [part for part in str(table.get("name", "")).split(", ") if not braces(part)]
    table = {"line": ", ".join(parts) or str(table.get("name", "")), **table}
    for chosen in product(*vary.values()):
        values = dict(zip(vary, chosen, strict=True))
        filled = {key: _filled(table[key], values) for key in _FILLED if key in table}
        yield {**table, **filled, "vary": values}


def _check_varied(name: str, values: object, used: Mapping[str, set[str]]) -> None:
    """Refuse a varied setting that could not be told apart, or that changes nothing."""
    if braces(f"{{{name}}}") != [name] or name in RESERVED:
        raise ConfigError(
            f"vary.{name}: the name is taken or is no name.", repair="Use another, of letters and digits."
        )
    if not isinstance(values, list) or not values or not all(isinstance(v, Value) for v in values):
        raise ConfigError(
            f"vary.{name} = {values!r}.", repair="Give a list of numbers, texts, true and false."
        )
    if len({fill(f"{{{name}}}", {name: value}) for value in values}) < len(values):
        raise ConfigError(f"vary.{name} = {values!r} has one of them twice.", repair="Name each once.")
    if not any(name in names for names in used.values()):
        raise ConfigError(
            f"vary.{name} is used nowhere.", repair=f"Write {{{name}}} into name, run, train or set."
        )
    if len(values) > 1 and name not in used["name"]:
        raise ConfigError(
            f"vary.{name} = {values!r} gives rows of one name.", repair=f"Write {{{name}}} into the name."
        )
    if not any(name in names for key, names in used.items() if key not in ("name", "line")):
        raise ConfigError(
            f"vary.{name} = {values!r} changes nothing but the name.",
            repair=f"Write {{{name}}} into run, train or set.",
        )
    if len(values) > 1 and name in used["train"] | used["experiment"] and name not in used["run"]:
        raise ConfigError(
            f"{{{name}}} changes how the run is trained, but run is the same for all.",
            repair=f"Write {{{name}}} into the run too.",
        )


def _names(value: object) -> Iterator[str]:
    """Give the names in braces of a text, or of the texts of a list or table."""
    if isinstance(value, str):
        yield from braces(value)
    elif isinstance(value, dict):
        yield from (name for one in value.values() for name in _names(one))
    elif isinstance(value, Sequence):
        yield from (name for one in value for name in _names(one))


def _filled(value: Any, values: Mapping[str, Value]) -> Any:
    """Put values into a text, or into the texts of a list or table."""
    if isinstance(value, str):
        return fill(value, values)
    if isinstance(value, dict):
        return {key: _filled(one, values) for key, one in value.items()}
    return [_filled(one, values) for one in value] if isinstance(value, list) else value
