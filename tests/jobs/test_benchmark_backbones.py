"""Rows that build on what is trained before them: on that file as it was, and not where its training fails."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmask.benchmarking.bench import load_bench
from tagmask.benchmarking.dependencies import needed
from tagmask.benchmarking.names import Place
from tagmask.config import build
from tagmask.errors import RunError
from tagmask.experiment import Experiment
from tagmask.jobs import benchmark as module
from tagmask.jobs.benchmark import BenchmarkResult, benchmark
from tagmask.jobs.prepare import prepare
from tagmask.jobs.train import train
from tagmask.networks import weights
from tagmask.runs.parts import BACKBONE, ENCODER, refuse_other_parts
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
PROTOCOL = '[protocol]\nseeds = [0]\nresamples = 20\nsetups = ["positives"]\nmetrics = ["dice"]\n'


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


def test_a_backbone_that_learnt_from_test_pictures_is_a_leak(world: Path, cohort: Path) -> None:
    """The head's own pictures are others, but what its backbone saw, it has seen."""
    shutil.copytree(cohort / "test", world / "seen" / "train")
    prepare(world / "seen", world / "leaky", settings=random_run.SLICES)
    leaky = taught(world, f"data.prepared={world}/leaky")
    result = bench(world, leaky, row(world, "pixel_classifier"), row(world, "unet"))
    (problem,) = result.failed.values()
    assert list(result.failed) == ["pixel_classifier on toy"]
    assert f"{world}/base: was trained with" in problem and "among the images of toy" in problem
    assert "| unet |" in result.table and "| pixel_classifier |" not in result.table


def test_another_text_encoder_is_refused_and_one_that_is_gone_is_not_another(tmp_path: Path) -> None:
    encoder, learnt = tmp_path / "bert", tmp_path / "run" / "weights" / "lvit.safetensors"
    encoder.mkdir()
    (encoder / "config.json").write_text("{}")
    weights.save(learnt, random_run.network("lvit"), {ENCODER: hash_bert(encoder), BACKBONE: "of no head"})
    experiment = build(Experiment, {"data": {"prepared": "-"}, "text": {"encoder": str(encoder)}})
    refuse_other_parts(learnt, experiment, name="lvit")
    (encoder / "config.json").write_text("{ }")
    with pytest.raises(RunError, match=f"with the text encoder {encoder} as it was"):
        refuse_other_parts(learnt, experiment, name="lvit")
    encoder.rename(tmp_path / "away")
    refuse_other_parts(learnt, experiment, name="lvit")


# where the training of the backbone fails


def test_rows_that_build_on_a_training_that_failed_fail_too(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backbone that is refused, one that fails, and one on which another is built: none is learnt from."""
    file = world / "base" / "weights" / "denoiser.safetensors"
    weights.save(file, random_run.network("denoiser", seed=9), {"step": 2})  # stale: of no training here
    tried: list[str] = []

    def broken(experiment: Any, *, out: Path, only: str, **options: Any) -> Any:
        tried.append(only)
        if only == "denoiser":
            raise RunError("the loss was nan.")
        return train(experiment, out=out, only=only, **options)

    monkeypatch.setattr(module, "train", broken)
    second = taught(world, f"pixel_classifier.features.weights={file}", run="second")
    second = second.replace('"denoiser"]', '"pixel_classifier"]')
    user = f'[[row]]\nname = "user"\nmethod = "pixel_classifier"\nrun = "{world}/second"\n'
    result = bench(world, taught(world), second, row(world, "pixel_classifier"), row(world, "unet"), user)
    assert tried == ["denoiser", "segmenter"]
    first = f"it builds on {world}/base, whose training failed: the loss was nan."
    assert result.failed == {
        f"training of {world}/base": "the loss was nan.",
        f"training of {world}/second": first,
        "pixel_classifier on toy": first,
        "user on toy": f"it builds on {world}/second, whose training failed: {first}",
    }
    assert result.done == ("unet on toy, seed 0",)


def test_only_trains_what_its_rows_build_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(module, "train", lambda experiment, *, out, **options: tried.append(out.name))
    other = taught(world, run="other")
    another = f'train = ["pixel_classifier.features.weights={world}/other/weights/denoiser.safetensors"]'
    elsewhere = row(world, "pixel_classifier", another).replace('name = "pixel', 'name = "other-pixel')
    rows = row(world, "pixel_classifier"), row(world, "unet"), elsewhere
    for only, expected in (
        ("unet", ["unet"]),
        ("pixel_classifier", ["base", "pixel_classifier"]),
        ("other-pixel_classifier", ["other", "pixel_classifier"]),
    ):
        bench(world, taught(world), other, *rows, only=[only])
        assert tried == expected
        tried.clear()
    bench(world, taught(world), other, *rows)
    assert tried[:2] == ["base", "other"], "without it everything is trained"


def test_what_a_row_builds_on_builds_on_others(world: Path) -> None:
    second = taught(world, run="second").replace('"denoiser"]', '"pixel_classifier"]')
    user = f'[[row]]\nname = "user"\nmethod = "pixel_classifier"\nrun = "{world}/second"\n'
    parts = (world / "head.toml").read_text(), taught(world), second, taught(world, run="other"), user
    plan = load_bench(write(world / "bench.toml", *parts))
    assert [Path(one.run).name for one in needed(plan, {"user": [Place("toy")]})] == ["base", "second"]


def test_a_training_that_failed_leaves_nothing_in_memory(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []

    def broken(experiment: Any, *, out: Path, **options: Any) -> None:
        alive.extend(ref() is not None for ref in kept)
        large = torch.zeros(8)
        kept.append(weakref.ref(large))
        raise RuntimeError("the GPU is full.")

    monkeypatch.setattr(module, "train", broken)
    emptied: list[None] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(None))
    result = bench(world, row(world, "unet"), row(world, "pixel_classifier"))
    assert set(result.failed.values()) == {"RuntimeError: the GPU is full."}
    assert alive == [False] and len(kept) == len(emptied) == 2
