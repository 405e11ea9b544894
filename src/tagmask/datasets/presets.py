"""The papers' preprocessing by name: slice settings, and for the papers' data sets the splits besides.

cdm-brats       Hu et al. 2023: FLAIR, every axial slice, grey values of the volume from minimum to maximum
cdm-chaos       the same at 128 px; test slices whose kidneys are less than 5 % of the body are dropped
anofpdm-brats   Che et al. 2024: four modalities, slices with tissue, each slice from minimum to maximum
anofpdm-atlas   the same with T1 alone
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tagmask.config import build
from tagmask.errors import ConfigError, did_you_mean
from tagmask.slices import SliceSettings

__all__ = ["PRESETS", "Preset", "find_preset", "merged", "slice_settings"]


@dataclass(frozen=True)
class Preset:
    """A paper's preprocessing of a data set.

    Parameters
    ----------
    dataset
        The data set it was published for. Of a table, only `slices` counts.
    splits
        A rule of `tagmask.datasets.splits`.
    slices
        Arguments of SliceSettings.
    modalities
        None is all.
    min_area_frac, area_of
        As in `tagmask.datasets.tags.TagSettings`.
    """

    dataset: str
    splits: str
    slices: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[str, ...] | None = None
    min_area_frac: float = 0.0
    area_of: Literal["slice", "body"] = "slice"


# Of what the 5 % are, Hu et al. do not say; of the whole slice, kidneys are next to never so many.
_CDM = {"plane": "axial", "normalise": "volume", "percentiles": [0, 100]}
# Che et al. divide by the 99th percentile as well, which the scaling of each slice undoes; it counts for what
# is tissue alone.
_ANOFPDM = {"plane": "axial", "size": 128, "normalise": "slice", "tissue": 0.5}
PRESETS = {
    "cdm-brats": Preset("brats", "cdm-brats", {**_CDM, "size": 224}, ("flair",)),
    "cdm-chaos": Preset("chaos", "cdm-chaos", {**_CDM, "size": 128}, min_area_frac=0.05, area_of="body"),
    "anofpdm-brats": Preset("brats", "anofpdm", _ANOFPDM),
    "anofpdm-atlas": Preset("atlas", "anofpdm", _ANOFPDM),
}


def find_preset(name: str) -> Preset:
    """Give a preset by name.

    Raises
    ------
    ConfigError
        None of this name.
    """
    if name not in PRESETS:
        repair = did_you_mean(name, PRESETS)
        raise ConfigError(f"There is no preset {name!r}.", where="preset", repair=repair)
    return PRESETS[name]


def merged(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Put arguments of SliceSettings that were given over those of a preset; None is not given.

    Percentiles or a window bring their own way to normalise, where that is not given.

    Examples
    --------
    >>> merged({"size": 64, "normalise": "window", "window": [0, 255]}, {"percentiles": [1, 99]})
    {'size': 64, 'normalise': 'volume', 'percentiles': [1, 99]}
    """
    given = {key: value for key, value in given.items() if value is not None}
    if "window" in given:
        given.setdefault("normalise", "window")
    elif "percentiles" in given:
        given.setdefault("normalise", "volume")
    table = {**base, **given}
    if table.get("normalise") != "window" and "window" not in given:
        table.pop("window", None)
    return table


def slice_settings(base: Mapping[str, Any], **given: Any) -> SliceSettings:
    """Build slice settings from those of a preset and what was given.

    Raises
    ------
    ConfigError
        A value out of range.
    """
    return build(SliceSettings, merged(base, given), where="tagmask prepare")
