"""How every chart here looks: its axes, colours, lines and legend, and the bytes it becomes.

Figures are objects of their own, drawn by Agg: no pyplot, so no global state, no display, no backend.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["COLOURS", "DASHES", "INK", "LEGEND", "blank", "both", "drawn", "dress", "empty_axes", "look"]

INK = "#1f2430"
COLOURS = ("#3558a8", "#c2510c", "#0f766e", "#8a3ffc", "#7a5c00", "#c2185b", "#44546a", "#111827")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 3)))
"""Told apart in every common colour blindness and, by the dashes, in print."""
LEGEND: dict[str, Any] = {
    "fontsize": 9,
    "frameon": False,
    "loc": "lower left",
    "bbox_to_anchor": (-0.01, 1.0),
}


def look(n: int) -> dict[str, Any]:
    """Give colour and dashes of the n-th line."""
    return {"color": COLOURS[n % 8], "linestyle": DASHES[n % 8]}


def empty_axes(x: str, y: str) -> tuple[Figure, Axes]:
    """Give an empty chart with readable axes."""
    figure = blank(5.6, 4.0)
    axes = figure.add_subplot()
    dress(axes, x, y)
    return figure, axes


def dress(axes: Axes, x: str, y: str) -> None:
    """Make axes readable."""
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#d7dbe2", linewidth=0.6)
    axes.set_axisbelow(True)


def blank(width: float, height: float) -> Figure:
    """Give an empty figure of a size in inches."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(figure: Figure, form: str = "png") -> bytes:
    """Draw a figure; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    absent: Any = {"png": {"Software": None}, "svg": {"Date": None, "Creator": None}}[form]
    with rc_context({"svg.hashsalt": "tagmask"}):  # its default is drawn anew each time
        figure.savefig(buffer, format=form, metadata=absent)
    return buffer.getvalue()


def both(figure: Figure) -> dict[str, bytes]:
    """Draw a figure as "png" and as "svg"."""
    return {"png": drawn(figure), "svg": drawn(figure, "svg")}
