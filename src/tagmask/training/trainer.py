"""The training loop of one network, on Accelerate.

Each step is a function of (seed, step): its slices, augmentation, steps t, noise and dropout are drawn from
generators keyed by them, and every process takes its share of the same batch. A run that is killed therefore
resumes to the weights of one that never was, and two processes learn what one would, where a loss is a mean over
slices (see `TrainSettings.micro_batch`).
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, RunError
from tagmask.io import write_png
from tagmask.networks import weights
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.kinds import MASK_LEARNERS
from tagmask.runs import Run
from tagmask.seeds import keyed
from tagmask.train_settings import TrainSettings
from tagmask.training.batches import TrainingBatches
from tagmask.training.network_with_loss import NetworkWithLoss
from tagmask.training.optimiser import learning_rate, make_optimizer
from tagmask.training.progress import Progress, TrainingLog
from tagmask.training.samples import draw_samples
from tagmask.training.selection import Selection
from tagmask.training.sentences import Sentences
from tagmask.training.start import begin, check_fit, of_a_batch, rows_to_learn
from tagmask.training.state import TrainingState, averaging

__all__ = ["Trainer"]

log = logging.getLogger(__name__)

SKIPS = 20
"""Steps in a row that fp16 may skip while it looks for a scale that fits; it halves at each, from 65,536."""


@dataclass
class Trainer:
    """The loop for one network.

    Parameters
    ----------
    name
        A name of `NETWORKS` that has a table in the run's experiment.
    settings
        How it is trained.
    run
        The folder it is written to; a checkpoint that lies there is resumed from.
    accelerator
        As `processes` gives it.
    report
        Called with each line of the log, on the main process.

    Raises
    ------
    ConfigError, InputError
        Settings that do not fit the data or the processes; data of one tag only.
    """

    name: str
    settings: TrainSettings
    run: Run
    prepared: Prepared
    accelerator: Accelerator
    report: Callable[[Progress], None]
    step: int = field(init=False)
    losses: list[float] = field(default_factory=list, init=False)
    skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        s, experiment = self.settings, self.run.experiment
        network_settings = getattr(experiment, self.name)
        check_fit(self.name, network_settings, self.prepared, s.augment.crop)
        if s.batch < self.accelerator.num_processes:
            raise ConfigError(
                f"batch = {s.batch}, but there are {self.accelerator.num_processes} processes.",
                where=f"[train.{self.name}]",
                repair="Give every process at least one slice.",
            )
        torch.manual_seed(s.seed)
        self.start = start = begin(self.run, self.name, self.accelerator.device)
        self.schedule, network = experiment.schedule.build(), start.network
        self.batches = self._batches(network_settings)
        # With its buffers: averaged weights under the latest statistics of batch norm are no network that was trained.
        self.average = AveragedModel(network, multi_avg_fn=averaging(s), use_buffers=True).requires_grad_(
            False
        )
        optimizer = make_optimizer(network.parameters(), s)
        self.selection = self._selection() if s.select_every else None
        self.state = TrainingState(
            network, self.average, optimizer, self.accelerator.scaler, self.selection, start.attached
        )
        self.step = self.state.load(self.run.path / "checkpoints", self.name)
        self.average.to(self.accelerator.device)
        self.model, self.optimizer = self.accelerator.prepare(
            NetworkWithLoss(network, self.schedule, s), optimizer
        )
        self.log = TrainingLog(self.run.path / "log", self.name, start=self.step)
        parts = self.accelerator.num_processes > 1 or (s.micro_batch or s.batch) < s.batch
        if parts and self.accelerator.is_main_process and (what := of_a_batch(self.name, network, s)):
            log.warning(
                "The %s is of each part of a batch here, not of the whole: the %s learns something a little else than "
                "in one process without micro_batch.",
                what,
                self.name,
            )

    def run_to_end(self) -> None:
        """Train to the last step, write the averaged weights.

        Raises
        ------
        RunError
            A loss or gradient that is not finite; the last good state is kept.
        """
        self.model.train()
        self.began, self.first = time.perf_counter(), self.step
        if self.accelerator.device.type != "cpu":  # which would be idle meanwhile
            self.batches.draw_ahead(self.settings.steps)
        while self.step < self.settings.steps:
            self._one_step(self.step + 1)
            self.step += 1
            s = self.settings
            if self.step % s.log_every == 0 or self.step == s.steps:
                self._log()
            if s.snapshot_every and self.step % s.snapshot_every == 0:
                self._save_weights(self.run.path / "snapshots" / f"{self.name}-{self.step:06d}.safetensors")
            if s.sample_every and self.step % s.sample_every == 0:
                self._draw_samples()
            if s.select_every and (self.step % s.select_every == 0 or self.step == s.steps):
                self._look()
            if self.step % s.checkpoint_every == 0 or self.step == s.steps:
                self._checkpoint()
        self._save_weights(self.run.path / "weights" / f"{self.name}.safetensors", best=True)
        self.accelerator.wait_for_everyone()

    def _batches(self, network: Any) -> TrainingBatches:
        s, prepared, reader = self.settings, self.prepared, self.start.reader
        # Tags are told to conditional denoisers, and told by classifiers.
        tags = getattr(network, "classes", 0) > 0 and s.only_tag is None
        return TrainingBatches(
            prepared,
            s,
            self.schedule.steps,
            rows_to_learn(self.run, self.name, s, prepared, reader),
            masks=self.name in MASK_LEARNERS,
            tags=tags,
            sentences=None if reader is None else Sentences(prepared.texts, reader.encoder, s),
            kept=self.start.kept,
        )

    def _selection(self) -> Selection:
        s, reader = self.settings, self.start.reader
        encode = None if reader is None else reader.encoder
        return Selection(self.prepared, s.micro_batch or s.batch, encode, self.start.kept)

    # one step

    def _one_step(self, step: int) -> None:
        s, process = self.settings, self.accelerator
        torch.manual_seed(_number(s.seed, "dropout", step, process.process_index))
        batch = self.batches.of(step)
        mine = _share(s.batch, process.num_processes, process.process_index)
        micro = torch.split(mine, s.micro_batch or len(mine))
        total = torch.zeros((), device=process.device)
        statistics = [buffer.clone() for buffer in self.state.network.buffers()]
        for i, part in enumerate(micro):
            last = i == len(micro) - 1
            # Gradients are exchanged between processes at the last micro-batch alone.
            with contextlib.nullcontext() if last else process.no_sync(self.model):
                loss = self.model(batch.part(part, process.device))
                # DDP averages over processes: weigh each part by its share of the whole batch.
                weight = len(part) * process.num_processes / s.batch
                process.backward(loss * weight)
            total = total + loss.detach() * len(part) / s.batch
        value = float(process.reduce(total, "sum"))
        norm = process.clip_grad_norm_(self.model.parameters(), s.clip_gradient or math.inf)
        if not (math.isfinite(value) and (math.isfinite(float(norm)) or process.scaler is not None)):
            for buffer, before in zip(self.state.network.buffers(), statistics, strict=True):
                buffer.copy_(before)  # what the forward pass has changed already
            self._stop_for_nan(step, value, float(norm))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(s, step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses.append(value)
        if (
            self.optimizer.step_was_skipped
        ):  # fp16: a gradient that is not finite; the scaler lowers its scale
            self.skipped += 1
            if self.skipped == SKIPS:
                self._stop_for_nan(step, value, float(norm))
            return
        self.skipped = 0
        self.average.update_parameters(process.unwrap_model(self.model).network)

    def _stop_for_nan(self, step: int, loss: float, norm: float) -> None:
        self._checkpoint()  # the weights are still those of the step before
        raise RunError(
            f"the loss of the {self.name} was {loss} and its gradient's norm {norm} at step {step}.",
            where=self.run.path,
            repair=f"The state after step {self.step} is kept in checkpoints/. Lower learning_rate, set "
            'clip_gradient = 1.0, or use precision = "fp32", in a new output folder.',
        )

    # what is written, by the main process

    def _log(self) -> None:
        if not self.accelerator.is_main_process:
            self.losses.clear()
            return
        seconds = time.perf_counter() - self.began
        speed = (self.step - self.first) / seconds
        line = Progress(
            network=self.name,
            step=self.step,
            steps=self.settings.steps,
            loss=sum(self.losses) / len(self.losses),
            learning_rate=learning_rate(self.settings, self.step),
            images_per_second=speed * self.settings.batch,
            seconds_left=(self.settings.steps - self.step) / speed,
        )
        self.losses.clear()
        self.log.write(line, seconds)
        self.report(line)

    def _save_weights(self, path: Path, best: bool = False) -> None:
        """Write the averaged weights of this step, or the selected ones where there is a selection."""
        if not self.accelerator.is_main_process:
            return
        path.parent.mkdir(exist_ok=True)
        network: nn.Module = self.average.module
        record = {"step": self.step, "data": self.prepared.fingerprint, **self.start.attached}
        record |= self.start.learnt
        if best and self.selection is not None:
            network = copy.deepcopy(network)
            network.load_state_dict(self.selection.best)
            record["step"], record["val_dice"] = self.selection.chosen
        weights.save(path, network, record)

    def _look(self) -> None:
        if self.selection is not None and self.accelerator.is_main_process:
            self.selection.look(self.step, self.average.module, self.accelerator.device)
            self.selection.write(self.log.folder / f"{self.name}-selection.csv")

    def _draw_samples(self) -> None:
        if not (self.accelerator.is_main_process and self.name == "denoiser"):
            return
        denoiser = cast(Denoiser, self.average.module).eval()
        s = self.settings
        picture = draw_samples(denoiser, self.schedule, s.noise, s.seed, self.accelerator.device)
        folder = self.run.path / "samples"
        folder.mkdir(exist_ok=True)
        write_png(folder / f"denoiser-{self.step:06d}.png", picture)

    def _checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            self.state.save(self.run.path / "checkpoints", self.name, self.step)


def _share(batch: int, processes: int, process: int) -> Tensor:
    """Which slices of the batch belong to one process; shares differ by one at most."""
    return torch.tensor_split(torch.arange(batch), processes)[process]


def _number(*key: object) -> int:
    return int(torch.randint(2**62, (1,), generator=keyed(*key)))
