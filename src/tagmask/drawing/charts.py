"""Charts of numbers over a setting, for ablations, benchmarks and searches: lines, bands, stacks, clouds, panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from tagmask.drawing.style import COLOURS, INK, LEGEND, blank, both, dress, empty_axes, look

__all__ = ["SweepLine", "bands", "cloud", "panel", "side_by_side", "stack", "sweep"]


class SweepLine(NamedTuple):
    """Numbers over a setting: (N,) float each; bounds that are NaN are not drawn."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray


def sweep(lines: Mapping[str, SweepLine], *, x: str, y: str, log: bool = False) -> dict[str, bytes]:
    """Draw numbers over the values of a setting, each with its bounds.

    Parameters
    ----------
    lines
        By name.
    x, y
        What the axes say.
    log
        Logarithmic x, linear around 0 where a value is 0.

    Returns
    -------
    dict
        The same chart as "png" and as "svg".
    """
    figure, axes = empty_axes(x, y)
    for n, (name, line) in enumerate(lines.items()):
        _band(axes, n, name, line, marker="o", markersize=4)
    values = np.unique(np.concatenate([line.x for line in lines.values()]))
    if log and len(values) > 1 and values[0] >= 0:
        axes.set_xscale("symlog", linthresh=float(values[values > 0][0]))
    crowded = not log and len(values) > 1 and np.diff(values).min() < 0.06 * np.ptp(values)
    axes.set_xticks(values, [f"{value:g}" for value in values], rotation=60 if crowded else 0)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(**LEGEND)
    return both(figure)


def side_by_side(
    found: Mapping[str, Mapping[str, SweepLine]],
    *,
    x: str,
    y: str,
    ticks: Mapping[float, str],
    log: bool = False,
) -> dict[str, bytes]:
    """Draw numbers with bars over the values of a setting, in panels side by side on one scale.

    Parameters
    ----------
    found
        Lines by name, by the title of their panel. A line of one name looks the same in every panel.
    x, y
        What the axes say.
    ticks
        What stands below each x.
    log
        Logarithmic x; every x is above 0.
    """
    figure = blank(4.6 * len(found) + 1.0, 4.0)
    row = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for lines in found.values() for name in lines))
    for axes, (title, lines) in zip(row, found.items(), strict=True):
        dress(axes, x, y if axes is row[0] else "")
        axes.set_title(title, fontsize=10, color=INK, loc="right")
        for name, line in lines.items():
            n = names.index(name)
            reach = np.nan_to_num(np.stack([line.y - line.low, line.high - line.y]))  # no bar of one repeat
            axes.errorbar(
                line.x,
                line.y,
                reach,
                linewidth=1.8,
                marker="o",
                markersize=4,
                capsize=3,
                elinewidth=1,
                label=name,
                **look(n),
            )
        if log:
            axes.set_xscale("log")
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.minorticks_off()
    shown = {
        label: handle for axes in row for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        [shown[name] for name in names], names, fontsize=9, frameon=False, loc="outside right upper"
    )
    return both(figure)


def bands(lines: Mapping[str, SweepLine], *, x: str, y: str) -> dict[str, bytes]:
    """Draw curves of many points, each with its bounds; arguments and result are those of `sweep`."""
    figure, axes = empty_axes(x, y)
    for n, (name, line) in enumerate(lines.items()):
        _band(axes, n, name, line)
    axes.legend(**LEGEND)
    return both(figure)


def stack(found: Mapping[str, Mapping[str, SweepLine]], *, x: str, mark: float) -> dict[str, bytes]:
    """Draw numbers of several kinds over one axis, one kind above the other, each on a scale of its own.

    Parameters
    ----------
    found
        Lines by name, by what their upright axis says. Every scale begins at 0.
    x
        What the common axis says.
    mark
        Where a line stands upright in every chart.
    """
    figure = blank(5.6, 2.3 * len(found) + 0.5)
    column = figure.subplots(len(found), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (y, lines) in zip(column, found.items(), strict=True):
        dress(axes, x if axes is column[-1] else "", y)
        axes.axvline(mark, color=INK, linewidth=0.8)
        for n, (name, line) in enumerate(lines.items()):
            _band(axes, n, name, line, marker="o", markersize=4)
        axes.set_ylim(bottom=0)
        axes.legend(**LEGEND, ncols=2)
    return both(figure)


def cloud(points: Mapping[str, tuple[np.ndarray, np.ndarray]], *, x: str, y: str) -> dict[str, bytes]:
    """Draw points of several groups: name to x and y, (N,) float each."""
    figure, axes = empty_axes(x, y)
    for n, (name, (across, up)) in enumerate(points.items()):
        axes.scatter(across, up, s=18, color=COLOURS[n % 8], alpha=0.5, linewidths=0, label=name)
    axes.legend(**LEGEND)
    return both(figure)


def panel(rows: Sequence[tuple[str, Sequence[tuple[str, np.ndarray]]]]) -> dict[str, bytes]:
    """Draw rows of maps, each row and map with its name; every map runs from its own least to its own largest.

    Parameters
    ----------
    rows
        Name to the (name, (H, W) float or (H, W, 3) uint8) of its maps, as many in each row.
    """
    wide = len(rows[0][1])
    deepest = [max(1 + title.count("\n") for title, _ in tiles) for _, tiles in rows]
    size = (1.5 * wide + 0.4, 1.55 * len(rows) + 0.13 * sum(deepest) + 0.2)
    figure = blank(*size)
    grid = figure.subplots(len(rows), wide, squeeze=False)
    for axes, (name, tiles) in zip(grid, rows, strict=True):
        axes[0].set_ylabel(name, fontsize=7)
        for one, (title, values) in zip(axes, tiles, strict=True):
            one.imshow(values, cmap="gray" if title == "image" else "viridis", interpolation="nearest")
            one.set_title(title, fontsize=7)
            one.set_xticks([])
            one.set_yticks([])
    return both(figure)


def _band(axes: Axes, n: int, name: str, line: SweepLine, **marks: Any) -> None:
    """Draw the n-th line and its bounds."""
    axes.plot(line.x, line.y, linewidth=1.8, label=name, **look(n), **marks)
    axes.fill_between(line.x, line.low, line.high, color=COLOURS[n % 8], alpha=0.15, linewidth=0)
