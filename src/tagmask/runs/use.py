"""How a method is made from a run: whose networks it uses, what these have read, and the method itself.

Most methods use networks of one run. Members of a combination may be of others.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from tagmask.config import plain
from tagmask.errors import ConfigError, RunError
from tagmask.experiment import load_experiment
from tagmask.methods import METHODS, Networks
from tagmask.methods.combined import CombinedSettings
from tagmask.networks import weights
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.kinds import MASK_LEARNERS, reads_text
from tagmask.runs.parts import attach_backbone
from tagmask.runs.resume import no_weights
from tagmask.types import Method

if TYPE_CHECKING:
    from tagmask.runs.run import Run

__all__ = ["Part", "channels", "judging", "method", "parts", "reads", "size", "weights_files"]


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


def parts(run: Run, name: str, **changes: Any) -> list[Part]:
    """Give whose networks a method uses: the run's own, and those of the runs that members of a combination are of.

    Raises
    ------
    ConfigError, RunError
        Settings out of range, or no run where a member says so.
    """
    settings = run.settings(name, **changes)
    found = [Part(run, name, settings)]
    if isinstance(settings, CombinedSettings):
        for member, (path, table) in settings.elsewhere.items():
            other = run.open(path, tuned=False)
            found.append(Part(other, member, other.settings(member, **table)))
    return [part for part in found if part.needs]


def reads(run: Run, name: str) -> str:
    """Say what was read for the results of a method: for its training, and val masks if they chose its settings."""
    read = list(dict.fromkeys(part.reads for part in parts(run, name)))
    if run.val_masks and not any("val masks" in one for one in read):
        read[-1] += " + val masks"
    return ", ".join(read)


def weights_files(run: Run, name: str) -> dict[str, Path]:
    """Give the files of weights that the results of a method depend on, by network, as far as they are there.

    Those of other runs are named "member: network". The classifier is among them, for it tags slices.
    """
    found = {
        need if part.run is run else f"{part.method}: {need}": path
        for part in parts(run, name)
        for need, path in part.files.items()
    }
    found.setdefault("classifier", judging(run).weights_path("classifier"))
    return {name: path for name, path in sorted(found.items()) if path.is_file()}


def judging(run: Run) -> Run:
    """Give the run whose classifier tags slices: with its last weights where it kept no such snapshot."""
    try:
        run.weights_path("classifier")
    except RunError:
        return replace(run, snapshot=None)
    return run


def channels(run: Run, name: str) -> int:
    """Give how many channels the networks of a method see."""
    part = parts(run, name)[0]
    return int(cast(Any, part.run.network(part.needs[0])).settings.channels)


def size(run: Run, name: str) -> int:
    """Count the parameters of the networks of a method, without the frozen ones that some of them read through."""
    networks = (part.run.network(need) for part in parts(run, name) for need in part.needs)
    return sum(p.numel() for network in networks if network is not None for p in network.parameters())


def method(run: Run, name: str, device: str, **changes: Any) -> Method:
    """Build a method; see `Run.method`."""
    found, members, settings = dict[str, nn.Module](), dict[str, Method](), run.settings(name, **changes)
    for part in parts(run, name, **changes):
        if isinstance(settings, CombinedSettings):
            _refuse_member(run, part)
        if part.run is run:
            found |= {need: _on(device, run, need, name) for need in part.needs}
        else:
            members[part.method] = method(part.run, part.method, device, **plain(part.settings))
    if (denoiser := found.get("denoiser")) is not None:
        weights.check_schedule(run.weights_path("denoiser"), run.experiment.schedule.build())
        run.experiment.check_training(name, settings, cast(Denoiser, denoiser).settings, where=run.path)
    return METHODS[name].make(Networks(run.experiment.schedule.build(), found, members), settings)


def _on(device: str, run: Run, need: str, name: str) -> nn.Module:
    """Put a network that a method needs on a device, with its backbone."""
    network = run.network(need)
    if network is None:
        raise no_weights(run.path, run.experiment, need, name)
    attach_backbone(network, run.experiment, name=need, learnt=run.weights_path(need), device=device)
    # channels_last: 1.1 to 1.4 times faster on a CPU, and what a GPU's tensor cores want.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _refuse_member(run: Run, part: Part) -> None:
    """Refuse to combine what looks at other slices than this run, or at more than slices."""
    if part.run.slices != run.slices:
        raise ConfigError(
            f"{part.method} of {part.run.path} sees slices cut with {plain(part.run.slices)}, this run with "
            f"{plain(run.slices)}.",
            where="[methods.combined]",
            repair="Combine runs whose data were prepared alike.",
        )
    if any(reads_text(getattr(part.run.network(need), "settings", None)) for need in part.needs):
        raise ConfigError(
            f"{part.method} reads sentences.",
            where="[methods.combined]",
            repair="Combine methods that look at pictures alone.",
        )
