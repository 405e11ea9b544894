"""How a method is made from a run: whose networks it uses, what these have read, and the method itself.

Most methods use networks of one run. Members of a combination may be of others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn

from tagmask.config import plain
from tagmask.errors import ConfigError, RunError
from tagmask.experiment import load_experiment
from tagmask.methods import METHODS, Networks, recipe_of, settings_of
from tagmask.methods.combined import CombinedSettings
from tagmask.networks import weights
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.kinds import MASK_LEARNERS, reads_text
from tagmask.runs.folder import RunFolder
from tagmask.runs.parts import TextReader, attach_backbone, open_reader
from tagmask.runs.resume import no_weights
from tagmask.types import Method

__all__ = ["Part", "Run"]


@dataclass(frozen=True)
class Run(RunFolder):
    """A run, from which methods are made.

    Open one with `Run.open`, or `tagmask.open_run`; its fields are those of `RunFolder`.
    """

    def method_name(self, name: str | None = None) -> str:
        """Resolve a method: the given one, or the first of the experiment.

        Raises
        ------
        ConfigError
            No such method.
        """
        name = name or next(iter(self.experiment.methods), "cdm")
        recipe_of(name)
        return name

    def settings(self, name: str | None = None, **changes: Any) -> Any:
        """Give the settings of a method: the experiment's, changed.

        Raises
        ------
        ConfigError
            No such method or setting, or a value out of range.
        """
        name = self.method_name(name)
        return settings_of(name, {**self.experiment.settings_table(name), **changes})

    def text_reader(self, name: str | None = None) -> TextReader | None:
        """Open the text encoder that a method's network reads through (see `open_reader`); None where it reads none."""
        made = {need: getattr(self.network(need), "settings", None) for need in self.needs(name)}
        readers = (
            open_reader(self.experiment.text, settings, name=need, learnt=self.weights_path(need))
            for need, settings in made.items()
        )
        return next(filter(None, readers), None)

    def needs(self, name: str | None = None) -> tuple[str, ...]:
        """Names of the networks that a method needs under this run's settings."""
        name = self.method_name(name)
        return METHODS[name].needs_of(self.settings(name))

    def parts(self, name: str | None = None, **changes: Any) -> list[Part]:
        """Give whose networks a method uses: the run's own, and those of the runs that members of a combination are of.

        Raises
        ------
        ConfigError, RunError
            Settings out of range, or no run where a member says so.
        """
        name = self.method_name(name)
        settings = self.settings(name, **changes)
        found = [Part(self, name, settings)]
        if isinstance(settings, CombinedSettings):
            for member, (path, table) in settings.elsewhere.items():
                if path not in self._others:
                    self._others[path] = Run.open(path, tuned=False)
                other, where = self._others[path], f"[methods.combined.members.{member}] of {path}"
                own = {**other.experiment.settings_table(member), **table}
                found.append(Part(other, member, settings_of(member, own, where=where)))
        return [part for part in found if part.needs]

    @cached_property
    def _others(self) -> dict[Path, Run]:
        return {}

    def reads(self, name: str | None = None) -> str:
        """Say what was read for the results of a method: for its training, and val masks if they chose its settings."""
        read = list(dict.fromkeys(one for part in self.parts(name) for one in part.reads.split(", ")))
        if self.val_masks and not any("val masks" in one for one in read):
            read[-1] += " + val masks"
        return ", ".join(read)

    def weights_files(self, name: str | None = None) -> dict[str, Path]:
        """Give the files of weights that the results of a method depend on, by network, as far as they are there.

        Those of other runs are named "member: network". The classifier is among them, for it tags slices.
        """
        found = {
            need if part.run is self else f"{part.method}: {need}": path
            for part in self.parts(name)
            for need, path in part.files.items()
        }
        found.setdefault("classifier", self.judging().weights_path("classifier"))
        return {name: path for name, path in sorted(found.items()) if path.is_file()}

    def judging(self) -> Run:
        """Give the run whose classifier tags slices: with its last weights where it kept no such snapshot."""
        try:
            self.weights_path("classifier")
        except RunError:
            return replace(self, snapshot=None)
        return self

    def channels(self, name: str | None = None) -> int:
        """Give how many channels the networks of a method see."""
        part = self.parts(name)[0]
        return int(cast(Any, part.run.network(part.needs[0])).settings.channels)

    def size(self, name: str | None = None) -> int:
        """Count the parameters of the networks of a method, without the frozen ones that some of them read through."""
        networks = (part.run.network(need) for part in self.parts(name) for need in part.needs)
        return sum(p.numel() for network in networks if network is not None for p in network.parameters())

    def method(self, name: str | None = None, *, device: str = "cpu", **changes: Any) -> Method:
        """Build a method from this run's networks and settings, and those of the runs that its members name.

        Raises
        ------
        RunError
            A network that the method needs was not trained.
        ConfigError
            It was trained in a way that the method cannot use, or a setting is out of range.
        """
        name = self.method_name(name)
        found, members, settings = dict[str, nn.Module](), dict[str, Method](), self.settings(name, **changes)
        for part in self.parts(name, **changes):
            if isinstance(settings, CombinedSettings):
                self._refuse_member(part)
            if part.run is self:
                found |= {need: self._on(device, need, name) for need in part.needs}
            else:
                self._refuse_snapshot(part)
                members[part.method] = part.run.method(part.method, device=device, **plain(part.settings))
        schedule = self.experiment.schedule.build()
        if (denoiser := found.get("denoiser")) is not None:
            weights.check_schedule(self.weights_path("denoiser"), schedule)
            self.experiment.check_training(name, settings, cast(Denoiser, denoiser).settings, where=self.path)
        return METHODS[name].make(Networks(schedule, found, members), settings)

    def _on(self, device: str, need: str, name: str) -> nn.Module:
        """Put a network that a method needs on a device, with its backbone."""
        network = self.network(need)
        if network is None:
            raise no_weights(self.path, self.experiment, need, name)
        attach_backbone(network, self.experiment, name=need, learnt=self.weights_path(need), device=device)
        # channels_last: 1.1 to 1.4 times faster on a CPU, and what a GPU's tensor cores want.
        return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _refuse_snapshot(self, part: Part) -> None:
        """Refuse weights after fewer steps where a member would have its last ones."""
        if self.snapshot is not None:
            raise ConfigError(
                f"weights after {self.snapshot} steps are asked for, but {part.method} is of {part.run.path}, "
                "which is another training.",
                where="[methods.combined]",
                repair="Combine methods of one run for this.",
            )

    def _refuse_member(self, part: Part) -> None:
        """Refuse to combine what looks at other slices than this run, or at more than slices."""
        if part.run.slices != self.slices:
            raise ConfigError(
                f"{part.method} of {part.run.path} sees slices cut with {plain(part.run.slices)}, this run with "
                f"{plain(self.slices)}.",
                where="[methods.combined]",
                repair="Combine runs whose data were prepared alike.",
            )
        if any(reads_text(getattr(part.run.network(need), "settings", None)) for need in part.needs):
            raise ConfigError(
                f"{part.method} reads sentences.",
                where="[methods.combined]",
                repair="Combine methods that look at pictures alone.",
            )


