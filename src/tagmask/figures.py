"""The pictures and charts of a report, as PNG bytes.

Colours stay apart for every common colour blindness and in print: orange is truth, cyan is the mask, blue is
background, and scores run through viridis.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from tagmask.chart_style import COLOURS, DASHES, INK, LEGEND, drawn, empty_axes

__all__ = [
    "MASK",
    "TRUTH",
    "curves",
    "histogram",
    "quarters",
    "scale",
    "scatter",
    "score_tile",
    "tile",
]

TRUTH, MASK, BACKGROUND = "#ff8c1a", "#22d3ee", "#3558a8"
"""Colours of what is known, what is found, and everything else."""
QUIET = "#5b6472"
_TILE = 288


def tile(image: np.ndarray, *, mask: np.ndarray | None = None, truth: np.ndarray | None = None) -> bytes:
    """Draw a slice, the mask as a see-through colour, the truth as an outline along the edges of pixels.

    Parameters
    ----------
    image : (H, W) or (H, W, 3) uint8
    mask, truth : (H, W) bool, optional

    Returns
    -------
    bytes
        A PNG with a long side of about 288 pixels or more; each pixel of the slice is a square of one size.
    """
    colour = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
    zoom = _zoom(image)
    large = _enlarge(colour, zoom).astype(np.float32)
    if mask is not None:
        inside = _enlarge(mask, zoom)
        large[inside] = 0.6 * large[inside] + 0.4 * _rgb(MASK)
        large[_rim(inside, 1 if zoom < 4 else 2)] = _rgb(MASK)
    if truth is not None:
        large[_rim(_enlarge(truth, zoom), 1 if zoom < 4 else 2)] = _rgb(TRUTH)
    return _png(np.rint(large).astype(np.uint8))


def score_tile(score: np.ndarray, limits: tuple[float, float]) -> bytes:
    """Draw a score map in viridis.

    Parameters
    ----------
    score : (H, W) float
        What is not finite is drawn grey.
    limits
        The scores of the darkest and the brightest colour.
    """
    low, high = limits
    known = np.isfinite(score)
    share = np.clip((np.where(known, score, low) - low) / ((high - low) or 1.0), 0, 1)
    colour = np.asarray(colormaps["viridis"](share, bytes=True))[..., :3].copy()
    colour[~known] = 128
    return _png(_enlarge(colour, _zoom(score)))


def scale() -> bytes:
    """Draw the colours of :func:`score_tile`, low to high, as a PNG one pixel high."""
    return _png(np.asarray(colormaps["viridis"](np.linspace(0, 1, 128)[None], bytes=True))[..., :3])


def histogram(
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


def curves(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], chance: float | None = None) -> bytes:
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
        style: dict[str, Any] = {"color": COLOURS[n % 8], "linestyle": DASHES[n % 8], "label": name}
        axes.plot(recall, precision, linewidth=2.2 if n == 0 else 1.5, drawstyle="steps-post", **style)
    if chance is not None:
        axes.axhline(chance, color=QUIET, linewidth=1.2, linestyle=(0, (1, 2)), label=f"chance {chance:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(**LEGEND)
    return drawn(figure)


def scatter(sizes: np.ndarray, dice: np.ndarray) -> bytes:
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


def _png(rgb: np.ndarray) -> bytes:
    """Pack (H, W, 3) uint8."""
    buffer = io.BytesIO()
    metadata: Any = {"Software": None}
    imsave(buffer, np.ascontiguousarray(rgb), format="png", metadata=metadata)
    return buffer.getvalue()


def _zoom(slice_: np.ndarray) -> int:
    """Give how often a pixel is repeated, so that a small slice is seen and a large one stays small."""
    height, width = slice_.shape[:2]
    return max(1, round(_TILE / int(max(height, width))))


def _enlarge(array: np.ndarray, zoom: int) -> np.ndarray:
    """Repeat rows and columns."""
    return array.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _rim(inside: np.ndarray, width: int) -> np.ndarray:
    """Mark the pixels of a (H, W) bool region within `width` steps of its outside, or of the border."""
    core = inside.copy()
    for _ in range(width):
        padded = np.pad(core, 1)
        core = (
            padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        )
    return inside & ~core


def _rgb(name: str) -> np.ndarray:
    """Turn "#rrggbb" into three floats, 0 to 255."""
    return np.asarray([int(name[k : k + 2], 16) for k in (1, 3, 5)], dtype=np.float32)
