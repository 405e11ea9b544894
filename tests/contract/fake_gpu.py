"""Every method and every loss on an accelerator that is none: torch's fake tensors, which know a device and no numbers.

A tensor that was left on the CPU meets one of the accelerator, and the line that lets it is printed. Run as a script by
`test_devices.py`, for the backend it registers cannot be taken back.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.methods import METHODS, Networks, settings_of
from tagmask.networks.head import FeatureHead
from tagmask.networks.kinds import NETWORKS
from tagmask.objectives import StepNoise
from tagmask.runs import Run
from tagmask.runs.parts import attach_backbone
from tagmask.train_settings import TrainSettings
from tagmask.training.batches import TrainingBatch
from tagmask.training.network_with_loss import NetworkWithLoss
from tagmask.types import Batch, TextTokens
from tests.random_run import ALL, LEAST, SHAPES, SLICES, TEXT_WIDTH, TRAINING, network, write_run

DEVICE = "npy"
ASKS_FOR_NUMBERS = {
    "score_cam": "sorts by what it finds",
    "anofpdm": "compares embeddings, and reads its threshold off a curve",
    "gloria_pair": "counts words",
}
"""What a fake tensor cannot do; these are read by eye."""

FAKE = FakeTensorMode(allow_non_fake_inputs=True)


def here(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(*shape, dtype=dtype, device=DEVICE)


def moved(module: nn.Module, *, learning: bool = False) -> nn.Module:
    """Put a network on the accelerator, in its memory format."""
    with FAKE:
        for part in module.modules():
            for store in (part._parameters, part._buffers):
                for key, value in list(store.items()):
                    if value is None:
                        continue
                    new = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
                    store[key] = (
                        nn.Parameter(new, requires_grad=learning) if store is part._parameters else new
                    )
    return module


def side(name: str) -> int:
    return max(16, *(LEAST.get(need, 0) for need in METHODS[name].needs_of(settings_of(name, {}))))


def predict(name: str, folder: Path) -> str:
    """Let a method score pictures; give the device of its map."""
    size = side(name)
    slices = replace(SLICES, size=size)
    run = Run.open(write_run(folder / name, *TRAINING.get(name, ()), networks=ALL, slices=slices))
    found: dict[str, Any] = {}
    for need in run.needs(name):
        made: Any = run.network(need)
        attach_backbone(made, run.experiment, name=need, learnt=run.weights_path(need), device="cpu")
        found[need] = moved(made)
        if isinstance(made, FeatureHead):
            moved(made.features.denoiser)
    reads = any(getattr(made.settings, "reads_text", False) for made in found.values())
    with FAKE:
        method = METHODS[name].make(Networks(run.experiment.schedule.build(), found), run.settings(name))
        text = TextTokens(here(3, 2, TEXT_WIDTH), here(3, 2, dtype=torch.bool)) if reads else None
        batch = Batch(here(3, 1, size, size), ("a/0", "a/1", "b/0"), text=text)
        made_of = method.predict(batch)
    others = [made_of.threshold, made_of.uncertainty, made_of.present, made_of.score]
    devices = {made_of.score_map.device.type, *(one.device.type for one in others if one is not None)}
    return ", ".join(sorted(devices))


def learn(name: str) -> str:
    """Let a network learn one step; give the device of its loss, and how many parameters have no gradient."""
    made = moved(network(name), learning=True).train()
    size, b = max(16, LEAST.get(name, 0)), 4
    with FAKE:
        noise = StepNoise(here(b, dtype=torch.int64), here(b, 1, size, size), here(b, dtype=torch.bool))
        heads = "feature_channels" in SHAPES.get(name, {})
        batch = TrainingBatch(
            here(b, 1, size, size), here(b, dtype=torch.int64), noise, (0, 1), here(b, 1, size, size),
            TextTokens(here(b, 3, TEXT_WIDTH), here(b, 3, dtype=torch.bool)),
            tuple(here(b, 32, 8 * (i + 1), 8 * (i + 1)) for i in range(2)) if heads else None,
        )  # fmt: skip
        loss = NetworkWithLoss(made, NoiseSchedule.linear(), TrainSettings())(batch)
        loss.float().backward()
    missing = sum(p.grad is None for p in made.parameters())
    return f"{loss.device.type}, {missing} without a gradient"


def stand_ins() -> None:
    """Make what the backend lacks: tensors from lists, and autocast (which networks switch off where they need to)."""
    from_list, autocast = torch.tensor, torch.autocast

    def tensor(data: Any, *, device: Any = None, dtype: Any = None, **options: Any) -> torch.Tensor:
        made = from_list(data, dtype=dtype, **options)
        fake = device is not None and torch.device(device).type == DEVICE
        return torch.empty(made.shape, dtype=made.dtype, device=device) if fake else made

    torch.tensor = tensor  # type: ignore[assignment]
    torch.autocast = (  # type: ignore[assignment, misc]
        lambda device, *a, **k: contextlib.nullcontext() if device == DEVICE else autocast(device, *a, **k)
    )


def results(folder: Path) -> Iterator[str]:
    for name in METHODS:
        if name not in ASKS_FOR_NUMBERS:
            yield f"{name}: {_said(predict, name, folder)}"
    for name in NETWORKS:
        if name not in ASKS_FOR_NUMBERS:
            yield f"training of {name}: {_said(learn, name)}"


def _said(call: Any, *arguments: Any) -> str:
    try:
        return str(call(*arguments))
    except Exception as error:
        ours = [f for f in traceback.extract_tb(error.__traceback__) if "/tagmask/" in f.filename]
        where = " <- ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(ours[-3:]))
        return f"{type(error).__name__}: {str(error).splitlines()[0]} ({where})"


if __name__ == "__main__":
    torch.set_num_threads(1)
    _setup_privateuseone_for_python_backend(DEVICE)
    stand_ins()
    with tempfile.TemporaryDirectory() as name:
        for line in results(Path(name)):
            sys.stdout.write(f"{line}\n")
