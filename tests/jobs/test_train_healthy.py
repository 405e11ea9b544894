"""Training for AnoDDPM: one tag alone, no condition, simplex noise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tagmask import objectives
from tagmask.data.prepared import Prepared
from tagmask.experiment import load_experiment
from tagmask.jobs.segment import segment
from tagmask.jobs.train import train
from tagmask.networks.checkpoints import read_checkpoint
from tagmask.runs import Run
from tests import toys

HEALTHY = ("denoiser.classes=0", "train.denoiser.only_tag=0")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What every step of the denoiser was given: image, label, noise."""
    given: list[tuple[Any, ...]] = []
    real = objectives.denoise

    def look(denoiser: Any, schedule: Any, image: Tensor, label: Tensor, noise: Any) -> Tensor:
        given.append((image, label, noise))
        return real(denoiser, schedule, image, label, noise)

    monkeypatch.setattr(objectives, "denoise", look)
    return given


def run_of(prepared: Path, folder: Path, *overrides: str) -> Run:
    plain = (
        "train.denoiser.augment.flip=false",
        "train.denoiser.augment.rotate=0.0",
        "train.denoiser.augment.gamma=0.0",
    )
    path = toys.write_experiment(folder.with_suffix(".toml"), prepared)
    experiment = load_experiment(path, [*HEALTHY, *plain, *overrides])
    methods = {k: v for k, v in experiment.methods.items() if k == "anoddpm"}  # the toy's cdm needs both tags
    return train(replace(experiment, methods=methods), out=folder, only="denoiser")


def test_slices_of_one_tag_alone_are_seen(
    prepared: Path, tmp_path: Path, seen: list[tuple[Any, ...]]
) -> None:
    run = run_of(prepared, tmp_path / "run")
    data = Prepared.open(prepared)
    rows = data.split_indices("train")
    healthy = {data.images[i].tobytes() for i in rows if data.labels[i] == 0}
    given = [np.ascontiguousarray(one.numpy()).tobytes() for image, _, _ in seen for one in image]
    assert len(given) == 6 * 8 and set(given) == healthy  # all of them, and no other
    assert all(int(label.max()) == 0 for _, label, _ in seen)
    assert (made := run.network("denoiser")) is not None and not hasattr(made, "table")
    assert (tmp_path / "run" / "samples" / "denoiser-000006.png").stat().st_size  # one row, for one condition


def test_noise_is_of_the_kind_asked_for(prepared: Path, tmp_path: Path, seen: list[tuple[Any, ...]]) -> None:
    def alike(noise: Tensor) -> float:
        pairs = torch.stack([noise[..., 1:].flatten(), noise[..., :-1].flatten()])
        return float(torch.corrcoef(pairs)[0, 1])

    for kind in ("gaussian", "simplex"):
        run_of(prepared, tmp_path / kind, f"train.denoiser.noise={kind}", "train.denoiser.steps=2")
    likeness = [alike(noise.eps) for _, _, noise in seen]
    assert max(map(abs, likeness[:2])) < 0.2 and min(likeness[2:]) > 0.7
    assert not torch.equal(seen[2][2].eps, seen[3][2].eps)  # keyed by the step


def test_a_stopped_run_resumes_bit_for_bit(prepared: Path, tmp_path: Path) -> None:
    simplex = ("train.denoiser.noise=simplex", "train.denoiser.checkpoint_every=2")
    for stops, name in (((4,), "whole"), ((2, 4), "parts")):
        for steps in stops:
            run_of(prepared, tmp_path / name, *simplex, f"train.denoiser.steps={steps}")
    whole, parts = (
        read_checkpoint(tmp_path / name / "checkpoints" / "denoiser-000004.safetensors")[0]
        for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


@pytest.mark.parametrize("kind", ["gaussian", "simplex"])
def test_it_segments(kind: str, prepared: Path, cohort: Path, tmp_path: Path) -> None:
    method = (f"methods.anoddpm.noise={kind}", "methods.anoddpm.noise_level=3")
    run = run_of(
        prepared, tmp_path / "run", f"train.denoiser.noise={kind}", "train.denoiser.steps=1", *method
    )
    result = segment(run, [cohort / "test"], out=tmp_path / "out", method="anoddpm")
    assert len(result.done) == 8 and not result.failed
