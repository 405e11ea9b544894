"""The run: a folder that remembers what was trained, from what, how, and on which machine.

experiment.toml             every setting, defaults included; written first
commands.txt                the commands that made it, those of the prepared data first
environment.json            versions, machine, fingerprint of the prepared data, command
shots.csv                   the pictures whose masks are read, where these are not all of the train split
weights/denoiser.safetensors  (and the other networks)    what methods use: averaged weights
snapshots/denoiser-005000.safetensors                     the same, after fewer steps
checkpoints/denoiser-005000.safetensors                   what training resumes from
log/denoiser.csv, log/tensorboard/, samples/*.png
tuned.toml                  settings chosen by `tagmask tune`, which win over experiment.toml
tuned-val-masks.toml        settings and threshold chosen by validation masks, used only when asked for
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from torch import nn

from tagmask.config import build, plain
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, RunError
from tagmask.experiment import Experiment, load_experiment, overridden
from tagmask.io import commands_of, note_command, write_json, write_text
from tagmask.machine import environment
from tagmask.networks import weights
from tagmask.networks.kinds import NETWORKS
from tagmask.runs.chosen import with_chosen
from tagmask.runs.resume import continued, keep_shots, refuse_other_data, shots_of
from tagmask.slices import SliceSettings

__all__ = ["RunFolder"]


@dataclass(frozen=True)
class RunFolder:
    """An existing run folder, and what is read from it; `Run` makes methods of that.

    Parameters
    ----------
    path
        The folder.
    experiment
        As resolved, `tuned.toml` and overrides included.
    snapshot
        Use the weights after this many steps instead of the last ones. A network that was trained for fewer
        steps, or kept no snapshots, gives its last ones.
    val_masks
        Whether settings are among it that were chosen by validation masks.
    """

    path: Path
    experiment: Experiment
    snapshot: int | None = None
    val_masks: bool = False

    @classmethod
    def create(cls, path: Path, experiment: Experiment, prepared: Prepared) -> Self:
        """Make the folder and write experiment and environment, or open the run of this very experiment.

        Raises
        ------
        RunError
            The folder holds another experiment (see `continued`) or was trained on other data; the message names
            the first difference.
        ConfigError
            More shots than there are pictures, or a list of others.
        """
        if (path / "experiment.toml").exists():
            run = cls.open(path, tuned=False)
            experiment = continued(path, run.experiment, experiment)
            refuse_other_data(path, run.environment.get("data"), prepared.fingerprint)
        shots = shots_of(experiment, prepared)
        path.mkdir(parents=True, exist_ok=True)
        keep_shots(path, shots)
        write_text(path / "experiment.toml", experiment.to_toml())
        if not (path / "environment.json").exists():
            record = {**environment(), "data": prepared.fingerprint, "tag": prepared.tag}
            record["slices"] = plain(prepared.settings)
            if prepared.supervised:
                record["masks_read"] = prepared.masks_read
            write_json(path / "environment.json", record)
        note_command(path, before=commands_of(prepared.path))
        return cls(path, experiment)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        overrides: Sequence[str] = (),
        snapshot: int | None = None,
        tuned: bool = True,
        val_masks: str | None = None,
    ) -> Self:
        """Open a folder made by `tagmask train`.

        Parameters
        ----------
        val_masks
            Name of a method: use what was chosen for it by validation masks. Its results have then read them.

        Raises
        ------
        RunError
            No run is there, it kept no such snapshot, or nothing was chosen by masks for that method.
        ConfigError
            A settings file that is damaged, or an override that does not fit.
        """
        path = Path(path)
        if not (path / "experiment.toml").is_file():
            raise RunError(
                "is not a run: it has no experiment.toml.",
                where=path,
                repair="Give a folder made by tagmask train.",
            )
        experiment = load_experiment(path / "experiment.toml")
        table = with_chosen(path, experiment, tuned=tuned, val_masks=val_masks)
        experiment = build(Experiment, overridden(table, overrides), where=path / "experiment.toml")
        run = cls(path, experiment, snapshot, val_masks is not None)
        if snapshot is not None and not any(snapshot in run.snapshots(name) for name in NETWORKS):
            raise run._no_snapshot()
        return run

    @classmethod
    def of(
        cls,
        run: Self | Path | str,
        *,
        overrides: Sequence[str] = (),
        snapshot: int | None = None,
        val_masks: str | None = None,
    ) -> Self:
        """Open a folder, or take a run that is open.

        Raises
        ------
        ConfigError
            Overrides, a snapshot or val_masks for a run that is open already.
        RunError
            As :meth:`open`.
        """
        if not isinstance(run, RunFolder):
            return cls.open(Path(run), overrides=overrides, snapshot=snapshot, val_masks=val_masks)
        if overrides or snapshot is not None or val_masks is not None:
            raise ConfigError(
                "overrides, snapshot and val_masks are for a run folder, but this run is open already.",
                where=run.path,
                repair="Give the folder, or pass them to Run.open.",
            )
        return run

    @property
    def slices(self) -> SliceSettings:
        """How training saw its slices; scans to be segmented are cut the same way.

        Raises
        ------
        RunError
            The run does not say.
        """
        table = self.environment.get("slices")
        if not isinstance(table, dict):
            raise RunError(
                "environment.json does not say how slices were cut.",
                where=self.path,
                repair="Train it again.",
            )
        return build(SliceSettings, table, where=self.path / "environment.json")

    @property
    def environment(self) -> dict[str, Any]:
        """What was recorded when the run began."""
        try:
            content = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def snapshots(self, network: str) -> list[int]:
        """Give the steps after which weights of a network were kept, rising."""
        files = (self.path / "snapshots").glob(f"{network}-*.safetensors")
        steps = (file.stem.removeprefix(f"{network}-") for file in files)
        return sorted(int(step) for step in steps if step.isdecimal())

    def weights_path(self, network: str) -> Path:
        """Give the file that the weights of a network are read from, whether it is there or not.

        Raises
        ------
        RunError
            The network kept snapshots, but none after `snapshot` steps.
        """
        kept = self.snapshots(network) if self.snapshot is not None else []
        if self.snapshot in kept:
            return self.path / "snapshots" / f"{network}-{self.snapshot:06d}.safetensors"
        if self.snapshot is not None and kept and self.snapshot < kept[-1]:
            raise self._no_snapshot()
        return self.path / "weights" / f"{network}.safetensors"

    def _no_snapshot(self) -> RunError:
        kept = {name: steps for name in NETWORKS if (steps := self.snapshots(name))}
        shown = "; ".join(f"{name}: {', '.join(map(str, steps))}" for name, steps in kept.items())
        return RunError(
            f"has no weights after {self.snapshot} steps. Kept are: {shown or 'none'}.",
            where=self.path,
            repair="Choose one of these, or train with snapshot_every.",
        )

    @cached_property
    def _loaded(self) -> dict[str, nn.Module]:
        return {}

    def network(self, name: str) -> nn.Module | None:
        """Give a network by its name in `NETWORKS`, in evaluation mode, None if it was not trained.

        It is on the CPU until a method is made that needs it.

        Raises
        ------
        RunError, SecurityError
            Weights that are damaged, or the network kept snapshots and none after `snapshot` steps.
        """
        if name not in self._loaded and (path := self.weights_path(name)).exists():
            self._loaded[name] = weights.load(path, name).eval().requires_grad_(False)
        return self._loaded.get(name)
