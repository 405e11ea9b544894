"""A CNN is trained from tags alone, beside the other networks or by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tagmask.data.prepared import Prepared
from tagmask.jobs.train import train
from tagmask.networks import weights
from tagmask.runs import Run

EXPERIMENT = """
[data]
prepared = "{prepared}"

[cnn]
size = 16
widths = [8, 16]
blocks = [1, 1]

[train.cnn]
steps = 60
batch = 8
learning_rate = 3e-3
log_every = 20

[methods.grad_cam]
network = "cnn"
"""


def test_a_cnn_learns_from_tags_and_makes_maps(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a mask was asked for")

    monkeypatch.setattr("tagmask.data.prepared.Prepared.open_masks", fail)
    (tmp_path / "e.toml").write_text(EXPERIMENT.format(prepared=prepared.as_posix()), encoding="utf-8")
    losses: list[float] = []
    run = train(tmp_path / "e.toml", out=tmp_path / "run", report=lambda p: losses.append(p.loss))
    assert len(losses) == 3 and losses[-1] < 0.5 * losses[0]
    assert weights.read_metadata(run.path / "weights" / "cnn.safetensors")["metadata"]["step"] == 60

    data = Prepared.open(prepared)
    rows = data.split_indices("train")
    found = Run.open(run.path).method().predict(data.batch(rows))
    tags = torch.as_tensor(data.labels[rows])
    assert found.score is not None and found.present is not None
    assert (found.present.long() == tags).float().mean() > 0.9
    assert float(found.score_map.amax()) == pytest.approx(1, abs=0.2)
