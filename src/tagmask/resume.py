"""Whether two trainings are one: a run folder goes on only with the experiment that began it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tagmask.config import plain
from tagmask.data.prepared import Prepared
from tagmask.data.shots import choose_shots, read_shots, shot_rows, write_shots
from tagmask.errors import RunError
from tagmask.experiment import Experiment

__all__ = [
    "forget_refused",
    "has_learnt",
    "keep_shots",
    "mask_rows",
    "refuse_difference",
    "refuse_other_data",
    "refuse_other_shots",
    "shots_of",
]

_SHOTS = "shots.csv"


def has_learnt(run: Path) -> bool:
    """Whether a training in a folder came as far as to keep anything of what it learnt."""
    return any(
        any((run / folder).glob("*.safetensors")) for folder in ("weights", "checkpoints", "snapshots")
    )


def forget_refused(run: Path) -> None:
    """Remove the records of a training that was refused before it learnt: a corrected one takes its place."""
    if (run / "experiment.toml").is_file() and not has_learnt(run):
        for name in ("experiment.toml", "environment.json", _SHOTS):
            (run / name).unlink(missing_ok=True)


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


def refuse_other_data(path: Path, begun: str | None, now: str) -> None:
    """Refuse a prepared folder whose fingerprint is not the one that a run was begun with.

    Raises
    ------
    RunError
        With both.
    """
    if begun != now:
        raise RunError(
            f"was trained on data with fingerprint {begun}, but the prepared folder has {now}.",
            where=path,
            repair="Give another output folder, or prepare the data as before.",
        )


def shots_of(experiment: Experiment, prepared: Prepared) -> tuple[str, ...] | None:
    """Give the ids of the pictures whose masks an experiment reads; None: those of the whole train split.

    Raises
    ------
    ConfigError, InputError, TableError
        As `choose_shots`.
    """
    data = experiment.data
    return None if data.shots is None else choose_shots(prepared, data.shots, data.draw)


def keep_shots(run: Path, ids: tuple[str, ...] | None) -> None:
    """Write the pictures whose masks are read into a run, or refuse others than it was begun with.

    Raises
    ------
    RunError
        The list differs from the one that is there.
    """
    if ids is not None:
        refuse_other_shots(run, ids)
        write_shots(run / _SHOTS, ids)


def refuse_other_shots(run: Path, ids: tuple[str, ...] | None) -> None:
    """Refuse other pictures than those whose masks a run was begun with.

    Raises
    ------
    RunError
        The list differs from the one that is there.
    """
    path = run / _SHOTS
    if ids is not None and path.exists() and read_shots(path) != ids:
        raise RunError(
            f"names other pictures than {', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}, which the "
            "experiment now gives.",
            where=path,
            repair="Give another output folder, or restore the list.",
        )


def mask_rows(run: Path, prepared: Prepared) -> np.ndarray:
    """Give the places (n,) int64 of the slices whose masks a run may read, rising."""
    if (run / _SHOTS).exists():
        return shot_rows(prepared, read_shots(run / _SHOTS), where=run / _SHOTS)
    return prepared.split_indices("train")


def _identity(experiment: Experiment, networks: list[str]) -> dict[str, Any]:
    """What two trainings must share to be one: data, noise, networks and how each is trained, but not how long."""
    everything = plain(experiment)
    everything["data"].pop("prepared")  # it may have moved: its fingerprint is compared
    table = {key: everything[key] for key in ("data", "schedule", "text", *networks) if key in everything}
    for name in networks:
        table[f"train.{name}"] = settings = everything["train"][name]
        # Where the rate falls towards the last step, the length is part of the training.
        falls = settings["decay"] or settings["schedule"] in ("cosine", "poly")
        length = () if falls else ("steps",)
        for key in (*length, "log_every", "checkpoint_every", "snapshot_every", "sample_every"):
            settings.pop(key, None)
    return table


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
