"""The conventions of an evaluation: which slices and pixels count, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tagmask.config import check_seed
from tagmask.errors import ConfigError

__all__ = ["VERSION", "EvaluateSettings"]

VERSION = 4
"""Of the numbers: to be raised with every change that moves one, so that benchmarks evaluate again."""


@dataclass(frozen=True)
class EvaluateSettings:
    """Conventions of an evaluation.

    Parameters
    ----------
    plane
        The slices' plane, as in `SliceSettings`; None: the manifest's, else axial.
    mask_labels
        Values of the truth that count as target; None: all above 0.
    tag
        Column of the table that holds the tag.
    positives
        What makes a slice positive: "truth", a non-empty mask, or "tag", its tag.
    min_area_frac
        Slices whose target covers less than this share of the slice are dropped (0.05 in the papers' CHAOS
        protocol). Slices without target go too.
    area_of
        What the share is of: "slice", or "body", the pixels above 2.5 % of the case's grey range
        (`tagmask.thresholds.on_one_scale`).
    empty_hd
        See `metrics.hd95`.
    ap_over
        Pixels of AUPRC: "image", all; "body"; "slice_body", the body by the grey range of each slice
        (`tagmask.thresholds.slice_body`), as Che et al. 2024.
    resamples, seed
        Of the bootstrap over patients.
    """

    plane: str | None = None
    mask_labels: tuple[int, ...] | None = None
    tag: str = "label"
    positives: Literal["truth", "tag"] = "truth"
    min_area_frac: float = 0.0
    area_of: Literal["slice", "body"] = "slice"
    empty_hd: Literal["exclude", "diagonal", "zero"] = "exclude"
    ap_over: Literal["image", "body", "slice_body"] = "image"
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        for key, allowed in _ALLOWED.items():
            if getattr(self, key) not in allowed:
                raise ConfigError(
                    f"unknown value {getattr(self, key)!r}.",
                    where=f"evaluate.{key}",
                    repair=f"Use one of {allowed}.",
                )
        if self.resamples < 0:
            raise ConfigError(
                f"{self.resamples} resamples.",
                where="evaluate.resamples",
                repair="Use 0 for no intervals, or more.",
            )
        check_seed(self.seed, "evaluate.seed")
        if not 0 <= self.min_area_frac < 1:
            raise ConfigError(
                f"{self.min_area_frac} is no share.",
                where="evaluate.min_area_frac",
                repair="Use 0 <= share < 1.",
            )


_ALLOWED = {
    "positives": ("truth", "tag"),
    "area_of": ("slice", "body"),
    "empty_hd": ("exclude", "diagonal", "zero"),
    "ap_over": ("image", "body", "slice_body"),
}
