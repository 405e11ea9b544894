"""Whether two trainings are one: a run folder goes on only with the experiment that began it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.config import plain
from tagmask.data.prepared import Prepared
from tagmask.data.shots import choose_shots, read_shots, shot_rows, write_shots
from tagmask.errors import RunError
from tagmask.experiment import Experiment

__all__ = [
    "PARTS",
    "continued",
    "forget_refused",
    "has_learnt",
    "keep_shots",
    "mask_rows",
    "no_weights",
    "refuse_other_data",
    "refuse_other_shots",
    "shots_of",
    "steps_learnt",
]

_SHOTS = "shots.csv"
_LEARNT = ("weights", "checkpoints", "snapshots")
PARTS = ("commands.txt", "environment.json", _SHOTS, "log", "samples", *_LEARNT)
"""What lies in a run besides its experiment."""


def has_learnt(run: Path, network: str | None = None) -> bool:
    """Whether a training in a folder, or that of one network, came as far as to keep anything of what it learnt."""
    names = ["*.safetensors"] if network is None else [f"{network}.safetensors", f"{network}-*.safetensors"]
    return any(any((run / folder).glob(name)) for folder in _LEARNT for name in names)


def steps_learnt(run: Path, network: str, begun: Experiment) -> int:
    """Give the steps that a network has learnt for: those of its last checkpoint, else what the run was begun with."""
    states = (run / "checkpoints").glob(f"{network}-*.safetensors")
    numbers = [int(path.stem.rpartition("-")[2]) for path in states]
    planned: int = getattr(begun.train, network).steps
    return max(numbers, default=planned)


def forget_refused(run: Path) -> None:
    """Remove the records of a training that was refused before it learnt: a corrected one takes its place."""
    if (run / "experiment.toml").is_file() and not has_learnt(run):
        for name in ("experiment.toml", "environment.json", _SHOTS):
            (run / name).unlink(missing_ok=True)


def continued(run: Path, begun: Experiment, now: Experiment) -> Experiment:
    """Give the experiment that a run goes on with.

    More steps than before are no difference, for training goes on (with `select_every` the look at its old last step
    stays among those it chooses from); nor is a network that only one of the two names. One that has learnt before and
    that this experiment leaves out stays in the record: how it was trained says what it has read.

    Raises
    ------
    RunError
        Naming the first setting that differs, or a network that has learnt for more steps than the experiment now
        says: its weights would not be what the record says.
    """
    shared = sorted(set(begun.networks()) & set(now.networks()))
    _refuse(run, _identity(begun, shared), _identity(now, shared))
    for name in shared:
        wanted = getattr(now.train, name).steps
        if has_learnt(run, name) and (learnt := steps_learnt(run, name, begun)) > wanted:
            raise RunError(
                f"was trained with train.{name}.steps = {learnt}, but the experiment now says {wanted}.",
                where=run,
                repair="Give another run folder, or restore the setting.",
            )
    earlier = [name for name in begun.networks() if name not in shared and has_learnt(run, name)]
    tables: dict[str, Any] = {name: getattr(begun, name) for name in earlier}
    plans = {name: getattr(begun.train, name) for name in earlier}
    return replace(now, train=replace(now.train, **plans), **tables)


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


def no_weights(run: Path, experiment: Experiment, network: str, method: str) -> RunError:
    """Say that a network was not trained, or not to the end."""
    begun = getattr(experiment, network) is not None
    repair = (
        f"Run tagmask train ... -o {run}: it goes on."
        if begun
        else f"Add [{network}] to its experiment, and train."
    )
    return RunError(f"has no weights of the {network} that {method} needs.", where=run, repair=repair)


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
        falls = settings["schedule"] in ("cosine", "poly")
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
