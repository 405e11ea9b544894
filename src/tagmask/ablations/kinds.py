"""What an ablation is: values of a setting, the walks through the networks that serve them, and a drawing.

The job behind `tagmask ablate` segments and evaluates every value of every walk and hands the evaluations to
the drawing. So a kind never opens a mask, and its numbers are those of `tagmask evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.drawing.charts import SweepLine, sweep
from tagmask.runs import Run
from tagmask.scoring.scoreboard import combine
from tagmask.types import Batch, Method, Prediction

__all__ = [
    "CSV_COLUMNS",
    *("Ablation", "Drawing", "Scored", "Seen", "Value", "Walk", "Walks"),
    *("alone", "always", "draw_sweep", "one_walk_a_value", "sweep_lines", "sweep_table"),
]

Value = float | int
"""A place on the axis."""
Seen = dict[tuple[str, int, Value], Any]
"""(slice, seed, value) -> what a walk kept of it for the drawing. A slice is "case/index", as in a `Batch`."""


@dataclass(frozen=True)
class Walk:
    """One walk through the networks, and the values it serves.

    Parameters
    ----------
    run
        With the networks that it goes through.
    values, settings
        Of the axis, and the method's settings at each.
    predict
        (batch, seed) -> a prediction for each value, in order.
    seen
        What `predict` puts aside for the drawing.
    """

    run: Run
    values: tuple[Value, ...]
    settings: tuple[Any, ...]
    predict: Callable[[Batch, int], Sequence[Prediction]]
    seen: Seen = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Scored:
    """One value, evaluated with one seed.

    Parameters
    ----------
    value, seed
        What was segmented.
    evaluation
        The folder that `evaluate` wrote: summary.json, per_slice.csv with the size of every target, ...
    summary
        The content of summary.json.
    seen
        What the walk put aside, of all its slices, seeds and values.
    """

    value: Value
    seed: int
    evaluation: Path
    summary: Mapping[str, Any]
    seen: Seen = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Drawing:
    """A figure and the numbers behind it.

    Parameters
    ----------
    name
        Of its files.
    pictures
        Suffix, "png" or "svg", to content.
    columns, lines
        Of the CSV file.
    """

    name: str
    pictures: Mapping[str, bytes]
    columns: Sequence[str]
    lines: Sequence[Mapping[str, object]]


def alone(method: Method) -> Callable[[Batch, int], Sequence[Prediction]]:
    """Give the `predict` of a walk that serves one value."""
    return lambda batch, seed: [method.predict(batch, seed)]


Walks = Callable[[Run, str, Sequence[Value], str], Iterator[Walk]]
"""(run, method, values, device) -> walks. Every value is checked before the first walk is given."""


def always(*values: Value) -> Callable[[Run, str], Sequence[Value]]:
    """Give the `values` of an ablation that are the same for every run and method."""
    return lambda run, name: values


def one_walk_a_value(setting: str) -> Walks:
    """Give the walks of a method's setting that changes the walk itself."""

    def walks(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
        methods = [run.method(name, device=device, **{setting: value}) for value in values]
        for value, method in zip(values, methods, strict=True):
            yield Walk(run, (value,), (run.settings(name, **{setting: value}),), alone(method))

    return walks


@dataclass(frozen=True)
class Ablation:
    """A kind of ablation.

    Parameters
    ----------
    axis
        What the axis says.
    methods
        Names of the methods it is for; none names all.
    values
        (run, method) -> the values that are taken if none are given.
    walks
        The fewest walks through the networks that serve the values.
    draw
        (kind, axis, evaluations) -> figures.
    """

    axis: str
    methods: tuple[str, ...]
    values: Callable[[Run, str], Sequence[Value]]
    walks: Walks
    draw: Callable[[str, str, Sequence[Scored]], Sequence[Drawing]]


CSV_COLUMNS = ("value", "subset", "per", "metric", "mean", "sd", "runs", "low", "high", "reads")
"""Of the CSV behind `draw_sweep`. `low` and `high`: bootstrap interval over patients, of the first seed."""
_SHOWN = {("positives", "dice"): "Dice, positives", ("positives", "auprc"): "AUPRC, positives"}


def draw_sweep(
    kind: str,
    axis: str,
    scored: Sequence[Scored],
    *,
    log: bool = False,
    shown: Mapping[tuple[str, str], str] = _SHOWN,
) -> Sequence[Drawing]:
    """Draw (subset, metric) -> name over the values, by default Dice and AUPRC.

    Bounds are ± one sd over seeds, of one seed the bootstrap interval.

    Every other number of the evaluations goes into the CSV.
    """
    lines = sweep_table(scored)
    pictures = sweep(sweep_lines(lines, shown), x=axis, y="mean over slices", log=log)
    return [Drawing(kind, pictures, CSV_COLUMNS, lines)]


def sweep_table(scored: Sequence[Scored]) -> list[dict[str, object]]:
    """Give the lines of the CSV: every number of the evaluations, over seeds."""
    groups: dict[Value, list[Scored]] = {}
    for one in sorted(scored, key=lambda s: (s.value, s.seed)):
        groups.setdefault(one.value, []).append(one)
    lines: list[dict[str, object]] = []
    for value, members in groups.items():
        rows = {row["row"]: row for row in members[0].summary["rows"]}
        for line in combine([member.summary for member in members]):
            if line["row"] == "method" and line["subset"] in ("positives", "mixed"):
                cell = rows["method"][line["subset"]][line["per"]][line["metric"]]
                bounds = {"low": cell["low"], "high": cell["high"]}
                head = {"value": value, **{key: line[key] for key in CSV_COLUMNS[1:7]}}
                lines.append({**head, **bounds, "reads": f"{line['reads']}; test masks, to draw"})
    return lines


def sweep_lines(
    lines: Sequence[Mapping[str, Any]], shown: Mapping[tuple[str, str], str]
) -> dict[str, SweepLine]:
    """Give the means over slices of (subset, metric) -> name in lines of `sweep_table`, by name."""
    found = {}
    for (subset, metric), name in shown.items():
        mine = [n for n in lines if (n["subset"], n["per"], n["metric"]) == (subset, "image", metric)]
        table = np.array([[n["value"], n["mean"], n["sd"], n["runs"]] for n in mine], dtype=float)
        x, mean, sd, runs = table.T
        bounds = np.array([[n["low"], n["high"]] for n in mine], dtype=float).T  # None is NaN
        spread = np.where(runs > 1, np.stack([mean - sd, mean + sd]), bounds)
        found[name] = SweepLine(x, mean, spread[0], spread[1])
    return found
