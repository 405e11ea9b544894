"""One threshold for all maps of a data set, chosen by masks: the rule of papers that have validation masks.

Che et al. 2024 (AnoFPDM, https://arxiv.org/abs/2404.15683) choose so for all methods that they compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tagmask.errors import ConfigError
from tagmask.masks import MaskSettings, binarise
from tagmask.metrics import dice

__all__ = ["CANDIDATES", "SHARES", "BestThreshold", "best_threshold"]

CANDIDATES = tuple(round(0.01 * k, 2) for k in range(1, 70))
"""The thresholds that the papers try on squared differences of images in [-1, 1]."""
SHARES = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""The values tried of rules that take a share, of the peak or of the pixels."""
_LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class BestThreshold:
    """What was found.

    Parameters
    ----------
    value
        The threshold, in the unit of the maps; the first among equals.
    dice
        The mean Dice it gives.
    tried
        (threshold, mean Dice) of every candidate, in the order given.
    """

    value: float
    dice: float
    tried: tuple[tuple[float, float], ...]


def best_threshold(
    score_map: Tensor,
    image: Tensor,
    truth: np.ndarray,
    settings: MaskSettings | None = None,
    candidates: Sequence[float] = CANDIDATES,
) -> BestThreshold:
    """Find the value of a mask rule with the highest mean Dice over slices with and without target. It reads masks.

    The rule is "peak" or "quantile" where the settings say so, and a fixed threshold for all maps otherwise.
    Components are removed at every threshold, which is what makes the number of pixels no falling function of it.

    Parameters
    ----------
    score_map : (N, 1, S, S) float32, finite
    image : (N, C, S, S) float32
        The pictures; read for the foreground and for `intensity`.
    truth : (N, S, S) bool or uint8
        A slice whose truth and mask are both empty has Dice 1.
    settings
        Everything about masks but the value.
    candidates
        Values of the rule: thresholds in the unit of the maps, or shares.

    Raises
    ------
    ConfigError
        No candidate, or one that is no number.
    """
    settings = settings or MaskSettings()
    if not len(candidates) or not np.isfinite(np.asarray(candidates, dtype=np.float64)).all():
        raise ConfigError(
            f"thresholds = {list(candidates)}, but some finite numbers are needed.", where="mask.value"
        )
    if settings.rule not in ("peak", "quantile"):
        settings = replace(settings, rule="fixed", value=0.0)
    # Intensities have a say of their own at every value, so there is nothing to work out once.
    once = settings.rule == "fixed" and not settings.intensity
    masks_at = (_fixed if once else _anew)(score_map, image, settings)
    tried = [(float(v), float(_dices(masks_at(float(v)), truth > 0).mean())) for v in candidates]
    best = max(tried, key=lambda pair: pair[1])
    return BestThreshold(*best, tuple(tried))


def _anew(score_map: Tensor, image: Tensor, settings: MaskSettings) -> Callable[[float], np.ndarray]:
    """Give the function from a value of the rule to masks (N, S, S)."""
    return lambda v: binarise(score_map.cpu(), image.cpu(), replace(settings, value=v)).mask[:, 0].numpy()


def _fixed(score_map: Tensor, image: Tensor, settings: MaskSettings) -> Callable[[float], np.ndarray]:
    """Give the function from a threshold to masks (N, S, S); filter and foreground are worked out once."""
    everything = replace(settings, rule="fixed", value=_LOWEST, min_area=0, keep_largest=False)
    whole = binarise(score_map.cpu(), image.cpu(), everything)
    score = torch.where(whole.mask, whole.score_map, _LOWEST)  # no threshold lets in what lies outside
    rest = replace(settings, rule="fixed", value=0.0, median=1, foreground="none", erode=0)
    return lambda v: binarise(score, image, replace(rest, value=v)).mask[:, 0].numpy()


def _dices(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice (N,) of masks (N, S, S)."""
    overlap, marked, true = (m.sum(axis=(1, 2)) for m in (found & truth, found, truth))
    return dice(overlap, marked - overlap, true - overlap)
