"""Which checkpoint a training goes on from, and what its log forgets then."""

from __future__ import annotations

import csv
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from tagmask.training.progress import Progress, TrainingLog
from tagmask.training.state import TrainingState


def state(value: float) -> TrainingState:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, value)
    optimizer = torch.optim.AdamW(network.parameters())
    return TrainingState(network, AveragedModel(network), optimizer, None)


def test_the_newest_step_is_the_largest_number(tmp_path: Path) -> None:
    steps = (998_000, 999_000, 1_000_000, 1_001_000)
    for step in steps:
        state(step).save(tmp_path, "denoiser", step)
    assert len(list(tmp_path.iterdir())) == 2
    fresh = state(0)
    assert fresh.load(tmp_path, "denoiser") == steps[-1]
    assert float(fresh.network.state_dict()["weight"]) == steps[-1]


def test_a_log_that_goes_on_has_every_step_once(tmp_path: Path) -> None:
    def write(log: TrainingLog, *steps: int) -> None:
        for step in steps:
            log.write(Progress(log.network, step, 9, step / 10 + log.start, 1e-3, 1.0, 0.0), 0.0)
        log._board.close()

    write(TrainingLog(tmp_path, "denoiser"), 1, 2, 3, 4, 5)
    write(TrainingLog(tmp_path, "classifier"), 1, 2, 3, 4, 5)
    with (tmp_path / "denoiser.csv").open("a") as file:
        file.write("6,0.")  # where it was killed
    write(TrainingLog(tmp_path, "denoiser", start=3), 4, 5, 6)
    with (tmp_path / "denoiser.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [float(row["loss"]) for row in rows] == [0.1, 0.2, 0.3, 3.4, 3.5, 3.6]
    write(TrainingLog(tmp_path, "cnn"), 1, 2)  # stopped before its first checkpoint
    write(TrainingLog(tmp_path, "cnn"), 1, 2, 3)
    for network, steps in (
        ("cnn", [1, 2, 3]),
        ("denoiser", [1, 2, 3, 4, 5, 6]),
        ("classifier", [1, 2, 3, 4, 5]),
    ):
        board = EventAccumulator(str(tmp_path / "tensorboard" / network))
        board.Reload()
        assert [event.step for event in board.Scalars(f"{network}/loss")] == steps
