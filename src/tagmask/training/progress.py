"""What a training says while it runs: lines for a person, a CSV file and TensorBoard."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tagmask.io import atomic_write

__all__ = ["Progress", "TrainingLog"]


@dataclass(frozen=True)
class Progress:
    """One line of the log.

    Parameters
    ----------
    loss
        Mean since the last line.
    images_per_second
        Over all processes.
    seconds_left
        At the present speed.
    """

    network: str
    step: int
    steps: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class TrainingLog:
    """What one network writes to the folder log/ of a run: NETWORK.csv and tensorboard/NETWORK.

    Parameters
    ----------
    start
        The step that the training goes on from. What a stopped one logged beyond it is forgotten, since it is
        made again.
    """

    folder: Path
    network: str
    start: int = 0

    def write(self, line: Progress, seconds: float) -> None:
        """Add a line.

        Parameters
        ----------
        seconds
            Since this process began to train.
        """
        row = {"step": line.step, "loss": f"{line.loss:.6f}", "learning_rate": f"{line.learning_rate:.3g}",
               "images_per_second": f"{line.images_per_second:.2f}", "seconds": f"{seconds:.1f}"}  # fmt: skip
        with self._table.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if not file.tell():
                writer.writeheader()
            writer.writerow(row)
        self._board.add_scalar(f"{line.network}/loss", line.loss, line.step)
        self._board.add_scalar(f"{line.network}/learning_rate", line.learning_rate, line.step)

    @cached_property
    def _table(self) -> Path:
        self.folder.mkdir(exist_ok=True)
        table = self.folder / f"{self.network}.csv"
        if table.exists():
            with table.open(newline="", encoding="utf-8") as file:
                lines = list(csv.reader(file))
            # A line that the stop tore apart is shorter.
            kept = [line for line in lines[1:] if len(line) == len(lines[0]) and int(line[0]) <= self.start]
            with atomic_write(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([*lines[:1], *kept])
        return table

    @cached_property
    def _board(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and the main process alone logs

        # A folder for each network, for a purge takes the events of all that share one.
        folder = self.folder / "tensorboard" / self.network
        return SummaryWriter(str(folder), purge_step=self.start + 1)
