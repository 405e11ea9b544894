"""The figures of a benchmark: a metric against a varied setting, a line for each value of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagmask.benchmarking.names import check_file_name, known, stem_of
from tagmask.benchmarking.protocol import METRIC_NAMES, Metric, Protocol, Setup
from tagmask.benchmarking.rows import RowPlan, Value
from tagmask.benchmarking.tables import DataTable, Line
from tagmask.drawing.charts import SweepLine, side_by_side
from tagmask.errors import ConfigError
from tagmask.io import write_bytes
from tagmask.scoring.scoreboard import write_numbers

__all__ = ["FigurePlan", "draw_figure"]


@dataclass(frozen=True)
class FigurePlan:
    """A figure of each data set.

    Parameters
    ----------
    name
        Of its files: NAME-DATA.png, .svg and .csv.
    x
        A varied setting. Numbers are spaced as they are, or by their logarithms where the largest is ten times
        the least; anything else stands in the order of the rows.
    metric, setup
        What is drawn: a column of the table. Bars are its standard deviation over repeats.
    lines, panels
        Varied settings; by default a line for each `line` of the rows, and one panel.
    """

    name: str
    x: str
    metric: Metric = "dice"
    setup: Setup = "positives"
    lines: str | None = None
    panels: str | None = None

    def __post_init__(self) -> None:
        check_file_name(self.name)
        named = [name for name in (self.x, self.lines, self.panels) if name is not None]
        if len(set(named)) < len(named):
            raise ConfigError(
                f"x, lines and panels are {', '.join(named)}.", repair="Name each setting once."
            )

    def check(self, protocol: Protocol, rows: Mapping[str, Sequence[RowPlan]]) -> None:
        """Refuse what the table will not have, and rows of a data set that would stand at one place.

        Raises
        ------
        ConfigError
            Naming the key or the rows.
        """
        where = f"[[figure]] {self.name}"
        known(self.metric, protocol.metrics, "metric of this protocol", where)
        known(self.setup, protocol.setups, "setup of this protocol", where)
        varied = dict.fromkeys(name for some in rows.values() for row in some for name in row.vary)
        for key in ("x", "lines", "panels"):
            if (name := getattr(self, key)) is not None:
                known(name, varied, f"varied setting in {key}:", where)
        for some in rows.values():
            taken = dict[tuple[str, str, Value], str]()
            for row in (row for row in some if self.x in row.vary):
                for name in (self.lines, self.panels):
                    if name is not None and name not in row.vary:
                        raise ConfigError(
                            f"the row {row.name!r} varies {self.x}, but not {name}.",
                            where=where,
                            repair=f"Give it vary.{name}, of one value for instance.",
                        )
                place = self._place(row.line or row.name, row.vary)
                if place in taken:
                    raise ConfigError(
                        f"the rows {taken[place]!r} and {row.name!r} stand at one place, {self.x} = {place[2]}.",
                        where=where,
                        repair="Name what tells them apart as lines or panels.",
                    )
                taken[place] = row.name

    def _place(self, line: str, vary: Mapping[str, Value]) -> tuple[str, str, Value]:
        """Give panel, line and x of a row."""
        panel = "" if self.panels is None else f"{self.panels} = {vary[self.panels]}"
        return panel, line if self.lines is None else f"{self.lines} = {vary[self.lines]}", vary[self.x]

    def points(self, table: DataTable) -> list[tuple[tuple[str, str, Value], Line]]:
        """Give the finished rows that vary x, with panel, line and x of each."""
        return [(self._place(line.line, line.vary), line) for line in table.lines if self.x in line.vary]


def draw_figure(plan: FigurePlan, table: DataTable, out: Path) -> tuple[Path, ...]:
    """Draw a figure of one data set.

    Parameters
    ----------
    out
        Folder for NAME-DATA.png, .svg and .csv.

    Returns
    -------
    tuple of Path
        What was written: nothing while no row of it is finished.
    """
    points = plan.points(table)
    if not points:
        return ()
    values = list(dict.fromkeys(x for (_, _, x), _ in points))
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    at = {x: float(x) if numeric else float(i) for i, x in enumerate(sorted(values) if numeric else values)}
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    lines = []
    for (panel, name, x), line in points:
        number = line.numbers[plan.setup, plan.metric]
        found.setdefault(panel, {}).setdefault(name, []).append((at[x], number.mean, number.sd))
        lines.append(
            {
                **{"data": table.data, "row": line.title, "line": line.line, **line.vary},
                **{"setup": plan.setup, "metric": plan.metric, **number._asdict(), "of": line.of},
            }
        )
    unit = f" [{table.hd95_unit}]" if plan.metric == "hd95" else ""
    pictures = side_by_side(
        {panel: {name: _line(some) for name, some in of_panel.items()} for panel, of_panel in found.items()},
        x=plan.x,
        y=f"{METRIC_NAMES[plan.metric]}{unit}, {plan.setup}",
        ticks={place: f"{x:g}" if numeric else str(x) for x, place in at.items()},
        log=numeric and min(at.values()) > 0 and max(at.values()) >= 10 * min(at.values()),
    )
    stem = stem_of(plan.name, table.data)
    files = [out / f"{stem}.{suffix}" for suffix in ("csv", *pictures)]
    varied = dict.fromkeys(name for _, line in points for name in line.vary)
    head, tail = ("data", "row", "line"), ("setup", "metric", "mean", "sd", "low", "high", "repeats", "of")
    write_numbers(files[0], (*head, *varied, *tail), lines)
    for file, content in zip(files[1:], pictures.values(), strict=True):
        write_bytes(file, content)
    return tuple(files)


def _line(points: Sequence[tuple[float, float, float]]) -> SweepLine:
    """Order points by x; bars reach one standard deviation up and down."""
    x, y, sd = np.array(sorted(points)).T
    return SweepLine(x, y, y - sd, y + sd)
