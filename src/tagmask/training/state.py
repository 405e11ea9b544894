"""What a training resumes from: network, average, optimiser and step, in one file that is not unpickled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tagmask.errors import RunError
from tagmask.networks.checkpoints import read_checkpoint, write_checkpoint
from tagmask.train_settings import TrainSettings
from tagmask.training.selection import Selection

__all__ = ["TrainingState", "averaging"]

KEPT = 2


def _by_step(folder: Path, name: str) -> list[Path]:
    """Give the checkpoints of a network, oldest first; steps have six digits or more, so names do not sort."""
    return sorted(folder.glob(f"{name}-*.safetensors"), key=lambda path: int(path.stem.rpartition("-")[2]))


@dataclass(frozen=True)
class TrainingState:
    """All that changes while a network is trained, but the step.

    Parameters
    ----------
    scaler
        Of fp16; None in other precisions.
    selection
        Of weights by validation masks; None where the last ones are kept.
    attached
        SHA-256 of what lies beside the network. A training does not go on with another backbone.
    """

    network: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    scaler: Any
    selection: Selection | None = None
    attached: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path, name: str, step: int) -> None:
        """Write FOLDER/NAME-STEP.safetensors and remove all but the newest two."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": v for k, v in state.items()}
        scaler = self.scaler.state_dict() if self.scaler is not None else None
        record = {"step": step, "scaler": scaler, "attached": self.attached}
        if self.selection is not None:
            tensors |= {f"best.{k}": v for k, v in self.selection.best.items()}
            record["looks"] = self.selection.looks
        folder.mkdir(exist_ok=True)
        write_checkpoint(folder / f"{name}-{step:06d}.safetensors", tensors, record)
        for stale in _by_step(folder, name)[:-KEPT]:
            stale.unlink()

    def load(self, folder: Path, name: str) -> int:
        """Take the newest state of a folder; give its step, 0 where there is none.

        Raises
        ------
        RunError
            A damaged file, or one of a training with another backbone or text encoder.
        """
        found = _by_step(folder, name)
        if not found:
            return 0
        tensors, record = read_checkpoint(found[-1])
        if (before := record.get("attached", {})) != self.attached:
            raise RunError(
                f"was trained with {before}, but the experiment now gives {self.attached}.",
                where=found[-1],
                repair="Give the backbone and text encoder of that training, or another output folder.",
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.network.load_state_dict(part("network."))
        self.average.load_state_dict(part("average."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            i, field = key.split(".")
            state.setdefault(int(i), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        if self.scaler is not None and record["scaler"]:
            self.scaler.load_state_dict(record["scaler"])
        if self.selection is not None:
            self.selection.looks[:] = [(int(step), float(value)) for step, value in record["looks"]]
            self.selection.best = part("best.")
        return int(record["step"])


def averaging(settings: TrainSettings) -> Callable[[Any, Any, Any], None]:
    """Give the rule of the averaged weights, for all tensors of one dtype at once."""

    def move(averages: list[Tensor], currents: list[Tensor], count: Tensor | int) -> None:
        if not averages[0].is_floating_point():  # counts of batches
            for average, current in zip(averages, currents, strict=True):
                average.copy_(current)
            return
        n, s = int(count), settings
        rate = min(s.ema, (1 + n) / (10 + n)) if s.ema_warmup else s.ema
        torch._foreach_lerp_(averages, currents, 1 - rate)

    return torch.no_grad()(move)
