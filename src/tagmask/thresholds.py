"""What masks are cut out with: Otsu's split, Bayes' rule, the outline of a head, the largest component.

Arrays in, arrays out.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

__all__ = [
    "BODY",
    "body",
    "head_foreground",
    "largest_component",
    "on_one_scale",
    "otsu",
    "prior_of",
    "slice_body",
    "with_picture",
]

BODY = 0.025
"""Share of a case's grey range above which a pixel is body: the papers' "> -0.95" in [-1, 1]."""
_BRIGHT = 0.999
"""Quantile that ends the grey range: a few hot voxels do not stretch it."""
_BINS = 256
_EIGHT = np.ones((3, 3), dtype=bool)


def otsu(values: np.ndarray) -> float:
    """Split values in two classes of least inner variance (Otsu 1979).

    N. Otsu, A threshold selection method from gray-level histograms, 1979,
    https://doi.org/10.1109/TSMC.1979.4310076. 256 bins between the smallest and the largest value, so the
    split moves with any a * values + b, a > 0.

    Parameters
    ----------
    values : any shape, finite

    Returns
    -------
    float
        The threshold, the centre of a bin. The upper class lies above it. Equal values: that value.

    Examples
    --------
    >>> round(otsu(np.array([0.0, 0.0, 0.1, 0.9, 1.0])), 2)
    0.1
    """
    flat = np.asarray(values, dtype=np.float64).ravel()
    low, high = float(flat.min()), float(flat.max())
    if not high > low:
        return low
    count, edges = np.histogram((flat - low) / (high - low), bins=_BINS, range=(0.0, 1.0))
    centre = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(count), np.cumsum(count[::-1])[::-1]
    mean_below = np.cumsum(count * centre) / below
    mean_above = (np.cumsum((count * centre)[::-1]) / above[::-1])[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    return low + float(centre[int(np.argmax(between))]) * (high - low)


def on_one_scale(image: np.ndarray, kind: str) -> np.ndarray:
    """Bring the channels of a case to one scale, so that their mean means something.

    Parameters
    ----------
    image : (C, I, J, K) float
        Raw intensities, finite.
    kind
        "volume": each channel, a modality in units of its own, is scaled by its own range. "picture": colours
        keep their balance.

    Returns
    -------
    (C, I, J, K) float32
        0 at the minimum, 1 at the 99.9 % quantile; what is brighter lies above 1. A constant channel is 0.

    Examples
    --------
    >>> flair, t1 = np.linspace(0, 300, 1001), np.linspace(1000, 5000, 1001)
    >>> [f"{value:.3f}" for value in on_one_scale(np.stack([flair, t1])[:, None, None], "volume")[..., 500].ravel()]
    ['0.501', '0.501']
    """
    pixels = image.reshape(len(image) if kind == "volume" else 1, -1)
    low, high = pixels.min(axis=1, keepdims=True), np.quantile(pixels, _BRIGHT, axis=1, keepdims=True)
    # Where all but a few pixels are equal, the range is that of the few.
    high = np.where(high > low, high, pixels.max(axis=1, keepdims=True))
    scaled = (pixels - low) / np.maximum(high - low, 1e-30).astype(pixels.dtype)
    return np.asarray(scaled.reshape(image.shape), dtype=np.float32)


def body(scaled: np.ndarray) -> np.ndarray:
    """Give the pixels (I, J, K) bool of a case on one scale (C, I, J, K) whose mean over channels is above `BODY`."""
    return np.asarray(scaled.mean(axis=0) > BODY, dtype=bool)


def slice_body(scaled: np.ndarray, axis: int) -> np.ndarray:
    """Give the body (I, J, K) bool of each slice, its channels scaled from its own minimum to its own maximum.

    As a network sees it that learns from slices normalised one by one: Che et al. 2024 take their AUPRC over the pixels
    whose mean over modalities is above -0.95 there.

    Parameters
    ----------
    scaled : (C, I, J, K) float
        A case on one scale.
    axis
        Which of I, J, K counts the slices.
    """
    plane = tuple(a for a in (1, 2, 3) if a != axis + 1)
    low, high = scaled.min(axis=plane, keepdims=True), scaled.max(axis=plane, keepdims=True)
    return body((scaled - low) / np.where(high > low, high - low, 1))


def prior_of(values: np.ndarray, cut: float, zero: float) -> np.ndarray:
    """Read scores as the probability that a pixel belongs to the target, 1/2 at the threshold.

    Parameters
    ----------
    values : any shape
        Scores of one map.
    cut
        Its threshold.
    zero
        The score at which the probability is 0. Lower scores have 0 as well; the largest score has 1.

    Returns
    -------
    np.ndarray
        As `values`, float64 in [0, 1]: the share of the largest score, raised to the power that takes the
        threshold to 1/2. 0 or 1 on either side of a threshold that does not lie between `zero` and the largest.

    Examples
    --------
    >>> prior_of(np.array([-1.0, 0.0, 2.0, 4.0, 8.0]), cut=2.0, zero=0.0).round(3).tolist()
    [0.0, 0.0, 0.5, 0.707, 1.0]
    """
    peak = float(values.max())
    if not zero < cut < peak:
        return (values > cut).astype(np.float64)
    share = np.clip((values - zero) / (peak - zero), 0.0, 1.0)
    return np.asarray(share ** (np.log(0.5) / np.log((cut - zero) / (peak - zero))), dtype=np.float64)


def with_picture(prior: np.ndarray, picture: np.ndarray, weight: float = 1.0) -> np.ndarray:
    """Let the intensities of a picture correct a mask: Bayes' rule with a normal density inside and one outside.

    Each density has the mean and variance of the intensities, every pixel counting as much as the prior says
    that it is inside, or outside. One step of the classification of Van Leemput et al., Automated model-based tissue
    classification of MR images of the brain, IEEE TMI 1999, https://doi.org/10.1109/42.811270, with a score map
    in the place of their atlas. Nothing is assumed of whether a target is bright or dark.

    Parameters
    ----------
    prior : (N,) in [0, 1]
        The probability of each pixel before the picture is looked at. 0 and 1 are final.
    picture : (C, N)
        Any intensity scale; channels count as independent.
    weight
        w >= 0 of the picture: 0, it is not looked at; 1, as Bayes' rule has it.

    Returns
    -------
    (N,) bool
        prior / (1 - prior) * (p(picture | inside) / p(picture | outside)) ** w > 1.

    Examples
    --------
    >>> bright = np.array([[0.0, 0.1, 0.0, 0.1, 0.9, 1.0, 1.0]])
    >>> with_picture(np.array([0.1, 0.1, 0.1, 0.6, 0.4, 0.7, 0.9]), bright).tolist()
    [False, False, False, False, True, True, True]
    """
    with np.errstate(divide="ignore"):
        odds = np.log(prior) - np.log1p(-prior)
    if weight and 0 < prior.sum() < prior.size:
        # A tenth of the spread is the least that a density may have: grey values come in steps.
        least = 0.01 * picture.var(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = _log_density(picture, prior, least) - _log_density(picture, 1 - prior, least)
        odds = odds + weight * np.where(np.isfinite(ratio), ratio, 0.0).sum(axis=0)
    return np.asarray(odds > 0, dtype=bool)


def _log_density(picture: np.ndarray, share: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Log of the normal density of (C, N) intensities whose pixels count by their share, less a constant."""
    mean = (picture @ share / share.sum())[:, None]
    variance = ((picture - mean) ** 2 @ share / share.sum())[:, None] + least[:, None]
    return np.asarray(-((picture - mean) ** 2) / (2 * variance) - np.log(variance) / 2)


def head_foreground(picture: np.ndarray, erode: int = 0) -> np.ndarray:
    """Find the head (or body) in a slice: its largest bright region, holes filled, rim shaved.

    Bright means above half of Otsu's threshold, counted from the minimum: scalp and eyes are the brightest
    parts of a head, and Otsu's own threshold would leave the darker brain to them.

    Parameters
    ----------
    picture : (C, H, W)
        Any intensity scale; channels are averaged.
    erode
        Pixels shaved off. What lies beyond the picture counts as background.

    Returns
    -------
    (H, W) bool
        All False for a constant picture.
    """
    grey = np.asarray(picture, dtype=np.float64).mean(axis=0)
    low = grey.min()
    bright = grey > low + 0.5 * (otsu(grey) - low)
    head = ndimage.binary_fill_holes(largest_component(bright))
    return np.asarray(ndimage.binary_erosion(head, iterations=erode) if erode else head, dtype=bool)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Give the largest 8-connected component, (H, W) bool; the first in reading order among equals."""
    labels, count = ndimage.label(mask, structure=_EIGHT)
    if not count:
        return mask
    area = np.bincount(labels.ravel())
    return np.asarray(labels == 1 + int(np.argmax(area[1:])), dtype=bool)
