"""Rows of a benchmark that one walk through the networks serves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmask.io import read_mask
from tagmask.jobs.benchmark import benchmark
from tagmask.methods.anofpdm import AnoFPDM
from tagmask.segmenting.prediction_cache import PredictionCache
from tagmask.types import Batch, Prediction
from tests.benchmarking import toybench
from tests.benchmarking.toybench import PROTOCOL, data, row, write

GATE = 'tags = {mixed = "predicted", positives = "none"}'
FEWER = '"methods.anofpdm.forward_steps=41"'


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, list[str]]:
    """A run, and the head of a benchmark file."""
    head = [PROTOCOL.replace("[0, 1]", "[3]"), data(toybench.cohort(tmp_path / "cohort"))]
    return toybench.runs(tmp_path), head


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every slice that AnoFPDM walks with, each time."""
    found: list[str] = []
    trace = AnoFPDM.trace

    def noted(self: AnoFPDM, batch: Batch, *args: Any, **options: Any) -> Any:
        found.extend(batch.ids)
        return trace(self, batch, *args, **options)

    monkeypatch.setattr(AnoFPDM, "trace", noted)
    return found


@pytest.fixture
def open_caches(monkeypatch: pytest.MonkeyPatch) -> list[PredictionCache]:
    """The caches that were opened and not closed."""
    found: list[PredictionCache] = []
    begin, end = PredictionCache.__post_init__, PredictionCache.close

    def opened(self: PredictionCache) -> None:
        begin(self)
        found.append(self)
        assert len(found) == 1, "one walk is kept at a time"

    def closed(self: PredictionCache) -> None:
        end(self)
        found.remove(self)

    monkeypatch.setattr(PredictionCache, "__post_init__", opened)
    monkeypatch.setattr(PredictionCache, "close", closed)
    return found


def same_masks(folder: Path, other: Path) -> bool:
    """Whether every cell of one benchmark has the masks that it has in the other."""
    paths = [path for path in sorted((folder / "cells").rglob("*.png")) if path.parent.name == "masks"]
    assert paths
    return all(
        (read_mask(path).array == read_mask(other / path.relative_to(folder)).array).all() for path in paths
    )


def test_rows_that_differ_in_their_masks_alone_share_a_walk(
    world: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_caches: list[PredictionCache],
) -> None:
    asked, (run, head) = toybench.hazy(monkeypatch), world
    head[0] = PROTOCOL
    quick, pause = toybench.Hazy.predict, 0.3

    def predict(self: toybench.Hazy, batch: Batch, seed: int = 0) -> Prediction:
        time.sleep(pause * len(batch))
        return quick(self, batch, seed)

    monkeypatch.setattr(toybench.Hazy, "predict", predict)
    rows = [
        row("Otsu", run, 'tags = "none"'),
        row("Between", run, 'tags = "none"', 'set = ["methods.cdm.noise_level=500"]'),
        row("Half", run, 'tags = "none"', 'set = ["mask.rule=peak", "mask.value=0.5"]'),
        row("Told", run, 'set = ["mask.rule=peak", "mask.value=0.5"]'),
    ]
    result = benchmark(write(tmp_path / "bench.toml", *head, *rows), out=tmp_path / "out", device="cpu")
    assert len(result.done) == 8 and result.failed == {} and not open_caches
    slices = len({name for name, _ in asked})
    assert len(asked) == 2 * 2 * slices, "once a seed for Otsu, Half and Told, once for Between"
    for cell in (tmp_path / "out" / "cells").iterdir():  # each row says what it would have taken by itself
        seconds = json.loads((cell / "segmented.json").read_text())["seconds"]
        assert pause * slices <= seconds < 1.8 * pause * slices, cell.name
    pause = 0.0
    benchmark(write(tmp_path / "alone.toml", *head, rows[2]), out=tmp_path / "alone", device="cpu")
    assert same_masks(tmp_path / "alone", tmp_path / "out")


def test_rows_that_read_different_things_off_one_walk_share_it(
    world: tuple[Path, list[str]], walked: list[str], tmp_path: Path, open_caches: list[PredictionCache]
) -> None:
    run, head = world
    single = '"methods.anofpdm.map=single", "methods.anofpdm.healthy_threshold=0.9"'
    rows = [
        row("Aggregated", run, f"set = [{FEWER}]", GATE, method="anofpdm"),
        row("Drawn", run, f'set = [{FEWER}, "methods.anofpdm.encoding=ddpm"]', GATE, method="anofpdm"),
        row("Single", run, f"set = [{FEWER}, {single}]", GATE, method="anofpdm"),
    ]
    result = benchmark(write(tmp_path / "bench.toml", *head, *rows), out=tmp_path / "out", device="cpu")
    assert len(result.done) == 3 and not open_caches
    assert len(walked) == 2 * len(set(walked)), "once for each encoding"
    benchmark(write(tmp_path / "alone.toml", *head, rows[2]), out=tmp_path / "alone", device="cpu")
    assert same_masks(tmp_path / "alone", tmp_path / "out")
    (manifest,) = tmp_path.glob("out/cells/Single-*/none/manifest.json")
    settings = json.loads(manifest.read_text())["settings"]["method"]
    assert settings["map"] == "single" and settings["healthy_threshold"] == 0.9


def test_where_memory_does_not_hold_a_walk_for_several_each_row_is_made_by_itself(
    world: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    open_caches: list[PredictionCache],
) -> None:
    def too_much(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(AnoFPDM, "predict_all", too_much)
    run, head = world
    rows = [
        row("Aggregated", run, f"set = [{FEWER}]", 'tags = "none"', method="anofpdm"),
        row(
            "Single", run, f'set = [{FEWER}, "methods.anofpdm.map=single"]', 'tags = "none"', method="anofpdm"
        ),
    ]
    result = benchmark(write(tmp_path / "bench.toml", *head, *rows), out=tmp_path / "out", device="cpu")
    assert len(result.done) == 2 and result.failed == {} and not open_caches


def test_a_row_that_cannot_be_read_off_takes_no_other_with_it(
    world: tuple[Path, list[str]], tmp_path: Path, open_caches: list[PredictionCache]
) -> None:
    run, head = world
    wrong = '"methods.anofpdm.m_max=[0.1, 0.1]"'  # the slices have one channel
    rows = [
        row("Wrong", run, f"set = [{FEWER}, {wrong}]", 'tags = "none"', method="anofpdm"),
        row("Right", run, f"set = [{FEWER}]", 'tags = "none"', method="anofpdm"),
    ]
    result = benchmark(write(tmp_path / "bench.toml", *head, *rows), out=tmp_path / "out", device="cpu")
    assert result.done == ("Right on toy, seed 3",)
    (problem,) = result.failed.values()
    assert "m_max has 2 values" in problem
