"""The charts of an evaluation, as PNG bytes: scores of target and background, precision and recall, Dice and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tagmask.drawing.style import COLOURS, INK, LEGEND, drawn, empty_axes, look

__all__ = ["dice_over_size", "precision_recall", "quarters", "score_histogram"]

BACKGROUND, QUIET = "#3558a8", "#5b6472"


def score_histogram(
    edges: np.ndarray,
    background: np.ndarray,
    truth: np.ndarray,
    thresholds: Sequence[float] = (),
) -> bytes:
    """Draw which scores background and truth pixels have, each as a share of its own pixels, on a log axis.

    Parameters
    ----------
    edges : (N + 1,) float
        Edges of the bins.
    background, truth : (N,) int
        Pixels in each bin.
    thresholds
        One per slice; drawn as their median and the band that holds 90 % of them.
    """
    figure, axes = empty_axes("score (the method's own unit)", "share of pixels in a bin")
    for counts, colour, name in ((background, BACKGROUND, "background"), (truth, COLOURS[1], "truth")):
        share = counts / max(int(counts.sum()), 1)
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.25)
        axes.stairs(share, edges, color=colour, linewidth=1.6, label=f"{name}: {int(counts.sum()):,} pixels")
    shown = (background + truth).cumsum() / max(int((background + truth).sum()), 1)
    # A few extreme pixels would squeeze everything else into a corner.
    lows, highs = int(np.searchsorted(shown, 5e-5)), int(np.searchsorted(shown, 1 - 5e-5))
    left, right = float(edges[lows]), float(edges[min(highs + 1, len(edges) - 1)])
    known = np.asarray([t for t in thresholds if np.isfinite(t)], dtype=float)
    if known.size:
        low, middle, high = np.percentile(known, (5, 50, 95))
        axes.axvspan(low, high, color=QUIET, alpha=0.18, linewidth=0)
        label = (
            f"threshold {middle:.3g}"
            if low == high
            else f"threshold {middle:.3g} (90 % in {low:.3g} to {high:.3g})"
        )
        axes.axvline(middle, color=INK, linestyle="--", linewidth=1.4, label=label)
        left, right = min(left, float(low)), max(right, float(high))
    axes.set_xlim(left, right)
    axes.set_yscale("log")
    positive = np.concatenate([c[c > 0] / c.sum() for c in (background, truth) if c.sum()] or [np.ones(1)])
    axes.set_ylim(max(float(positive.min()) * 0.7, 1e-7), 1.3)
    axes.legend(**LEGEND)
    return drawn(figure)


def precision_recall(
    lines: Mapping[str, tuple[np.ndarray, np.ndarray]], chance: float | None = None
) -> bytes:
    """Draw precision over recall.

    Parameters
    ----------
    lines
        Name to (recall, precision), each (N,) float in [0, 1]; drawn as given, the first one bold.
    chance
        Precision of a coin, which is the share of positive pixels.
    """
    figure, axes = empty_axes("recall", "precision")
    for n, (name, (recall, precision)) in enumerate(lines.items()):
        width = 2.2 if n == 0 else 1.5
        axes.plot(recall, precision, linewidth=width, drawstyle="steps-post", label=name, **look(n))
    if chance is not None:
        axes.axhline(chance, color=QUIET, linewidth=1.2, linestyle=(0, (1, 2)), label=f"chance {chance:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(**LEGEND)
    return drawn(figure)


def dice_over_size(sizes: np.ndarray, dice: np.ndarray) -> bytes:
    """Draw the Dice of each slice over the size of its target, with the mean of each quarter of the sizes.

    Parameters
    ----------
    sizes : (N,) int
        Pixels, at least 1.
    dice : (N,) float in [0, 1]
    """
    figure, axes = empty_axes("size of the target in the slice (pixels, log scale)", "Dice")
    opacity = float(np.clip(60 / max(len(sizes), 1), 0.12, 0.75))
    axes.scatter(
        sizes, dice, s=18, color=BACKGROUND, alpha=opacity, linewidths=0, label=f"one slice ({len(sizes):,})"
    )
    style: dict[str, Any] = {"color": COLOURS[1], "linewidth": 2.6, "marker": "|", "markersize": 9}
    for n, (low, high) in enumerate(quarters(sizes)):
        mean = dice[(sizes >= low) & (sizes <= high)].mean()
        label = None if n else "mean of a quarter of the slices"
        axes.plot([low, high], [mean, mean], label=label, solid_capstyle="butt", **style)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylim(-0.02, 1.02)
    axes.legend(**LEGEND)
    return drawn(figure)


def quarters(sizes: np.ndarray) -> list[tuple[int, int]]:
    """Give (smallest, largest) of each quarter of the sizes; equal sizes stay together."""
    bounds: list[tuple[int, int]] = []
    for part in np.array_split(np.sort(sizes), 4):
        above = part[part > bounds[-1][1]] if bounds else part
        if above.size:
            bounds.append((int(above[0]), int(above[-1])))
    return bounds
