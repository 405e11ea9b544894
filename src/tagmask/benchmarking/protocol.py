"""The protocol of a benchmark: the papers' own, or one put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tagmask.errors import ConfigError
from tagmask.scoring.protocol import EvaluateSettings
from tagmask.segmenting.presence import Tags

__all__ = ["METRIC_NAMES", "PRESETS", "Metric", "Protocol", "Setup"]

Setup = Literal["positives", "mixed"]
Metric = Literal["dice", "iou", "hd95", "auprc"]

METRIC_NAMES: Mapping[str, str] = {"dice": "Dice", "iou": "mIoU", "hd95": "HD95", "auprc": "AUPRC"}
"""As the papers' tables head their columns."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "tagmask": {},
    # Hu et al. 2023: positive slices, four repeats; the published code counts HD95 as 0 where a mask is empty.
    "cdm": {"setups": ["positives"], "metrics": ["dice", "iou", "hd95"], "empty_hd": "zero"},
    # Che et al. 2024: three rounds; AUPRC over the pixels of the body, pooled over slices; test slices come without
    # tags (Sect. 4.2), and methods without a verdict of their own are not gated.
    "anofpdm": {
        "setups": ["mixed", "positives"],
        "metrics": ["dice", "iou", "auprc"],
        "auprc_over": "pooled",
        "ap_over": "slice_body",
        "seeds": [0, 1, 2],
        "tags": "none",
    },
}
"""What each preset says otherwise than the defaults of `Protocol`."""


@dataclass(frozen=True)
class Protocol:
    """What is counted, and how.

    Parameters
    ----------
    setups
        Slices that count: "positives" (the papers' "unhealthy"), "mixed" (all).
    metrics
        Columns of the table.
    averaging
        Dice, IoU and HD95 are means over slices ("image") or over patients ("patient").
    auprc_over
        The same of AUPRC, or "pooled" over all pixels.
    seeds
        Of the noise; each is a repeat of the whole segmentation.
    tags
        As `tagmask segment --tags`, or one for each setup, of rows that do not say so themselves. With "given" a slice
        with tag 0 has an empty mask.
    positives, min_area_frac, area_of, empty_hd, ap_over, resamples
        As in `EvaluateSettings`.
    """

    setups: tuple[Setup, ...] = ("positives", "mixed")
    metrics: tuple[Metric, ...] = ("dice", "iou", "hd95", "auprc")
    averaging: Literal["image", "patient"] = "image"
    auprc_over: Literal["image", "patient", "pooled"] = "image"
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    tags: Tags | dict[Setup, Tags] = "given"
    positives: Literal["truth", "tag"] = "truth"
    min_area_frac: float = 0.0
    area_of: Literal["slice", "body"] = "slice"
    empty_hd: Literal["exclude", "diagonal", "zero"] = "exclude"
    ap_over: Literal["image", "body", "slice_body"] = "image"
    resamples: int = 2000

    def __post_init__(self) -> None:
        for key in ("setups", "metrics", "seeds"):
            values = getattr(self, key)
            if not values or len(set(values)) < len(values):
                raise ConfigError(
                    f"{key} = {list(values)}.", where="[protocol]", repair="Name at least one, each once."
                )
        if self.resamples < 1:
            raise ConfigError(f"resamples = {self.resamples}.", where="[protocol]", repair="Use 1 or more.")
        self.settings()

    def per(self, metric: str) -> str:
        """Over what a metric is averaged: a key of `tagmask.scoring.aggregate.summarise`."""
        return self.auprc_over if metric == "auprc" else self.averaging

    def settings(self, **changes: Any) -> EvaluateSettings:
        """Give the settings of an evaluation; `changes` are what a data set has of its own."""
        own = ("positives", "min_area_frac", "area_of", "empty_hd", "ap_over", "resamples")
        return EvaluateSettings(**{**{key: getattr(self, key) for key in own}, **changes})
