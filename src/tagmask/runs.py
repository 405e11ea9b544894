"""The run: a folder that remembers what was trained, from what, how, and on which machine.

experiment.toml             every setting, defaults included; written first
environment.json            versions, machine, fingerprint of the prepared data, command
weights/denoiser.safetensors  (classifier, segmenter)    what methods use: averaged weights
snapshots/denoiser-005000.safetensors                     the same, after fewer steps
checkpoints/denoiser-005000.safetensors                   what training resumes from
log/denoiser.csv, log/tensorboard/, samples/*.png
tuned.toml                  settings chosen by `tagmask tune`, which win over experiment.toml
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tagmask.config import build, override, plain, read_toml
from tagmask.errors import ConfigError, RunError
from tagmask.experiment import NETWORKS, Experiment, load_experiment
from tagmask.io import atomic_write
from tagmask.methods import METHODS, Networks, settings_of
from tagmask.networks import weights
from tagmask.prepared import Prepared
from tagmask.slices import SliceSettings
from tagmask.types import Method

__all__ = ["Run", "environment"]


@dataclass(frozen=True)
class Run:
    """An existing run folder.

    Parameters
    ----------
    path
        The folder.
    experiment
        As resolved, `tuned.toml` and overrides included.
    snapshot
        Use the weights after this many steps instead of the last ones.
    """

    path: Path
    experiment: Experiment
    snapshot: int | None = None

    @classmethod
    def create(cls, path: Path, experiment: Experiment, prepared: Prepared) -> Run:
        """Make the folder and write experiment and environment, or open the run of this very experiment.

        Raises
        ------
        RunError
            The folder holds another experiment, or was trained on other data; the message names the first
            difference. More steps than before are no difference: training goes on.
        """
        if (path / "experiment.toml").exists():
            run = cls.open(path, tuned=False)
            _refuse_difference(path, _identity(run.experiment), _identity(experiment))
            before = run.environment.get("data")
            if before != prepared.fingerprint:
                raise RunError(
                    f"was trained on data with fingerprint {before}, but the prepared folder has "
                    f"{prepared.fingerprint}.",
                    where=path,
                    repair="Give another output folder, or prepare the data as before.",
                )
        path.mkdir(parents=True, exist_ok=True)
        with atomic_write(path / "experiment.toml") as temporary:
            temporary.write_text(experiment.to_toml(), encoding="utf-8")
        if not (path / "environment.json").exists():
            record = {**environment(), "data": prepared.fingerprint, "slices": plain(prepared.settings)}
            with atomic_write(path / "environment.json") as temporary:
                temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        return cls(path, experiment)

    @classmethod
    def open(
        cls, path: Path, *, overrides: Sequence[str] = (), snapshot: int | None = None, tuned: bool = True
    ) -> Run:
        """Open a folder made by `tagmask train`.

        Raises
        ------
        RunError
            No run is there.
        """
        path = Path(path)
        if not (path / "experiment.toml").is_file():
            raise RunError(
                "is not a run: it has no experiment.toml.",
                where=path,
                repair="Give a folder made by tagmask train.",
            )
        experiment = load_experiment(path / "experiment.toml")
        table = plain(experiment)
        if tuned and (path / "tuned.toml").is_file():
            table = _merge(table, read_toml(path / "tuned.toml"))
        experiment = build(Experiment, override(table, overrides), where=path / "experiment.toml")
        return cls(path, experiment, snapshot)

    @property
    def slices(self) -> SliceSettings:
        """How training saw its slices; scans to be segmented are cut the same way.

        Raises
        ------
        RunError
            The run does not say.
        """
        if "slices" not in self.environment:
            raise RunError(
                "environment.json does not say how slices were cut.",
                where=self.path,
                repair="Train it again.",
            )
        return build(SliceSettings, self.environment["slices"], where=self.path / "environment.json")

    @property
    def environment(self) -> dict[str, Any]:
        """What was recorded when the run began."""
        try:
            content: dict[str, Any] = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content

    def weights_path(self, network: str) -> Path:
        """Where the weights of a network are, or will be."""
        if self.snapshot is None:
            return self.path / "weights" / f"{network}.safetensors"
        return self.path / "snapshots" / f"{network}-{self.snapshot:06d}.safetensors"

    @cached_property
    def networks(self) -> Networks:
        """Every network that has weights here, in evaluation mode on the CPU."""
        found: dict[str, Any] = {}
        for name in NETWORKS:
            path = self.weights_path(name)
            if self.snapshot is not None and not path.exists():
                path = replace(self, snapshot=None).weights_path(name)
            if path.exists():
                found[name] = weights.load(path, name).eval().requires_grad_(False)
        return Networks(schedule=self.experiment.schedule.build(), **found)

    def method_name(self, name: str | None = None) -> str:
        """Resolve a method: the given one, or the first of the experiment."""
        names = list(self.experiment.methods) or ["cdm"]
        name = name or names[0]
        if name not in METHODS:
            raise ConfigError(f"unknown method {name!r}.", repair=f"Known methods: {', '.join(METHODS)}.")
        return name

    def method(self, name: str | None = None, *, device: str = "cpu", **changes: Any) -> Method:
        """Build a method from this run's networks and settings.

        Raises
        ------
        RunError
            A network that the method needs was not trained here.
        """
        name = self.method_name(name)
        recipe, networks = METHODS[name], self.networks
        for need in recipe.needs:
            if getattr(networks, need) is None:
                raise RunError(
                    f"has no weights of the {need} that {name} needs.",
                    where=self.path,
                    repair=f"Give the experiment a [{need}] table and run tagmask train.",
                )
            # channels_last: 1.1 to 1.4 times faster on a CPU, and what a GPU's tensor cores want.
            getattr(networks, need).to(device=device, memory_format=torch.channels_last)
        return recipe.make(networks, settings_of(name, {**self.experiment.methods.get(name, {}), **changes}))


def environment() -> dict[str, Any]:
    """Versions, machine and command, for manifests."""
    names = (
        "tagmask",
        "torch",
        "numpy",
        "diffusers",
        "accelerate",
        "monai",
        "nibabel",
        "scipy",
        "safetensors",
    )
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "versions": {name: _version(name) for name in names},
        "command": sys.argv,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _identity(experiment: Experiment) -> dict[str, Any]:
    """What two trainings must share to be one: the networks, the data and how each is trained, but not how long."""
    table = plain(experiment)
    for name in ("methods", "mask"):
        table.pop(name, None)
    for settings in table["train"].values():
        # With a decaying rate the length is part of the training.
        length = () if settings["decay"] else ("steps",)
        for key in (*length, "log_every", "checkpoint_every", "snapshot_every", "sample_every"):
            settings.pop(key, None)
    return {k: v for k, v in table.items() if k != "data"}


def _refuse_difference(path: Path, old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> None:
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            _refuse_difference(path, a, b, f"{prefix}{key}.")
        elif a != b and (prefix or (a and b)):
            raise RunError(
                f"was begun with {prefix}{key} = {a}, but the experiment now says {b}.",
                where=path,
                repair="Give another output folder, or restore the setting.",
            )


def _merge(table: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    merged = dict(table)
    for key, value in other.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
