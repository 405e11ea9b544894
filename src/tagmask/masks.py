"""Score map to mask: a threshold rule, then the repairs a person may ask for.

Everything here reads the picture and the score map alone. No mask, no tag, no other slice: the rules that know
more, ``otsu_mean`` and ``method``, get their numbers from the caller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tagmask.errors import ConfigError, InputError
from tagmask.thresholds import head_foreground, largest_component, otsu, prior_of, with_picture

__all__ = [
    "BinaryMasks",
    "MaskSettings",
    "binarise",
    "no_threshold",
    "separation",
]

_EIGHT = np.ones((3, 3), dtype=bool)
_RULES = ("otsu", "peak", "quantile", "fixed", "otsu_mean", "method")
_VALUED = ("peak", "quantile", "fixed")


@dataclass(frozen=True)
class MaskSettings:
    """How a score map becomes a mask.

    Parameters
    ----------
    rule
        "otsu": Otsu's threshold of each map (256 bins between its minimum and maximum).
        "peak": `value` times the largest score of each map, as PET contours lesions at 41 % of the largest
        uptake (Boellaard et al. 2015, https://doi.org/10.1007/s00259-014-2961-x); for maps whose 0 means that
        nothing moved, as CDM's.
        "quantile": `value` is the share of the map that stays below the threshold, within one map.
        "fixed": `value` is the threshold, in the unit of the map.
        "otsu_mean": the mean of Otsu's thresholds over a data set, given to `binarise` by the caller.
        "method": the method's own threshold of each map (`Prediction.threshold`), given by the caller.
    value
        The number of "peak", "quantile" (both in (0, 1)) and "fixed"; None for the other rules.
    intensity
        Weight of the picture's own intensities (see `with_picture`). 0: the map alone decides. Otherwise the map is
        read as the probability of the target, 1/2 at the threshold, 0 where it is 0 ("peak") or at its minimum (the
        other rules), and Bayes' rule draws the rim where the picture has it; 1 is that rule as it stands.
    median
        Side of the median filter on the map, odd, in pixels; 1 switches it off. Borders are mirrored.
    min_area
        Components (8-connected) whose area, holes filled, is below this many pixels are removed.
    foreground
        "head": only the largest bright region of the picture can be masked (see `head_foreground`).
    erode
        Pixels shaved off the rim of the foreground.
    keep_largest
        Keep only the largest component.

    Raises
    ------
    ConfigError
        A value out of its range, or given to a rule that has no use for it.
    """

    rule: Literal["otsu", "peak", "quantile", "fixed", "otsu_mean", "method"] = "otsu"
    value: float | None = None
    intensity: float = 0.0
    median: int = 1
    min_area: int = 0
    foreground: Literal["none", "head"] = "none"
    erode: int = 0
    keep_largest: bool = False

    def __post_init__(self) -> None:
        self._check(self.rule in _RULES, "rule", f"Use one of {', '.join(_RULES)}.")
        self._check(self.foreground in ("none", "head"), "foreground", "Use none or head.")
        if self.rule not in _VALUED:
            self._check(self.value is None, "value", f"Leave it out: rule {self.rule} has its own threshold.")
        else:
            finite = self.value is not None and bool(np.isfinite(self.value))
            self._check(finite, "value", f"Give a number: rule {self.rule} needs one.")
        if self.rule in ("peak", "quantile"):
            self._check(0 < float(self.value or 0) < 1, "value", "Give a share between 0 and 1.")
        self._check(
            0 <= self.intensity < np.inf, "intensity", "Give a weight, 0 for none, 1 for Bayes' rule."
        )
        self._check(
            self.median > 0 and self.median % 2 == 1, "median", "Give an odd number of pixels, 1 for none."
        )
        self._check(self.min_area >= 0, "min_area", "Give a number of pixels, 0 for none.")
        self._check(self.erode >= 0, "erode", "Give a number of pixels, 0 for none.")
        self._check(
            not self.erode or self.foreground == "head", "erode", 'Set foreground = "head" to shave it.'
        )

    def _check(self, fine: bool, key: str, repair: str) -> None:
        """Refuse a setting."""
        if not fine:
            raise ConfigError(f"{getattr(self, key)!r} is not allowed.", where=f"mask.{key}", repair=repair)


@dataclass(frozen=True)
class BinaryMasks:
    """Masks and how they came about.

    Parameters
    ----------
    mask : (B, 1, S, S) bool
    threshold : (B,) float32
        In the unit of the score map; a pixel is in the mask when its score is above it, unless the picture's
        `intensity` has a say.
    score_map : (B, 1, S, S) float32
        The map that was thresholded: filtered, and at its minimum outside the foreground.
    """

    mask: Tensor
    threshold: Tensor
    score_map: Tensor


def binarise(
    score_map: Tensor, image: Tensor, settings: MaskSettings, threshold: float | Tensor | None = None
) -> BinaryMasks:
    """Turn score maps into masks, each slice on its own.

    Parameters
    ----------
    score_map : (B, 1, S, S) float, finite
    image : (B, C, S, S) float
        The pictures; read for the foreground and for `intensity`.
    settings
        The rule and its repairs.
    threshold : float or (B,) float32, optional
        Takes the place of the rule's own threshold, in the unit of the (filtered) map: one for all slices or
        one for each. Needed by "otsu_mean" and "method".

    Returns
    -------
    BinaryMasks
        On the device of the score map. A map without contrast gives an empty mask unless the threshold is
        given.

    Raises
    ------
    ConfigError
        "otsu_mean" or "method" without a threshold.
    InputError
        A score map that is not finite.
    """
    if settings.rule == "otsu_mean" and threshold is None:
        raise ConfigError(
            "rule 'otsu_mean' needs the mean of Otsu's thresholds over the data set.",
            where="mask.rule",
            repair="Binarise with rule 'otsu' first and pass the mean of its thresholds.",
        )
    if settings.rule == "method" and threshold is None:
        raise no_threshold()
    maps = score_map.detach().cpu().numpy().astype(np.float32)[:, 0]
    if not np.isfinite(maps).all():
        raise InputError(
            "the score map has values that are not finite.",
            where=f"mask.rule = {settings.rule}",
            repair="Look at the settings of the method and at the weights; no mask is made of such a map.",
        )
    pictures = image.detach().cpu().numpy()
    cuts: list[float | None] = [None] * len(maps)
    if threshold is not None:
        cuts = torch.as_tensor(threshold, dtype=torch.float64, device="cpu").expand(len(maps)).tolist()
    made = [_binarise_slice(m, p, settings, c) for m, p, c in zip(maps, pictures, cuts, strict=True)]
    device = score_map.device
    if not made:
        empty = torch.zeros_like(score_map, dtype=torch.float32)
        return BinaryMasks(empty.bool(), torch.zeros(0, device=device), empty)
    masks, thresholds, filtered = zip(*made, strict=True)
    return BinaryMasks(
        mask=torch.from_numpy(np.stack(masks)[:, None]).to(device),
        threshold=torch.tensor(thresholds, dtype=torch.float32, device=device),
        score_map=torch.from_numpy(np.stack(filtered)[:, None]).to(device),
    )


def no_threshold(method: str = "this method") -> ConfigError:
    """Make the error of rule "method" for a method that has no threshold of its own."""
    return ConfigError(
        f"rule 'method' takes the threshold that the method gives, but {method} gives none.",
        where="mask.rule",
        repair="Use otsu, quantile, fixed, peak or otsu_mean. AnoFPDM gives one once its M_max is chosen: "
        "tagmask tune RUN --method anofpdm.",
    )


def separation(binary: BinaryMasks) -> Tensor:
    """How clearly a map falls into mask and rest: the difference of their mean scores in standard deviations.

    A map with one distinct target separates well, a map of noise or of many scattered spots does not, so the
    number can be held against image tags to choose settings without a pixel label.

    Returns
    -------
    (B,) float32
        0 for a mask that is empty or full, and for a map without contrast.
    """
    maps, masks = binary.score_map.flatten(1).double(), binary.mask.flatten(1).double()
    inside, outside = masks.sum(dim=1), (1 - masks).sum(dim=1)
    gap = (maps * masks).sum(dim=1) / inside - (maps * (1 - masks)).sum(dim=1) / outside
    found = gap / maps.std(dim=1)
    return torch.where((inside > 0) & (outside > 0) & found.isfinite(), found, 0.0).float()


def _binarise_slice(
    score: np.ndarray, picture: np.ndarray, settings: MaskSettings, given: float | None
) -> tuple[np.ndarray, float, np.ndarray]:
    """Mask (S, S) bool, threshold and filtered map (S, S) float32 of one slice."""
    if settings.median > 1:
        # scipy's "mirror" does not repeat the border pixel, like the padding of the papers' code.
        score = ndimage.median_filter(score, size=settings.median, mode="mirror")
    inside = np.ones(score.shape, dtype=bool)
    if settings.foreground == "head":
        inside = head_foreground(picture, settings.erode)
    values = score[inside]
    if not values.size:
        lowest = score.min()
        return inside, float(lowest), np.full_like(score, lowest)
    score = np.where(inside, score, values.min()).astype(np.float32)
    cut = _threshold(values, settings) if given is None else float(given)
    mask = (score > cut) & inside
    if settings.intensity and mask.any():
        prior = prior_of(values, cut, zero=0.0 if settings.rule == "peak" else float(values.min()))
        mask[inside] = with_picture(prior, picture[:, inside].astype(np.float64), settings.intensity)
    return _tidy(mask, settings), cut, score


def _threshold(values: np.ndarray, settings: MaskSettings) -> float:
    """Threshold that the rule finds in the values (N,) inside the foreground."""
    if settings.rule == "otsu":
        return otsu(values)
    assert settings.value is not None
    if settings.rule == "peak":
        peak = float(values.max())
        return settings.value * peak if peak > 0 else peak  # nothing lies above its own maximum
    return float(np.quantile(values, settings.value)) if settings.rule == "quantile" else settings.value


def _tidy(mask: np.ndarray, settings: MaskSettings) -> np.ndarray:
    """Remove small components, then all but the largest, as asked."""
    if settings.min_area > 1:
        labels, count = ndimage.label(mask, structure=_EIGHT)
        area = np.bincount(labels.ravel(), minlength=count + 1)
        for part in np.flatnonzero(area[1:] < settings.min_area) + 1:
            if ndimage.binary_fill_holes(labels == part).sum() < settings.min_area:
                mask = mask & (labels != part)
    return largest_component(mask) if settings.keep_largest else mask