class Part(NamedTuple):
    """The networks of one run that a method uses.

    Parameters
    ----------
    run
        Whose networks they are.
    method
        The method, or the member of a combination, that they serve.
    settings
        Of it.
    """

    run: Run
    method: str
    settings: Any

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the networks."""
        return METHODS[self.method].needs_of(self.settings)

    @property
    def files(self) -> dict[str, Path]:
        """The files of their weights, by name, whether they are there or not."""
        return {need: self.run.weights_path(need) for need in self.needs}

    @property
    def reads(self) -> str:
        """What was read to train them: of the training as it was, whatever overrides say of it now."""
        trained = load_experiment(self.run.path / "experiment.toml")
        learnt = set(self.needs) & MASK_LEARNERS.keys()
        read = [str(self.run.environment.get("masks_read") or "train masks")] if learnt else []
        if set(self.needs) - learnt:
            read.append("tags")
        selected = any(getattr(trained.train, n).select_every for n in learnt)
        taught = {*learnt, "gloria_pair"} if "gloria" in learnt else learnt  # the pairs of its encoder
        texts = any(reads_text(getattr(trained, name)) for name in taught)
        return (
            ", ".join(dict.fromkeys(read))
            + (" + val masks" if selected else "")
            + (" + texts" if texts else "")
        )
