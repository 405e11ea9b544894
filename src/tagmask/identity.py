"""Whether two trainings are one: a run folder goes on only with the experiment that began it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tagmask.config import plain
from tagmask.errors import RunError
from tagmask.experiment import Experiment

__all__ = ["refuse_difference"]


def refuse_difference(path: Path, begun: Experiment, now: Experiment) -> None:
    """Refuse an experiment that is not the one a run was begun with.

    Raises
    ------
    RunError
        Naming the first setting that differs. More steps than before are no difference: training goes on. Nor is
        a network that only one of the two names: it is trained in addition, or left as it is.
    """
    shared = sorted(set(begun.networks()) & set(now.networks()))
    _refuse(path, _identity(begun, shared), _identity(now, shared))


def _identity(experiment: Experiment, networks: list[str]) -> dict[str, Any]:
    """What two trainings must share to be one: schedule, networks and how each is trained, but not how long."""
    everything = plain(experiment)
    train = {name: everything["train"][name] for name in networks}
    for settings in train.values():
        # With a decaying rate the length is part of the training.
        length = () if settings["decay"] else ("steps",)
        for key in (*length, "log_every", "checkpoint_every", "snapshot_every", "sample_every"):
            settings.pop(key, None)
    return {
        "schedule": everything["schedule"],
        "train": train,
        **{name: everything[name] for name in networks},
    }


def _refuse(path: Path, old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> None:
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            _refuse(path, a, b, f"{prefix}{key}.")
        elif a != b:
            raise RunError(
                f"was begun with {prefix}{key} = {a}, but the experiment now says {b}.",
                where=path,
                repair="Give another output folder, or restore the setting.",
            )
