from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, RunError
from tagmask.jobs.evaluate import evaluate
from tagmask.jobs.prepare import prepare
from tagmask.jobs.segment import segment
from tagmask.jobs.tune import tune
from tagmask.jobs.tune_masks import tune_masks
from tagmask.masks import MaskSettings, binarise
from tagmask.methods.cdm import CDM
from tagmask.runs import Run
from tagmask.runs.chosen import VAL_MASKS
from tagmask.scoring.thresholds import best_threshold
from tagmask.types import Batch, Prediction
from tests.random_run import SLICES, TRAINING, write_run


@pytest.fixture(scope="module")
def supervised(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort prepared with masks."""
    out = tmp_path_factory.mktemp("supervised") / "toy"
    prepare(cohort, out, settings=SLICES, supervised=True, masks=cohort / "masks")
    return out


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", prepared=prepared)


@pytest.fixture
def shaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put methods in place that score grey values, the darker the further the noise level is from 100."""

    class Shaded:
        def __init__(self, level: int) -> None:
            self.level = level

        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            haze = abs(self.level - 100) / 100
            noise = torch.randn(batch.image.shape, generator=torch.Generator().manual_seed(1))
            return Prediction(batch.image + haze * noise)

    monkeypatch.setattr(Run, "method", lambda self, name, device, **s: Shaded(s.get("noise_level", 100)))


def test_settings_and_threshold_of_the_highest_dice_are_chosen(
    run: Path, supervised: Path, shaded: None
) -> None:
    seen: list[tuple[int, int]] = []
    grid = {"noise_level": [300, 100, 200], "mask.median": [1, 3], "mask.value": [-0.4, 0.2, 0.9]}
    result = tune_masks(run, masks=supervised, grid=grid, report=lambda *count: seen.append(count))
    assert (result.method, result.slices, seen) == ("cdm", 8, [(2, 6), (4, 6), (6, 6)])
    assert result.best == {"noise_level": 100, "mask.median": 1, "mask.value": 0.2}

    data = Prepared.open(supervised)
    rows = data.split_indices("val")
    batch = data.batch(rows)
    plain = next(c for c in result.candidates if (c["noise_level"], c["mask.median"]) == (100, 1))
    truth = np.asarray(data.open_masks()[rows])
    expected = best_threshold(batch.image, batch.image, truth, MaskSettings(), [-0.4, 0.2, 0.9])
    assert plain["dice"] == pytest.approx(expected.dice, abs=1e-6) and plain["mask.value"] == expected.value
    assert (
        plain["dice"] > 0.95 == max(0.95, *(c["dice"] for c in result.candidates if c["noise_level"] != 100))
    )

    with (run / "tune-masks-cdm.csv").open(newline="") as file:
        assert [float(row["dice"]) for row in csv.DictReader(file)] == [c["dice"] for c in result.candidates]
    chosen = [line for line in str(result).splitlines() if "chosen" in line]
    assert len(chosen) == 1 and "noise_level = 100" in chosen[0] and "reads val masks" in str(result)
    assert "threshold tried" not in str(result)
    narrow = tune_masks(run, masks=supervised, grid={"mask.value": [0.9, 1.5]})
    assert "0.9 is the lowest threshold tried" in str(narrow)  # so the best may lie beyond


def test_it_is_used_only_when_asked_for_and_stamped(
    run: Path, supervised: Path, cohort: Path, tmp_path: Path
) -> None:
    tune(run, grid={"noise_level": [150]})
    tags_only = (run / "tuned.toml").read_bytes()
    result = tune_masks(run, masks=supervised, grid={"stages": [1, 3]})
    assert (run / "tuned.toml").read_bytes() == tags_only
    assert "reads val masks" in (run / VAL_MASKS).read_text()

    plainly = segment(run, [cohort / "test"], out=tmp_path / "plain")
    asked = segment(
        run, [cohort / "test"], out=tmp_path / "asked", val_masks=True, overrides=["mask.erode=0"]
    )
    manifests = [json.loads((done.out / "manifest.json").read_text()) for done in (plainly, asked)]
    assert [m["reads"] for m in manifests] == ["tags", "tags + val masks"]
    assert [m["settings"]["mask"]["rule"] for m in manifests] == ["otsu", "fixed"]
    assert manifests[1]["settings"]["mask"]["value"] == result.best["mask.value"]
    assert manifests[1]["settings"]["method"]["stages"] == result.best["stages"]
    assert all(m["settings"]["method"]["noise_level"] == 150 for m in manifests)  # what tags chose is kept
    evaluation = evaluate(asked.out, cohort / "test", out=tmp_path / "evaluation")
    row = next(r for r in evaluation.summary["rows"] if r["row"] == "method")
    assert row["reads"].startswith("tags + val masks")


def test_overrides_win_over_what_was_chosen(run: Path, supervised: Path) -> None:
    tune_masks(run, masks=supervised, grid={"stages": [1]})
    opened = Run.open(run, val_masks="cdm", overrides=["methods.cdm.mask.value=7.5", "methods.cdm.stages=2"])
    assert opened.experiment.mask_of("cdm").value == 7.5 and opened.experiment.methods["cdm"]["stages"] == 2
    assert opened.reads("cdm") == "tags + val masks" and Run.open(run).reads("cdm") == "tags"


def test_each_method_has_its_own(run: Path, supervised: Path) -> None:
    thresholds = {}
    for method, values in (("cdm", [0.1]), ("cg_cdm", [0.2])):
        result = tune_masks(
            run, masks=supervised, method=method, grid={"mask.value": values, "mask.median": [3]}
        )
        thresholds[method] = result.best["mask.value"]
    for method, value in thresholds.items():
        mask = Run.open(run, val_masks=method).experiment.mask_of(method)
        assert (mask.rule, mask.value, mask.median) == ("fixed", value, 3)
    assert Run.open(run).experiment.mask_of("cdm").rule == "otsu"


def test_nothing_chosen_is_refused_with_the_command(run: Path, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"nothing was chosen for cdm.*--method cdm --criterion dice --masks"):
        segment(run, [cohort / "test"], out=tmp_path / "out", val_masks=True)
    with pytest.raises(ConfigError, match="open already"):
        Run.of(Run.open(run), val_masks="cdm")


def test_without_a_grid_the_threshold_alone_is_chosen(run: Path, supervised: Path) -> None:
    result = tune_masks(run, masks=supervised, limit=5, overrides=["mask.median=3"])
    assert result.best.keys() == {"mask.value"} and 0.01 <= result.best["mask.value"] <= 0.69
    assert result.slices == 5
    assert Run.open(run, val_masks="cdm").experiment.mask_of("cdm").median == 3


@pytest.mark.parametrize("name", ["cg_diff", "ddib", "anoddpm"])
def test_the_methods_that_rebuild_are_tuned_by_tags_and_by_masks(
    name: str, prepared: Path, supervised: Path, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", *TRAINING.get(name, ()), prepared=prepared)
    grid = {"noise_level": [2, 5]}
    strides = {} if name == "anoddpm" else {"stride": [1]}
    by_tags = tune(run, grid={**grid, **strides}, method=name)
    assert [c["noise_level"] for c in by_tags.candidates] == [2, 5]
    by_masks = tune_masks(run, masks=supervised, grid={**grid, **strides}, method=name)
    assert len(by_masks.candidates) == 2 and Run.open(run, val_masks=name).method(name)


def test_rules_of_shares_are_tried_beside_a_fixed_threshold(
    run: Path, supervised: Path, shaded: None
) -> None:
    result = tune_masks(run, masks=supervised, grid={"mask.rule": ["peak", "quantile", "fixed"]})
    assert [c["mask.rule"] for c in result.candidates] == ["peak", "quantile", "fixed"]
    data = Prepared.open(supervised)
    batch = data.batch(rows := data.split_indices("val"))
    scores = {}
    for rule in ("peak", "quantile"):
        for share in (0.05, 0.5, 0.95):
            mask = replace(Run.open(run).experiment.mask_of("cdm"), rule=rule, value=share)  # type: ignore[arg-type]
            found = binarise(batch.image, batch.image, mask).mask[:, 0].numpy()
            truth = np.asarray(data.open_masks()[rows]) > 0
            sums = found.sum(axis=(1, 2)) + truth.sum(axis=(1, 2))
            dices = (2 * (found & truth).sum(axis=(1, 2)) + 1e-5) / (sums + 1e-5)
            scores[rule, share] = float(dices.mean())
        ours = next(float(c["dice"]) for c in result.candidates if c["mask.rule"] == rule)
        assert ours >= max(v for (r, _), v in scores.items() if r == rule) - 1e-6
    chosen = Run.open(run, val_masks="cdm").experiment.mask_of("cdm")
    assert (chosen.rule, chosen.value) == (result.best["mask.rule"], result.best["mask.value"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "test"}, ConfigError, "test split"),
        ({"split": "vla"}, InputError, "vla split has no slices"),
        ({"limit": 0}, ConfigError, "limit = 0"),
        ({"batch": 0}, ConfigError, "batch = 0"),
        ({"grid": {"stage": [1]}}, ConfigError, "Did you mean stages"),
        ({"grid": {"mask.medain": [1]}}, ConfigError, "Did you mean median"),
        ({"grid": {"mask.rule": ["otsu"]}}, ConfigError, "has no value to be chosen"),
        ({"seed": -1, "limit": 2}, ConfigError, r"seed = -1 is not allowed\. Use a whole number from 0"),
        ({"grid": {"mask.value": []}}, ConfigError, r"--grid: mask\.value = \[\]: there is nothing to try"),
        ({"grid": {"noise_level": []}}, ConfigError, r"--grid: noise_level = \[\]: there is nothing to try"),
        (
            {"grid": {"mask.value": [0.1, "a"]}},
            ConfigError,
            r"mask\.value = 'a' cannot be tried: it is no number",
        ),
        ({"grid": {"mask.value": ["0.1"]}}, ConfigError, r"'0\.1' cannot be tried.*Give numbers, as --grid"),
        ({"grid": {"mask.value": [True]}}, ConfigError, "True cannot be tried"),
        ({"grid": {"mask.value": [[1]]}}, ConfigError, r"\[1\] cannot be tried"),
        ({"grid": {"mask.value": [10**400]}}, ConfigError, "cannot be tried"),
        ({"grid": {"mask.value": [float("nan")]}}, ConfigError, r"mask\.value: nan is not allowed"),
        (
            {"grid": {"mask.rule": ["peak"], "mask.value": [5]}},
            ConfigError,
            r"mask\.value: 5\.0 is not allowed",
        ),
        (
            {"split": "train"},
            InputError,
            "6 patients of its train split, such as train0, are of the train split",
        ),
        ({"device": "gpu"}, ConfigError, "'gpu' cannot be used"),
    ],
)
def test_what_cannot_be_tuned_is_refused_and_nothing_written(
    options: dict[str, Any],
    error: type[Exception],
    message: str,
    run: Path,
    supervised: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(CDM, "predict", None)  # all is refused before it works
    with pytest.raises(error, match=message):
        tune_masks(run, masks=supervised, **options)
    assert not (run / VAL_MASKS).exists() and not list(run.glob("tune-*"))


def test_other_slices_or_no_masks_are_refused(
    run: Path, prepared: Path, supervised: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="holds no masks"):
        tune_masks(run, masks=prepared)
    other = Path(shutil.copytree(supervised, tmp_path / "other"))
    settings = json.loads((other / "settings.json").read_text())
    settings["slices"]["window"] = [0.0, 99.0]
    (other / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="slices were cut with"):
        tune_masks(run, masks=other)


@pytest.mark.parametrize(
    ("renamed", "what"), [("test", "2 patients"), ("TEST", "2 patients"), ("somebody", "8 images")]
)
def test_slices_that_the_run_is_to_be_tested_on_do_not_pass_for_val(
    run: Path, cohort: Path, tmp_path: Path, renamed: str, what: str
) -> None:
    other = tmp_path / "other"
    for part in ("", "masks"):
        shutil.copytree(cohort / part / "test", other / part / "val")
        shutil.copytree(cohort / part / "train", other / part / "train")
    table = other / "val" / "labels.csv"
    table.write_text(table.read_text().replace(",test", f",{renamed}"))
    prepare(other, tmp_path / "masks", settings=SLICES, supervised=True, masks=other / "masks")
    with pytest.raises(
        InputError, match=rf"{what} of its val split, such as .*, are of the test split of the run"
    ):
        tune_masks(run, masks=tmp_path / "masks")
    assert not (run / VAL_MASKS).exists() and not list(run.glob("tune-*"))
