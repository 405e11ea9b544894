"""What is wanted of a data set by name, and what a preset fills in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tagmask.datasets.presets import find_preset, slice_settings
from tagmask.datasets.registry import Dataset, Target, find_dataset
from tagmask.datasets.splits import FOLDS
from tagmask.datasets.tags import TagSettings
from tagmask.errors import ConfigError
from tagmask.slices import SliceSettings

__all__ = ["DatasetSettings", "default_slices", "with_preset"]


@dataclass(frozen=True)
class DatasetSettings:
    """A data set by name, and what of it is wanted. None leaves the choice to the preset or the data set.

    Parameters
    ----------
    name
        "brats", "atlas", "chaos", "brain-mri", "abdomen-mr", "hippocampus", "monuseg", "qata-cov19" or
        "mosmeddata".
    modalities
        Which become channels, and in which order; by default all. ("flair",) for FLAIR alone.
    target
        What is to be segmented, for instance "kidney" or "liver" of chaos; by default the first.
    splits
        A rule: "anofpdm" (75/5/20 by patient), "cdm-brats" (9 to 1), "cdm-chaos" (four folds), "drawn" (by the
        shares and seed of `prepare`); or a CSV file with the columns patient and split.
    fold
        1..4, with "cdm-chaos"; by default the first.
    min_area_frac, area_of
        As in `tagmask.datasets.tags.TagSettings`.

    Raises
    ------
    ConfigError
        A name that is not known, or settings that the data set has no use for.
    """

    name: str
    modalities: tuple[str, ...] | None = None
    target: str | None = None
    splits: str | Path | None = None
    fold: int | None = None
    min_area_frac: float | None = None
    area_of: Literal["slice", "body"] | None = None

    def __post_init__(self) -> None:
        known = find_dataset(self.name)
        if self.target is not None and self.target not in known.targets:
            raise _refused("target", self.target, f"{self.name} has {', '.join(known.targets)}.")
        if known.cases is None:
            for key in ("modalities", "splits", "fold", "min_area_frac", "area_of"):
                if getattr(self, key) is not None:
                    what = f"{self.name} comes with its own tags and splits."
                    raise _refused(key, getattr(self, key), f"Leave it out: {what}")
            return
        wanted = self.modalities
        if wanted is not None and (not wanted or not set(wanted) <= set(known.modalities)):
            raise _refused("modalities", ",".join(wanted), f"{self.name} has {', '.join(known.modalities)}.")
        if self.fold is not None and not 1 <= self.fold <= FOLDS:
            raise _refused("fold", self.fold, f"Use 1 to {FOLDS}.")
        if self.fold is not None and self.splits not in (None, "cdm-chaos"):
            raise _refused("fold", self.fold, f"The splits {self.splits} have no folds.")
        TagSettings(min_area_frac=self.min_area_frac or 0.0, area_of=self.area_of or "slice")

    @property
    def dataset(self) -> Dataset:
        """What the name stands for."""
        return find_dataset(self.name)

    @property
    def tags_from_masks(self) -> bool:
        """Whether it has no tags of its own."""
        return self.dataset.cases is not None

    @property
    def aim(self) -> Target:
        """The target."""
        targets = self.dataset.targets
        return targets[self.target or next(iter(targets))]


def _refused(key: str, value: object, repair: str) -> ConfigError:
    return ConfigError(f"{value!r} is not allowed.", where=f"dataset.{key}", repair=repair)


def with_preset(dataset: DatasetSettings | str | None, preset: str | None) -> DatasetSettings | None:
    """Fill what a data set's settings leave open with what a preset says.

    Raises
    ------
    ConfigError
        An unknown name, or a preset of another data set.
    """
    if isinstance(dataset, str):
        dataset = DatasetSettings(dataset)
    if preset is None:
        return dataset
    chosen = find_preset(preset)
    if dataset is None or not dataset.tags_from_masks:
        return dataset
    if chosen.dataset != dataset.name:
        raise ConfigError(
            f"{preset} is made for {chosen.dataset}, not for {dataset.name}.",
            where="preset",
            repair="Choose another preset, or none and give the settings one by one.",
        )
    return replace(
        dataset,
        modalities=dataset.modalities or chosen.modalities,
        splits=dataset.splits or chosen.splits,
        min_area_frac=chosen.min_area_frac if dataset.min_area_frac is None else dataset.min_area_frac,
        area_of=dataset.area_of or chosen.area_of,
    )


def default_slices(dataset: DatasetSettings | None, preset: str | None, **given: Any) -> SliceSettings:
    """Build slice settings: those given, else of the preset, else of the data set, else the defaults.

    Raises
    ------
    ConfigError
        A value out of range.
    """
    own = dataset.dataset.slices if dataset is not None else {}
    return slice_settings(find_preset(preset).slices if preset is not None else own, **given)
