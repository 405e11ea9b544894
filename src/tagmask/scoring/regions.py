"""How strong a score map is inside the target and in the rest of the body."""

from __future__ import annotations

import numpy as np

__all__ = ["region_rms"]


def region_rms(score: np.ndarray, truth: np.ndarray, body: np.ndarray) -> tuple[float, float]:
    """Root mean square of a slice's scores inside the target, and over the body's other pixels.

    The magnitude of Fig. 2c of Che et al. 2024 (https://arxiv.org/abs/2404.15683), if the map is a SAM.

    Parameters
    ----------
    score : (H, W) float
        In the unit of the method, not scaled; finite.
    truth, body : (H, W) bool
        The target counts whole, also where the body ends before it does.

    Returns
    -------
    target, rest
        In the unit of the scores; NaN where there is no such pixel.

    Raises
    ------
    ValueError
        The shapes differ.

    Examples
    --------
    >>> score = np.array([[3.0, 5.0, 1.0, 9.0]])
    >>> region_rms(score, np.array([[1, 1, 0, 0]]) > 0, np.array([[1, 1, 1, 0]]) > 0)
    (4.123105625617661, 1.0)
    """
    if not score.shape == truth.shape == body.shape:
        raise ValueError(f"the shapes {score.shape}, {truth.shape} and {body.shape} differ; cut all alike.")
    return _rms(score[truth]), _rms(score[body & ~truth])


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else float("nan")
