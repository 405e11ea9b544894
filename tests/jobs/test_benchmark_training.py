"""Rows that are trained first: what is missing, once; what is there only if it was trained as the row says."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tagmask.cli import main
from tagmask.errors import ConfigError, RunError
from tagmask.jobs import benchmark as module
from tagmask.jobs.benchmark import BenchmarkResult, benchmark
from tagmask.jobs.train import train
from tagmask.training.trainer import Trainer
from tests import toys
from tests.benchmarking.toybench import write

SEGMENTER = """
[segmenter]
size = 16
widths = [8, 16]
[train.segmenter]
steps = 2
batch = 2
checkpoint_every = 1
[methods.unet]
"""
PROTOCOL = '[protocol]\nseeds = [0]\nresamples = 20\nsetups = ["positives"]\nmetrics = ["dice"]\n'


@pytest.fixture
def world(tmp_path: Path, masked: Path, cohort: Path) -> Path:
    """A folder with an experiment and the head of a benchmark file; nothing is trained."""
    toys.write_experiment(tmp_path / "toy.toml", masked, SEGMENTER)
    sets = f'[data.toy]\ninputs = "{cohort}/test/labels.csv"\ntruth = "{cohort}/test"\ndraws = ["0", "1"]\n'
    (tmp_path / "head.toml").write_text(PROTOCOL + sets)
    return tmp_path


def row(
    world: Path, name: str, *more: str, run: str = "run-{draw}", overrides: str = '"data.draw={draw}"'
) -> str:
    head = [f'[[row]]\nname = "{name}"\nmethod = "unet"\nrun = "{world}/{run}"']
    return "\n".join(
        [*head, f'experiment = "{world}/toy.toml"\ntrain = ["data.shots=3", {overrides}]', *more, ""]
    )


def bench(world: Path, *parts: str, **options: Any) -> BenchmarkResult:
    file = write(world / "bench.toml", (world / "head.toml").read_text(), *parts)
    return benchmark(file, out=world / "out", device="cpu", **options)


def shots(run: Path) -> list[str]:
    with (run / "shots.csv").open() as file:
        return [line["id"] for line in csv.DictReader(file)]


def steps(monkeypatch: pytest.MonkeyPatch, *, stop_at: int = 0) -> list[int]:
    """Note every step of every training; the nth is interrupted."""
    noted: list[int] = []
    real = Trainer._one_step

    def watched(self: Trainer, step: int) -> None:
        noted.append(step)
        if len(noted) == stop_at:
            raise KeyboardInterrupt
        real(self, step)

    monkeypatch.setattr(Trainer, "_one_step", watched)
    return noted


def test_what_is_missing_is_trained_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = steps(monkeypatch)
    rows = row(world, "U-Net"), row(world, "U-Net, smooth", 'set = ["mask.median=3"]')
    result = bench(world, *rows)
    assert result.failed == {} and len(result.done) == 4
    assert result.trained == tuple(f"segmenter -> {world}/run-{draw}" for draw in (0, 1))
    assert noted == [1, 2, 1, 2] and shots(world / "run-0") != shots(world / "run-1")
    assert not (world / "run-0" / "weights" / "denoiser.safetensors").exists(), (
        "which the method does not need"
    )
    assert f"trained segmenter -> {world}/run-1" in str(result)
    assert json.loads((world / "out" / "table.json").read_text())["trained"] == list(result.trained)
    assert bench(world, *rows).trained == () and noted == [1, 2, 1, 2]


def test_a_run_of_tagmask_train_is_taken(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for draw in (0, 1):
        settings = [f"data.draw={draw}", "data.shots=3"]
        train(world / "toy.toml", out=world / f"run-{draw}", overrides=settings, only="segmenter")
    noted = steps(monkeypatch)
    result = bench(world, row(world, "U-Net"))
    assert (result.failed, result.trained, noted, len(result.done)) == ({}, (), [], 2)


def test_all_draws_are_segmented_alike(world: Path) -> None:
    assert bench(world, row(world, "U-Net")).failed == {}
    file = world / "toy.toml"
    assert "[mask]" not in file.read_text()
    file.write_text(file.read_text() + "\n[mask]\nmedian = 3\n")
    problem, _ = bench(world, row(world, "U-Net")).failed.values()
    assert "was begun with [mask]" in problem and "'median': 3" in problem and "set" in problem
    asked = row(world, "U-Net", 'set = ["mask.median=3"]')
    file.write_text(file.read_text().replace("\n[mask]\nmedian = 3\n", ""))
    assert bench(world, asked).failed == {}


def test_a_stopped_training_goes_on(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        steps(patch, stop_at=4)
        with pytest.raises(KeyboardInterrupt):
            bench(world, row(world, "U-Net"))
    noted = steps(monkeypatch)
    assert bench(world, row(world, "U-Net")).failed == {} and noted == [2]


def test_more_steps_go_on_and_what_stopped_on_the_way_is_not_taken(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(world, row(world, "U-Net"))
    longer = '"data.draw={draw}", "train.segmenter.steps=4"'
    with monkeypatch.context() as patch:
        steps(patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            bench(world, row(world, "U-Net", overrides=longer))
    noted = steps(monkeypatch)  # run-0 has weights of two steps and a checkpoint after three
    result = bench(world, row(world, "U-Net", overrides=longer))
    assert (result.failed, noted) == ({}, [4, 3, 4])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('"data.draw={draw}", "segmenter.dropout=0.5"', "was begun with segmenter.dropout = 0.0"),
        (
            '"data.draw={draw}", "data.shots=4"',
            "was begun with data.shots = 3, but the experiment now says 4",
        ),
        ('"data.draw={draw}", "train.segmenter.batch=1"', "train.segmenter.batch"),
        (
            '"data.draw={draw}", "train.segmenter.steps=1"',
            "train.segmenter.steps = 2, but the experiment now says 1",
        ),
    ],
)
def test_what_was_trained_otherwise_is_refused(
    change: str, says: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench(world, row(world, "U-Net"))
    before = {path: path.read_bytes() for path in world.glob("run-*/*.*")}
    noted = steps(monkeypatch)
    result = bench(world, row(world, "U-Net", overrides=change), row(world, "Other", run="other-{draw}"))
    assert list(result.failed) == ["U-Net on toy, draw 0", "U-Net on toy, draw 1"] and result.exit_code == 2
    assert all(says in problem for problem in result.failed.values())
    assert "| U-Net |" not in result.table and "| Other |" in result.table, (
        "finished cells are not shown either"
    )
    assert noted == [1, 2, 1, 2] and {path: path.read_bytes() for path in before} == before


def test_other_data_and_other_masks_are_refused(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench(world, row(world, "U-Net"))
    listed = world / "run-1" / "shots.csv"
    listed.write_text(listed.read_text().replace("train", "other", 1))
    recorded = world / "run-0" / "environment.json"
    recorded.write_text(json.dumps({**json.loads(recorded.read_text()), "data": "elsewhere"}))
    result = bench(world, row(world, "U-Net"))
    assert "was trained on data with fingerprint elsewhere" in result.failed["U-Net on toy, draw 0"]
    assert "names other pictures than" in result.failed["U-Net on toy, draw 1"]


def test_a_training_that_fails_is_named_and_not_tried_twice(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[str] = []

    def broken(experiment: Any, *, out: Path, **options: Any) -> Any:
        tried.append(out.name)
        if out.name == "run-1":
            raise RunError("the loss was nan.")
        return train(experiment, out=out, **options)

    monkeypatch.setattr(module, "train", broken)
    rows = row(world, "U-Net"), row(world, "Smooth", 'set = ["mask.median=3"]')
    write(world / "bench.toml", (world / "head.toml").read_text(), *rows)
    with pytest.raises(SystemExit) as left:
        main(["benchmark", str(world / "bench.toml"), "-o", str(world / "out"), "--device", "cpu"])
    printed = capsys.readouterr()
    assert left.value.code == 2 and tried == ["run-0", "run-1"]
    assert "2 cells made, 0 there already, 2 failed" in printed.out
    for name in ("U-Net", "Smooth"):
        assert f"Failed: {name} on toy, draw 1: the loss was nan." in printed.out
    assert re.search(r"\| U-Net \| here \| [^|]+ \| 1 of 2 \|", printed.out)
    assert "step 2/2" in printed.err, "a training shows how far it is"


def test_only_trains_its_rows(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = row(world, "U-Net"), row(world, "Other", run="other-{draw}")
    result = bench(world, *rows, only=["Other"])
    assert result.trained == tuple(f"segmenter -> {world}/other-{draw}" for draw in (0, 1))
    assert (result.failed, len(result.done)) == ({}, 2) and not (world / "run-0").exists()
    vary = row(world, "Net, {n}", "vary = { n = [3, 4] }", run="n{n}-{draw}").replace("shots=3", "shots={n}")
    result = bench(world, *rows, vary, only=["Net"])
    assert len(result.trained) == 4 and shots(world / "n4-1")[:3] == shots(world / "n3-1")
    with pytest.raises(ConfigError, match="there is no row 'Ned'"):
        bench(world, *rows, vary, only=["Ned"])


def test_what_rows_begin_with_is_trained_before_them(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def noted(experiment: Any, *, out: Path, only: str, **options: Any) -> Any:
        order.append(f"{out.name} {only}")
        return train(experiment, out=out, only=only, **options)

    monkeypatch.setattr(module, "train", noted)
    first = f'[[train]]\nexperiment = "{world}/toy.toml"\nrun = "{world}/base"\n'
    first += 'networks = ["classifier", "segmenter"]\nset = ["train.classifier.steps=1"]\n'
    gone = f'[[train]]\nexperiment = "{world}/gone.toml"\nrun = "{world}/gone"\n'
    result = bench(world, first, gone, row(world, "U-Net"))
    assert order == ["base classifier", "base segmenter", "run-0 segmenter", "run-1 segmenter"]
    assert list(result.failed) == [f"training of {world}/gone"] and len(result.done) == 2
    order.clear()
    bench(world, first.replace("steps=1", "steps=2"), row(world, "U-Net"))
    assert order == ["base classifier"]


def test_networks_are_trained_in_the_order_in_which_they_build_on_each_other(world: Path) -> None:
    more = 'networks = ["segmenter", "classifier"]'
    result = bench(world, row(world, "U-Net", more), overrides=['data.toy.draws=["7"]'])
    assert result.trained == (f"classifier -> {world}/run-7", f"segmenter -> {world}/run-7")
