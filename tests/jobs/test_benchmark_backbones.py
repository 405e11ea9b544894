"""Rows that build on what is trained before them: on that file as it was, and not where its training fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tagmask.attachments import BACKBONE, ENCODER, refuse_other_attachments
from tagmask.config import build
from tagmask.errors import RunError
from tagmask.experiment import Experiment
from tagmask.jobs.benchmark import BenchmarkResult, benchmark
from tagmask.networks import weights
from tagmask.text.bert import hash_bert
from tests import random_run, toys
from tests.benchmarking.toybench import write

HEAD = """
[pixel_classifier]
size = 16
channels = 1
members = 2
widths = [8, 4]
[pixel_classifier.features]
weights = "{base}/weights/denoiser.safetensors"
blocks = [1, 3]
steps = [51, 251]
[segmenter]
size = 16
widths = [8, 16]
[train.pixel_classifier]
steps = 2
batch = 2
[train.segmenter]
steps = 2
batch = 2
[methods.pixel_classifier]
[methods.unet]
"""
PROTOCOL = '[protocol]\nseeds = [0]\ndraws = 20\nsetups = ["positives"]\nmetrics = ["dice"]\n'


@pytest.fixture
def world(tmp_path: Path, masked: Path, cohort: Path) -> Path:
    """A folder with an experiment, whose head reads a backbone in base/; nothing is trained."""
    toys.write_experiment(tmp_path / "toy.toml", masked, HEAD.format(base=tmp_path / "base"))
    sets = f'[data.toy]\ninputs = "{cohort}/test/labels.csv"\ntruth = "{cohort}/test"\n'
    (tmp_path / "head.toml").write_text(PROTOCOL + sets)
    return tmp_path


def taught(world: Path, *more: str, run: str = "base") -> str:
    overrides = ", ".join(f'"{text}"' for text in ("train.denoiser.steps=2", *more))
    return (
        f'[[train]]\nexperiment = "{world}/toy.toml"\nrun = "{world}/{run}"\nnetworks = ["denoiser"]\n'
        f"set = [{overrides}]\n"
    )


def row(world: Path, method: str, *more: str) -> str:
    lines = ["[[row]]", f'name = "{method}"', f'method = "{method}"', f'run = "{world}/{method}"']
    return "\n".join([*lines, f'experiment = "{world}/toy.toml"', *more, ""])


def bench(world: Path, *parts: str, **options: Any) -> BenchmarkResult:
    file = write(world / "bench.toml", (world / "head.toml").read_text(), *parts)
    return benchmark(file, out=world / "out", device="cpu", **options)


# the file that it learnt on


def test_a_head_whose_backbone_was_trained_again_is_refused(world: Path) -> None:
    parts = taught(world), row(world, "pixel_classifier"), row(world, "unet")
    assert bench(world, *parts).failed == {}
    file = world / "base" / "weights" / "denoiser.safetensors"
    weights.save(file, random_run.network("denoiser", seed=9), {"step": 2})
    result = bench(world, *parts)
    (problem,) = result.failed.values()
    assert list(result.failed) == ["pixel_classifier on toy"] and result.trained == ()
    assert f"was learnt with the backbone {file} as it was: that was trained again" in problem
    assert f"Give another run folder, or remove {world}/pixel_classifier to train it anew." in problem
    assert "| unet |" in result.table and "| pixel_classifier |" not in result.table


def test_another_text_encoder_is_refused_and_one_that_is_gone_is_not_another(tmp_path: Path) -> None:
    encoder, learnt = tmp_path / "bert", tmp_path / "run" / "weights" / "lvit.safetensors"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    weights.save(learnt, random_run.network("lvit"), {ENCODER: hash_bert(encoder), BACKBONE: "of no head"})
    experiment = build(Experiment, {"data": {"prepared": "-"}, "text": {"encoder": str(encoder)}})
    refuse_other_attachments(learnt, experiment, name="lvit")
    (encoder / "config.json").write_text("{ }")
    with pytest.raises(RunError, match=f"with the text encoder {encoder} as it was"):
        refuse_other_attachments(learnt, experiment, name="lvit")
    encoder.rename(tmp_path / "away")
    refuse_other_attachments(learnt, experiment, name="lvit")
