"""Train the networks of an experiment, one after the other; see `tagmask.training` for the loop.

Started by `tagmask train`, or under `torchrun --nproc-per-node N -m tagmask train ...` on several GPUs or nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError
from tagmask.experiment import Experiment, load_experiment
from tagmask.io import alone_in, refuse_foreign
from tagmask.machine import free_memory
from tagmask.methods import settings_of
from tagmask.networks.kinds import NETWORKS
from tagmask.runs import Run
from tagmask.runs.resume import PARTS, forget_refused
from tagmask.train_settings import TrainSettings
from tagmask.training.processes import processes
from tagmask.training.progress import Progress
from tagmask.training.trainer import Trainer

__all__ = ["Progress", "train"]


def train(
    experiment: Path | str | Experiment,
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    only: str | None = None,
    device: str = "auto",
    report: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Train every network of an experiment, or go on where a stopped training was.

    Parameters
    ----------
    experiment
        A file (see `tagmask.experiment`), or the record itself.
    out
        The run folder.
    overrides
        `a.b=c` assignments on top of the file.
    only
        Train this network alone.
    device
        "auto", the GPU if there is one; "cpu". Of several GPUs, CUDA_VISIBLE_DEVICES chooses.
    report
        Called with each line of the log, on the main process.

    Returns
    -------
    Run
        Open, with what was chosen for it earlier.

    Raises
    ------
    ConfigError, InputError, RunError
        Settings that do not fit the data, a folder that holds another run or other things, or one where another
        process trains.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device = {device!r}, but training takes auto or cpu.",
            repair="Choose among several GPUs by CUDA_VISIBLE_DEVICES.",
        )
    out = Path(out)
    if not isinstance(experiment, Experiment):
        experiment = load_experiment(Path(experiment), overrides)
    names = experiment.networks() if only is None else (only,)
    missing = [name for name in names if name not in experiment.networks()]
    if missing or not names:
        raise ConfigError(
            f"the experiment has no [{(missing or ['denoiser'])[0]}] table, so there is nothing to train.",
            repair=f"Add one of {', '.join(f'[{n}]' for n in NETWORKS)}.",
        )
    if experiment.denoiser is not None:
        for method in experiment.methods:
            chosen = settings_of(method, experiment.settings_table(method))
            experiment.check_training(method, chosen, experiment.denoiser)
    prepared = Prepared.open(experiment.data.prepared)
    run: Run | None = None
    with ExitStack() as alone:
        for name in names:
            settings: TrainSettings = getattr(experiment.train, name)
            accelerator = processes(settings, device)
            if accelerator.is_main_process and run is None:
                refuse_foreign(out, "experiment.toml", leftovers=PARTS)
                alone.enter_context(alone_in(out))
                forget_refused(out)
                Run.create(out, experiment, prepared)
            accelerator.wait_for_everyone()
            run = run or Run.open(out, tuned=False)
            Trainer(name, settings, run, prepared, accelerator, report).run_to_end()
            free_memory()  # a trained network stays in a ring of references, and on the GPU, until it is looked for
    return Run.open(out)
