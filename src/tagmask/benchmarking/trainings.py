"""What a benchmark trains: which networks a run lacks, and whether those it has were trained as the file says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tagmask.benchmarking.names import Place, known
from tagmask.benchmarking.rows import RowPlan
from tagmask.config import build, read_toml
from tagmask.data.prepared import Prepared
from tagmask.experiment import Experiment, load_experiment, overridden
from tagmask.methods import METHODS, settings_of
from tagmask.networks.kinds import NETWORKS
from tagmask.runs import Run
from tagmask.runs.parts import refuse_other_parts
from tagmask.runs.resume import (
    continued,
    has_learnt,
    refuse_other_data,
    refuse_other_shots,
    shots_of,
    steps_learnt,
)

__all__ = ["Training", "training_of"]


@dataclass(frozen=True)
class Training:
    """A run that has to be there: an entry of `[[train]]`, or what a row asks for.

    Parameters
    ----------
    experiment, run
        A file for `tagmask train`, and the folder.
    networks
        Those that it has to hold, in the order in which they are trained; by default all of the experiment.
    set
        Overrides, as `tagmask train --set`.
    """

    experiment: Path
    run: Path
    networks: tuple[str, ...] = ()
    set: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.networks:
            known(name, NETWORKS, "network")

    def load(self) -> Experiment:
        """Read the experiment.

        Raises
        ------
        ConfigError
            Naming file and key.
        """
        return load_experiment(self.experiment, self.set)

    def lacking(self, experiment: Experiment) -> tuple[str, ...]:
        """Give the networks that are still to be trained, wholly or in part.

        Raises
        ------
        RunError
            The run was trained with other settings, on other data, with other masks, or on a backbone or text
            encoder that was trained again; the message names the first difference. Where the prepared folder is
            gone, settings alone are compared.
        ConfigError, InputError, TableError
            Shots that do not fit the prepared data, or data that cannot be read.
        """
        names = self.networks or experiment.networks()
        if not (self.run / "experiment.toml").is_file() or not has_learnt(self.run):
            return names
        begun = Run.open(self.run, tuned=False)
        continued(self.run, begun.experiment, experiment)
        folder = experiment.data.prepared
        if (folder / "settings.json").is_file():
            prepared = Prepared.open(folder)
            refuse_other_data(self.run, begun.environment.get("data"), prepared.fingerprint)
            refuse_other_shots(self.run, shots_of(experiment, prepared))
        return tuple(name for name in names if not self._taught(begun, name, experiment))

    def _taught(self, begun: Run, name: str, experiment: Experiment) -> bool:
        """Whether a network has learnt for as many steps as it should; more of them are refused."""
        if not (learnt := begun.weights_path(name)).is_file():
            return False
        refuse_other_parts(learnt, experiment, name=name)
        return bool(steps_learnt(self.run, name, begun.experiment) == getattr(experiment.train, name).steps)


def training_of(row: RowPlan, at: Place) -> Training | None:
    """Give what a row's run is trained from at a place; None for a row without an experiment.

    Raises
    ------
    ConfigError
        An experiment or overrides that do not fit.
    """
    if row.experiment is None:
        return None
    path = Path(at.fill(row.experiment))
    overrides = tuple(at.fill(text) for text in row.train)
    networks = row.networks
    if networks is None:
        table = overridden(read_toml(path), [*overrides, *row.set])
        asked = build(Experiment, table, where=path).settings_table(row.method)
        networks = METHODS[row.method].needs_of(settings_of(row.method, asked))
    in_order = tuple(name for name in NETWORKS if name in networks)
    return Training(path, row.folder(at), in_order, overrides)
