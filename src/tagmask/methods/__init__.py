"""Every method by name. A new method is a file here and a line in METHODS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from tagmask.config import build
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.methods.anoddpm import AnoDDPM, AnoDDPMSettings
from tagmask.methods.anofpdm import AnoFPDM, AnoFPDMSettings
from tagmask.methods.anofpdm_choice import choose as choose_anofpdm
from tagmask.methods.anofpdm_settings import READ_OFF
from tagmask.methods.cam import CAM, CAMSettings, Kind
from tagmask.methods.cdm import CDM, CDMSettings
from tagmask.methods.cg_diff import CGDiff, CGDiffSettings
from tagmask.methods.combined import Combined, CombinedSettings
from tagmask.methods.ddib import DDIB, DDIBSettings
from tagmask.methods.supervised import PixelEnsemble, PixelEnsembleSettings, Supervised, SupervisedSettings
from tagmask.types import Batch, Choice, Method

__all__ = ["METHODS", "Networks", "Recipe", "recipe_of", "settings_of"]


@dataclass(frozen=True)
class Networks:
    """What a method is made from.

    Parameters
    ----------
    schedule
        The noise that the denoiser knows.
    by_name
        The networks that it needs, by their names in `tagmask.networks.kinds.NETWORKS`.
    members
        Of a combination, the methods that other runs give.
    """

    schedule: NoiseSchedule
    by_name: Mapping[str, nn.Module]
    members: Mapping[str, Method] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.by_name[name]


@dataclass(frozen=True)
class Recipe:
    """How a method is made from a run.

    Parameters
    ----------
    settings
        The dataclass of its hyper-parameters.
    needs
        Networks it cannot do without, by their names in `NETWORKS`, or a function that gives them for its
        settings. Ask `needs_of`.
    make
        (networks, settings) -> method.
    choose
        (method, tagged validation batches, seed) -> the settings that the paper chooses by tags, if it does.
        A `Batch` holds no mask, so none can be read.
    asks
        settings -> what its denoiser must have learnt, each as `Learnt.check` takes it: one entry, or one for each
        method that is combined.
    read_off
        Settings that change what is read off a walk through the networks, and not the walk. The method has
        `predict_all(batch, seed, [settings, ...])` for several that differ in them alone.
    """

    settings: type
    needs: tuple[str, ...] | Callable[[Any], tuple[str, ...]]
    make: Callable[[Any, Any], Method]
    choose: Callable[[Any, Iterable[Batch], int], Choice] | None = None
    asks: Callable[[Any], tuple[Mapping[str, Any], ...]] = lambda _: ()
    read_off: frozenset[str] = frozenset()

    def needs_of(self, settings: Any) -> tuple[str, ...]:
        """Networks that it cannot do without under these settings."""
        return self.needs(settings) if callable(self.needs) else self.needs


def _supervised(learner: str) -> Recipe:
    return Recipe(SupervisedSettings, (learner,), lambda n, s: Supervised(n[learner], s))


def _cam(kind: Kind) -> Recipe:
    return Recipe(
        CAMSettings,
        lambda s: (s.network,),
        lambda n, s: CAM(n[s.network], n.schedule, kind, s),
    )


def _members(settings: CombinedSettings) -> dict[str, tuple[Recipe, Any]]:
    """Give the recipe and the settings of each method that is combined and has its networks in the same run."""
    where = "[methods.combined.members.{}]".format
    return {
        name: (recipe_of(name), settings_of(name, table, where=where(name)))
        for name, table in settings.here.items()
    }


def _combine(networks: Networks, settings: CombinedSettings) -> Combined:
    made = {name: recipe.make(networks, own) for name, (recipe, own) in _members(settings).items()}
    made |= networks.members
    return Combined({name: made[name] for name in settings.members}, settings)


METHODS: Mapping[str, Recipe] = {
    "cdm": Recipe(
        CDMSettings,
        ("denoiser",),
        lambda n, s: CDM(n["denoiser"], n.schedule, None, s),
        asks=lambda _: ({"conditional": True},),
    ),
    "cg_cdm": Recipe(
        CDMSettings,
        ("denoiser", "classifier"),
        lambda n, s: CDM(n["denoiser"], n.schedule, n["classifier"], s),
        asks=lambda _: ({"conditional": True},),
    ),
    "anofpdm": Recipe(
        AnoFPDMSettings,
        ("denoiser",),
        lambda n, s: AnoFPDM(n["denoiser"], n.schedule, s),
        choose=choose_anofpdm,
        asks=lambda _: ({"conditional": True, "null": True},),
        read_off=READ_OFF,
    ),
    "cg_diff": Recipe(
        CGDiffSettings,
        ("denoiser", "classifier"),
        lambda n, s: CGDiff(n["denoiser"], n.schedule, n["classifier"], s),
        asks=lambda s: ({"conditional": s.condition == "healthy", "null": s.condition == "null"},),
    ),
    "ddib": Recipe(
        DDIBSettings,
        ("denoiser",),
        lambda n, s: DDIB(n["denoiser"], n.schedule, s),
        asks=lambda _: ({"conditional": True, "null": True},),
    ),
    "anoddpm": Recipe(
        AnoDDPMSettings,
        ("denoiser",),
        lambda n, s: AnoDDPM(n["denoiser"], n.schedule, s),
        asks=lambda s: ({"only_tag": 0, "noise": s.noise},),
    ),
    "grad_cam": _cam("grad_cam"),
    "grad_cam_pp": _cam("grad_cam_pp"),
    "score_cam": _cam("score_cam"),
    "layer_cam": _cam("layer_cam"),
    "combined": Recipe(
        CombinedSettings,
        lambda s: tuple(dict.fromkeys(need for r, own in _members(s).values() for need in r.needs_of(own))),
        _combine,
        asks=lambda s: tuple(asked for r, own in _members(s).values() for asked in r.asks(own)),
    ),
    "unet": _supervised("segmenter"),
    "textdiff": _supervised("textdiff"),
    "pixel_classifier": Recipe(
        PixelEnsembleSettings,
        ("pixel_classifier",),
        lambda n, s: PixelEnsemble(n["pixel_classifier"], s),
    ),
    "transunet": _supervised("transunet"),
    "swinunet": _supervised("swinunet"),
    "gloria": _supervised("gloria"),
    "lvit": _supervised("lvit"),
}


def recipe_of(name: str) -> Recipe:
    """Give a recipe by name.

    Raises
    ------
    ConfigError
        Unknown method.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method {name!r}.", repair=f"Known methods: {', '.join(METHODS)}.")
    return METHODS[name]


def settings_of(name: str, table: Mapping[str, Any], where: str | None = None) -> Any:
    """Build the settings of a method from its table, which lies at `where`.

    Raises
    ------
    ConfigError
        Unknown method or key, or a value out of range.
    """
    return build(recipe_of(name).settings, table, where=where or f"[methods.{name}]")
