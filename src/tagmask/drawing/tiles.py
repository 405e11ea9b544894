"""Slices, masks and score maps as PNG bytes, each pixel a square.

Colours stay apart for every common colour blindness and in print: orange is truth, cyan is the mask, and scores run
through viridis.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

__all__ = ["MASK", "TRUTH", "coloured", "overlay", "scale", "score_tile", "tile"]

TRUTH, MASK = "#ff8c1a", "#22d3ee"
"""Colours of what is known and what is found."""
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
    return _png(overlay(image, mask=mask, truth=truth))


def overlay(
    image: np.ndarray, *, mask: np.ndarray | None = None, truth: np.ndarray | None = None
) -> np.ndarray:
    """Give what :func:`tile` packs: (rows, columns, 3) uint8."""
    colour = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
    zoom = _zoom(image)
    large = _enlarge(colour, zoom).astype(np.float32)
    if mask is not None:
        inside = _enlarge(mask, zoom)
        large[inside] = 0.6 * large[inside] + 0.4 * _rgb(MASK)
        large[_rim(inside, 1 if zoom < 4 else 2)] = _rgb(MASK)
    if truth is not None:
        large[_rim(_enlarge(truth, zoom), 1 if zoom < 4 else 2)] = _rgb(TRUTH)
    return np.rint(large).astype(np.uint8)


def score_tile(score: np.ndarray, limits: tuple[float, float]) -> bytes:
    """Draw a score map in viridis.

    Parameters
    ----------
    score : (H, W) float
        What is not finite is drawn grey.
    limits
        The scores of the darkest and the brightest colour.
    """
    return _png(coloured(score, limits))


def coloured(score: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Give what :func:`score_tile` packs: (rows, columns, 3) uint8."""
    low, high = limits
    known = np.isfinite(score)
    share = np.clip((np.where(known, score, low) - low) / ((high - low) or 1.0), 0, 1)
    colour = np.asarray(colormaps["viridis"](share, bytes=True))[..., :3].copy()
    colour[~known] = 128
    return _enlarge(colour, _zoom(score))


def scale() -> bytes:
    """Draw the colours of :func:`score_tile`, low to high, as a PNG one pixel high."""
    return _png(np.asarray(colormaps["viridis"](np.linspace(0, 1, 128)[None], bytes=True))[..., :3])


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
