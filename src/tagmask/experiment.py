"""One experiment: the data, the networks, how they are trained, and the methods that use them.

An experiment file is TOML; each of its tables is a dataclass and each key an argument of it.

    [data]              where the prepared slices are
    [schedule]          the noise
    [text]              who reads the sentences, where a network does
    [denoiser]          the networks; a table that is absent is a network that is not trained
    [classifier]
    [segmenter]         ... see `tagmask.networks.kinds`
    [train.denoiser]    how each is trained
    [methods.cdm]       settings of the methods; the first is the default of `tagmask segment`
    [mask]              from score map to mask
    [methods.cdm.mask]  what is other for one method
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tagmask.config import build, override, plain, read_toml, write_toml
from tagmask.data.shots import Shots
from tagmask.diffusion.schedule import ScheduleSettings
from tagmask.errors import ConfigError
from tagmask.masks import MaskSettings
from tagmask.methods import METHODS, settings_of
from tagmask.networks.classifier import ClassifierSettings
from tagmask.networks.cnn import CNNSettings
from tagmask.networks.denoiser import DenoiserSettings
from tagmask.networks.gloria import GloriaSettings
from tagmask.networks.gloria_pair import GloriaPairSettings
from tagmask.networks.kinds import MASK_LEARNERS, NETWORKS
from tagmask.networks.learnt import Learnt
from tagmask.networks.lvit import LViTSettings
from tagmask.networks.pixel_classifier import PixelClassifierSettings
from tagmask.networks.segmenter import SegmenterSettings
from tagmask.networks.swinunet import SwinUNetSettings
from tagmask.networks.textdiff import TextDiffSettings
from tagmask.networks.transunet import TransUNetSettings
from tagmask.text import TextSettings
from tagmask.train_settings import TrainPlan

__all__ = [
    "WHOLE",
    "DataSettings",
    "Experiment",
    "layer",
    "load_experiment",
    "overridden",
]


@dataclass(frozen=True)
class DataSettings:
    """Where training looks for slices.

    Parameters
    ----------
    prepared
        A folder made by `tagmask prepare`, relative to the current directory.
    shots, draw
        Let mask learners read the masks of this many pictures of the train split alone, drawn by this seed;
        or of those in a list: a CSV file with the column id, or the ids. Without it they read all. The ids are
        kept in the run. Other networks, which read no mask, learn from every picture of the split.
    """

    prepared: Path
    shots: Shots | None = None
    draw: int = 0


@dataclass(frozen=True)
class Experiment:
    """Everything a run is made from; see the module's docstring for the file."""

    data: DataSettings
    schedule: ScheduleSettings = ScheduleSettings()
    text: TextSettings = TextSettings()
    denoiser: DenoiserSettings | None = None
    classifier: ClassifierSettings | None = None
    cnn: CNNSettings | None = None
    gloria_pair: GloriaPairSettings | None = None
    segmenter: SegmenterSettings | None = None
    textdiff: TextDiffSettings | None = None
    pixel_classifier: PixelClassifierSettings | None = None
    transunet: TransUNetSettings | None = None
    swinunet: SwinUNetSettings | None = None
    gloria: GloriaSettings | None = None
    lvit: LViTSettings | None = None
    train: TrainPlan = TrainPlan()
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    mask: MaskSettings = MaskSettings()

    def __post_init__(self) -> None:
        for name in self.methods:
            settings_of(name, self.settings_table(name))
            self.mask_of(name)
        for name in NETWORKS:
            self._check_plan(name)
        bands = [getattr(self.train, name).noise_band for name in NETWORKS]
        for band in filter(None, bands):
            if band[1] > self.schedule.steps:
                raise ConfigError(
                    f"noise_band = {list(band)} reaches beyond the schedule's {self.schedule.steps} steps.",
                    where="[train]",
                )

    def _check_plan(self, name: str) -> None:
        """Refuse settings of a training that do not fit its network."""
        s, masks = getattr(self.train, name), name in MASK_LEARNERS
        wrong = {
            f"only_tag is set, but a {name} learns from both tags.": name != "denoiser"
            and s.only_tag is not None,
            f"crop is set, but a {name} is used at the size of the whole slice.": name != "denoiser"
            and s.augment.crop,
            f"text_dropout is set, but [{name}] does not learn to do without text (null_text).": s.text_dropout
            > 0
            and not getattr(getattr(self, name), "null_text", False),
            f"select_every is set, but a {name} learns from no mask.": not masks and s.select_every,
        }
        for what, found in wrong.items():
            if found:
                raise ConfigError(what, where=f"[train.{name}]", repair="Leave it out.")

    def check_training(
        self, method: str, settings: Any, denoiser: DenoiserSettings, where: object = ""
    ) -> None:
        """Refuse a method that asks of a denoiser what this experiment does not teach it.

        Raises
        ------
        ConfigError
            Naming the setting of the training that has to change.
        """
        if "denoiser" in METHODS[method].needs_of(settings):
            learnt = Learnt.by(denoiser, self.train.denoiser)
            for asked in METHODS[method].asks(settings):
                learnt.check(method, **asked, where=where)

    def networks(self) -> tuple[str, ...]:
        """Names of the networks this experiment trains."""
        return tuple(name for name in NETWORKS if getattr(self, name) is not None)

    def settings_table(self, method: str) -> dict[str, Any]:
        """Give what the experiment sets of a method itself; empty for one it does not name."""
        return {key: value for key, value in self.methods.get(method, {}).items() if key != "mask"}

    def mask_of(self, method: str, changes: Mapping[str, Any] | None = None) -> MaskSettings:
        """Give the mask settings of a method: `[mask]`, then `[methods.METHOD.mask]`, then the changes.

        Raises
        ------
        ConfigError
            An unknown key, or a value out of range.
        """
        own, where = self.methods.get(method, {}).get("mask", {}), f"[methods.{method}.mask]"
        if not isinstance(own, Mapping):
            raise ConfigError(f"mask = {own!r} is a value, but it is a table.", where=f"[methods.{method}]")
        table = layer(layer(plain(self.mask), own), changes or {})
        return build(MaskSettings, table, where=where if own or changes else "[mask]")

    def to_toml(self) -> str:
        """Write every setting out, defaults included, as a file that `load_experiment` reads back."""
        table, usual = plain(self), plain(TrainPlan())
        table["train"] = {
            name: plan
            for name, plan in table["train"].items()
            if name in self.networks() or plan != usual[name]
        }
        return write_toml(table, heading="Resolved by tagmask; every setting, defaults included.")


