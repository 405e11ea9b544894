"""The charts of the ablation figures: numbers over a setting, bands, clouds of points, panels of maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tagmask.chart_style import COLOURS, DASHES, LEGEND, blank, both, empty_axes

__all__ = ["SweepLine", "bands", "cloud", "panel", "sweep"]


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
        style: dict[str, Any] = {"color": COLOURS[n % 8], "linestyle": DASHES[n % 8]}
        axes.plot(line.x, line.y, linewidth=1.8, marker="o", markersize=4, label=name, **style)
        axes.fill_between(line.x, line.low, line.high, color=COLOURS[n % 8], alpha=0.15, linewidth=0)
    values = np.unique(np.concatenate([line.x for line in lines.values()]))
    if log and len(values) > 1 and values[0] >= 0:
        axes.set_xscale("symlog", linthresh=float(values[values > 0][0]))
    crowded = not log and len(values) > 1 and np.diff(values).min() < 0.06 * np.ptp(values)
    axes.set_xticks(values, [f"{value:g}" for value in values], rotation=60 if crowded else 0)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(**LEGEND)
    return both(figure)


def bands(lines: Mapping[str, SweepLine], *, x: str, y: str) -> dict[str, bytes]:
    """Draw curves of many points, each with its bounds.

    Parameters
    ----------
    lines
        By name.
    x, y
        What the axes say.

    Returns
    -------
    dict
        The same chart as "png" and as "svg"; so of all functions here.
    """
    figure, axes = empty_axes(x, y)
    for n, (name, line) in enumerate(lines.items()):
        axes.plot(line.x, line.y, color=COLOURS[n % 8], linestyle=DASHES[n % 8], linewidth=1.8, label=name)
        axes.fill_between(line.x, line.low, line.high, color=COLOURS[n % 8], alpha=0.15, linewidth=0)
    axes.legend(**LEGEND)
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
        Name to the (name, (H, W) float) of its maps, as many in each row.
    """
    wide = len(rows[0][1])
    size = (1.5 * wide + 0.4, 1.7 * len(rows) + 0.2)
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
