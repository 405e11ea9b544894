"""Draws of the training pictures are repeats, as seeds are: numbers by hand in a world whose Dice is a fraction."""

from __future__ import annotations

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from tagmask.benchmarking.bench import load_bench
from tagmask.benchmarking.folds import open_folds
from tagmask.jobs.benchmark import BenchmarkResult, benchmark
from tagmask.runs import Run
from tagmask.types import Batch, Prediction
from tests.benchmarking import toybench
from tests.random_run import write_run

ROWS = {
    ("run-0", 0): {"test0": 5, "test1": 3},
    ("run-0", 1): {"test0": 4, "test1": 4},
    ("run-1", 0): {"test0": 1, "test1": 2},
    ("run-1", 1): {"test0": 3, "test1": 1},
    ("once", 0): {"test0": 5, "test1": 5},
    ("once", 1): {"test0": 5, "test1": 5},
}
"""(run, seed) -> patient -> how many of the five rows of the target are found."""


@dataclass(frozen=True)
class Cut:
    """Knows the target, which is bright, and finds its upper rows."""

    run: str

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        target = batch.image[:, :1] > 0.2
        found = torch.zeros_like(batch.image[:, :1])
        for i, name in enumerate(batch.ids):
            rows = target[i, 0].any(dim=1).nonzero().flatten()
            for row in rows[: ROWS[self.run, seed][name.split("_")[0]]]:
                found[i, 0, row] = target[i, 0, row].float()
        return Prediction(found)


def dice_of(rows: int) -> float:
    """Of `rows` of five equal rows."""
    return 2 * rows / (rows + 5)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, masked: Path) -> tuple[Path, BenchmarkResult]:
    folder = tmp_path_factory.mktemp("draws")
    cohort = toybench.cohort(folder / "cohort")
    for seed, name in enumerate(("run-0", "run-1", "once")):  # three trainings, so three walks
        write_run(folder / name, "mask.rule=fixed", "mask.value=0.5", seed=seed)
    for draw, share in (("0", 1.0), ("1", 0.5)):
        shutil.copytree(masked, folder / f"prepared-{draw}")
        masks = np.load(folder / f"prepared-{draw}" / "masks.npy")
        masks[int(share * len(masks)) :] = 0
        np.save(folder / f"prepared-{draw}" / "masks.npy", masks)
    parts = (
        '[protocol]\nseeds = [0, 1]\nresamples = 50\nsetups = ["positives"]\nmetrics = ["dice"]\n',
        toybench.data(cohort, 'draws = ["0", "1"]', f'train = "{folder}/prepared-{{draw}}"'),
        toybench.row("Drawn", Path(f"{folder}/run-{{draw}}"), 'tags = "none"'),
        toybench.row("Once", folder / "once", 'tags = "none"'),
    )
    file = toybench.write(folder / "bench.toml", *parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "method", lambda self, *_, **__: Cut(self.path.name))
        return folder / "out", benchmark(file, out=folder / "out", device="cpu")


def number(out: Path, row: str) -> dict[str, str]:
    with (out / "table.csv").open(newline="", encoding="utf-8") as file:
        (line,) = (n for n in csv.DictReader(file) if (n["row"], n["metric"]) == (row, "dice"))
    return line


def test_a_row_is_made_once_a_draw_and_seed_and_one_without_draws_once_a_seed(made: Any) -> None:
    out, result = made
    drawn = [f"Drawn on toy, draw {draw}, seed {seed}" for draw in (0, 1) for seed in (0, 1)]
    assert result.failed == {}
    assert result.done == (*drawn, "Once on toy, seed 0", "Once on toy, seed 1")
    names = sorted(path.name.rpartition("-")[0] for path in (out / "cells").iterdir())
    assert names == [
        *(f"Drawn-toy-draw{draw}-seed{seed}" for draw in (0, 1) for seed in (0, 1)),
        *("Once-toy-seed0", "Once-toy-seed1"),
    ]
    assert "2 positive of 4 slices of 2 patients." in result.table, "a draw brings no new slices"
    assert (number(out, "Drawn")["repeats"], number(out, "Once")["repeats"]) == ("4", "2")


def test_mean_and_spread_are_those_of_draws_and_seeds_together(made: Any) -> None:
    line = number(made[0], "Drawn")
    repeats = [
        (dice_of(5) + dice_of(3)) / 2,  # draw 0, seed 0
        (dice_of(4) + dice_of(4)) / 2,
        (dice_of(1) + dice_of(2)) / 2,  # draw 1, seed 0
        (dice_of(3) + dice_of(1)) / 2,
    ]
    assert float(line["mean"]) == pytest.approx(sum(repeats) / 4, abs=1e-5)
    assert float(line["sd"]) == pytest.approx(np.std(repeats, ddof=1), abs=1e-5)
    assert float(number(made[0], "Once")["sd"]) == pytest.approx(0, abs=1e-9)


def test_a_patient_is_one_in_the_interval_and_in_the_test(made: Any) -> None:
    """Of two patients the interval reaches from one to the other, however many repeats each has."""
    line = number(made[0], "Drawn")
    patients = [
        sum(dice_of(found[p]) for (run, _), found in ROWS.items() if run != "once") / 4
        for p in ("test0", "test1")
    ]
    assert float(line["low"]) == pytest.approx(min(patients), abs=1e-5)
    assert float(line["high"]) == pytest.approx(max(patients), abs=1e-5)
    difference = [patients[0] - dice_of(5), patients[1] - dice_of(5)]
    assert (line["against"], line["patients"]) == ("Once", "2")
    assert float(line["p"]) == pytest.approx(stats.wilcoxon(difference).pvalue)


def test_rows_that_know_next_to_nothing_differ_between_draws_where_they_learn(made: Any) -> None:
    out, _ = made
    assert number(out, "mean of the train masks")["repeats"] == number(out, "all-empty")["repeats"] == "2"
    cells = {path.name.partition("-seed")[0] for path in (out / "cells").glob("*-seed0-*")}
    assert cells == {"Drawn-toy-draw0", "Drawn-toy-draw1", "Once-toy"}


def test_a_draw_that_cannot_be_used_is_named_and_the_others_are_made(made: Any, tmp_path: Path) -> None:
    folder = made[0].parent
    text = (folder / "bench.toml").read_text()
    plan = load_bench(toybench.write(tmp_path / "bench.toml", text.replace('["0", "1"]', '["gone", "1"]')))
    failed: dict[str, str] = {}
    folds = open_folds(plan, lambda title, error: failed.update({title: str(error)}))
    assert list(failed) == ["toy, draw gone"] and f"{folder}/prepared-gone" in failed["toy, draw gone"]
    assert set(folds) == {("toy", "", "1"), ("toy", "", "")}