WHOLE = ("members",)
"""Keys whose table is one value: it takes the place of the one before, and is never merged with it key by key."""


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment file and apply `--set` overrides.

    Raises
    ------
    ConfigError
        Naming file and key.
    """
    return build(Experiment, overridden(read_toml(path), overrides), where=path)


def overridden(table: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply `a.b=c` assignments to the table of an experiment; one of `[mask]` holds for every method.

    Examples
    --------
    >>> table = {"methods": {"cdm": {"mask": {"median": 5, "erode": 3}}}}
    >>> overridden(table, ["mask.median=1"])
    {'methods': {'cdm': {'mask': {'erode': 3}}}, 'mask': {'median': 1}}
    """
    result = override(dict(table), ())
    asked = override({}, assignments).get("mask")
    dropped = {*asked, *(["value"] if "rule" in asked else [])} if isinstance(asked, dict) else set()
    methods = result.get("methods")
    for settings in methods.values() if isinstance(methods, dict) else ():
        if isinstance(settings, dict) and isinstance(mask := settings.get("mask"), dict):
            settings["mask"] = {key: value for key, value in mask.items() if key not in dropped}
    return override(result, assignments)


def layer(table: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one table over another, tables in them too. The `value` of a mask goes with the `rule` it belongs to.

    The members of a combination are one setting: those that the other table leaves out are not meant.

    Examples
    --------
    >>> layer({"rule": "quantile", "value": 0.9, "median": 3}, {"rule": "otsu"})
    {'rule': 'otsu', 'median': 3}
    """
    merged = dict(table)
    if "rule" in table and other.get("rule", table["rule"]) != table["rule"]:
        merged.pop("value", None)
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and key not in WHOLE
        merged[key] = layer(merged[key], value) if both else value
    return merged
