"""Sweeps: every value is what `segment` and `evaluate` say of it, from one walk where one walk will do."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tagmask
from tagmask.ablations import ABLATIONS, kinds
from tagmask.cli import main
from tagmask.drawing.charts import SweepLine, sweep
from tagmask.errors import ConfigError, InputError, RunError, TagmaskError
from tagmask.jobs.ablate import AblateResult, ablate
from tagmask.jobs.evaluate import EvaluateSettings, evaluate
from tagmask.jobs.segment import segment
from tagmask.methods.cdm import CDM
from tagmask.runs import Run
from tagmask.types import Batch
from tests import toys
from tests.benchmarking import toybench
from tests.random_run import network, write_run

FAST = EvaluateSettings(resamples=20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cohort and run with real, tiny networks. Read only."""
    folder = tmp_path_factory.mktemp("ablate")
    toybench.cohort(folder / "cohort")
    write_run(folder / "run")
    return folder


def call(made: Path, kind: str, out: Path, *, run: Path | None = None, **options: Any) -> AblateResult:
    cohort = made / "cohort/test"
    table = {"truth": cohort, "out": out, "device": "cpu", "batch": 4, "settings": FAST, **options}
    return ablate(run or made / "run", kind, [cohort / "labels.csv"], **table)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the stages of every walk."""
    noted: list[int] = []
    walk = CDM.walk

    def watched(self: CDM, batch: Batch, noise: torch.Tensor) -> Iterator[torch.Tensor]:
        noted.append(self.settings.stages)
        return walk(self, batch, noise)

    monkeypatch.setattr(CDM, "walk", watched)
    return noted


# one walk for all R


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("name", ["cdm", "cg_cdm"])
def test_every_r_is_bit_for_bit_that_of_its_own_run(
    name: str, draws: int, made: Path, walked: list[int]
) -> None:
    run = Run.open(made / "run", overrides=[f"methods.{name}.draws={draws}"])
    image = torch.rand(3, 1, toys.SIZE, toys.SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(image, ("a/0", "a/1", "b/0"))
    (walk,) = ABLATIONS["R"].walks(run, name, [4, 1, 3], "cpu")
    found = walk.predict(batch, 5)
    assert walked == [4] * draws
    assert (walk.values, [s.stages for s in walk.settings]) == ((4, 1, 3), [4, 1, 3])
    for value, prediction in zip(walk.values, found, strict=True):
        alone = run.method(name, stages=value).predict(batch, 5)
        assert torch.equal(prediction.score_map, alone.score_map)


def test_the_numbers_of_a_sweep_are_those_of_the_commands(
    made: Path, tmp_path: Path, walked: list[int]
) -> None:
    result = call(made, "R", tmp_path / "out", values=[3, 1], seeds=[1], method="cdm")
    assert walked == [3], "four slices in one batch, one walk for both values"
    assert [(one.value, one.seed) for one in result.scored] == [(1, 1), (3, 1)]
    for one in result.scored:
        masks, cohort = tmp_path / f"masks{one.value}", made / "cohort/test"
        changes = [f"methods.cdm.stages={one.value}"]
        segment(
            made / "run", [cohort / "labels.csv"], out=masks, overrides=changes, seed=1, device="cpu", batch=4
        )
        expected = evaluate(masks, cohort, out=tmp_path / f"e{one.value}", settings=FAST)
        assert one.summary["rows"] == expected.summary["rows"]
        assert one.summary["image_level"] == expected.summary["image_level"]
        written = json.loads((one.evaluation / "summary.json").read_text())
        assert written["rows"] == json.loads((expected.out / "summary.json").read_text())["rows"]
    check_files(result, tmp_path / "out")


def check_files(result: AblateResult, out: Path) -> None:
    assert {p.name for p in out.iterdir()} == {"R.png", "R.svg", "R.csv", "R.json", "evaluations"}
    assert {p.name for p in result.files} == {"R.png", "R.svg", "R.csv", "R.json"}
    assert (out / "R.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (out / "R.svg").read_bytes()
    table = lines(out / "R.csv")
    assert {line["value"] for line in table} == {"1", "3"}
    key = ("3", "positives", "image", "dice")
    dice = next(n for n in table if (n["value"], n["subset"], n["per"], n["metric"]) == key)
    cell = result.scored[1].summary["rows"][0]["positives"]["image"]["dice"]
    assert [float(dice[k]) for k in ("mean", "low", "high")] == pytest.approx(
        [cell[k] for k in ("value", "low", "high")], rel=1e-5
    )
    assert all("test masks, to draw" in line["reads"] for line in table)
    record = json.loads((out / "R.json").read_text())
    assert (record["kind"], record["method"], record["values"], record["seeds"]) == ("R", "cdm", [3, 1], [1])
    assert "test masks" in str(result) and "best" not in str(result)


# other kinds


@pytest.mark.parametrize(
    ("kind", "method", "values", "setting"),
    [
        ("Q", "cdm", [400, 100], "noise_level"),
        ("tau", "cg_cdm", [0.0, 0.9], "tau"),
        ("s", "cg_cdm", [0.0, 5.0], "scale"),
        ("stride", "ddib", [40, 20], "stride"),
    ],
)
def test_settings_that_change_the_walk_have_one_each(
    kind: str, method: str, values: list[float], setting: str, made: Path
) -> None:
    run = Run.open(made / "run")
    walks = list(ABLATIONS[kind].walks(run, method, values, "cpu"))
    assert [walk.values for walk in walks] == [(v,) for v in values]
    assert [getattr(walk.settings[0], setting) for walk in walks] == values
    batch = Batch(torch.zeros(1, 1, toys.SIZE, toys.SIZE), ("a/0",))
    maps = [walk.predict(batch, 0)[0].score_map for walk in walks]
    for value, found in zip(values, maps, strict=True):
        assert torch.equal(found, run.method(method, **{setting: value}).predict(batch, 0).score_map)
    assert not torch.equal(*maps)


@pytest.mark.parametrize(("kind", "method"), [("Q", "cdm"), ("R", "cg_cdm"), ("tau", "cdm"), ("s", "cg_cdm")])
def test_default_values_fit_the_method(kind: str, method: str, made: Path) -> None:
    run = Run.open(made / "run")
    values = list(ABLATIONS[kind].values(run, method))
    assert len(values) >= 5 and values == sorted(set(values))
    assert sum(len(walk.values) for walk in ABLATIONS[kind].walks(run, method, values, "cpu")) == len(values)


@pytest.mark.parametrize(("name", "reach"), [("anofpdm", "forward_steps"), ("ddib", "noise_level")])
def test_default_strides_leave_two_steps(name: str, reach: str, made: Path) -> None:
    run = Run.open(made / "run", overrides=[f"methods.{name}.{reach}=60"])
    assert ABLATIONS["stride"].values(run, name) == [1, 2, 5, 10, 25]


def test_default_stages_stay_below_the_noise_level(made: Path) -> None:
    run = Run.open(made / "run", overrides=["methods.cdm.noise_level=20"])
    assert ABLATIONS["R"].values(run, "cdm") == [1, 2, 5, 10, 20]
    deep = Run.open(made / "run", overrides=["methods.cdm.stages=250"])
    assert ABLATIONS["Q"].values(deep, "cdm") == [300, 400, 500, 600, 700, 800, 900]


def test_training_steps_from_the_snapshots(made: Path, tmp_path: Path) -> None:
    """Each snapshot gives what `segment --snapshot` gives; the last is the run's own weights."""
    from tagmask.networks import weights

    run = tmp_path / "run"
    shutil.copytree(made / "run", run)
    for step in (2, 10):
        kept = run / "snapshots" / f"denoiser-{step:06d}.safetensors"
        weights.save(kept, network("denoiser", seed=step), {"step": step})
    result = call(made, "steps", tmp_path / "out", run=run, seeds=[0])
    assert [one.value for one in result.scored] == [2, 10]
    for one in result.scored:
        masks = tmp_path / f"masks{one.value}"
        segment(
            run, [made / "cohort/test/labels.csv"], out=masks, snapshot=int(one.value), device="cpu", batch=4
        )
        expected = evaluate(masks, made / "cohort/test", out=tmp_path / f"e{one.value}", settings=FAST)
        assert one.summary["rows"] == expected.summary["rows"]
    assert result.scored[0].summary["rows"][0] != result.scored[1].summary["rows"][0]
    with pytest.raises(ConfigError, match="no weights were kept after 3 steps"):
        call(made, "steps", tmp_path / "other", run=run, values=[3])


def with_snapshot(made: Path, folder: Path) -> Path:
    shutil.copytree(made / "run", folder / "run")
    (folder / "run/snapshots").mkdir()
    shutil.copy(
        made / "run/weights/denoiser.safetensors", folder / "run/snapshots/denoiser-000005.safetensors"
    )
    return folder / "run"


# the truth is read to draw, not to choose


def test_a_run_is_left_as_it_was_and_so_are_results(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toybench.hazy(monkeypatch)
    run = with_snapshot(made, tmp_path)
    before = files(run)
    with pytest.raises(ConfigError, match="lies inside the run, but an ablation has seen the truth"):
        call(made, "steps", run / "figures", run=run)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/steps.csv").write_text("mine")
    with pytest.raises(InputError, match="holds an ablation of steps already"):
        call(made, "steps", tmp_path / "out", run=run)
    assert (tmp_path / "out/steps.csv").read_text() == "mine"
    call(made, "steps", tmp_path / "out", run=run, overwrite=True)
    assert lines(tmp_path / "out/steps.csv")
    assert files(run) == before and not (run / "tuned.toml").exists()


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("taw", {}, "unknown ablation 'taw'. Did you mean tau?"),
        ("s", {"method": "cdm"}, "s is no setting of cdm; it is one of cg_cdm"),
        ("R", {"method": "unet"}, "R is no setting of unet"),
        ("R", {"method": "cmd"}, "unknown method 'cmd'"),
        ("R", {"values": []}, "values = []"),
        ("R", {"values": [1, 1]}, "values = [1, 1]. Name at least one, each once."),
        ("R", {"values": [1, 400]}, "stages = 400 and noise_level = 300"),
        ("R", {"values": [1.5]}, "stages = 1.5"),
        ("Q", {"values": [100, 5000]}, "noise_level = 5000"),
        ("tau", {"values": [0.5, 1.0]}, "0 <= tau < 1 must hold"),
        ("R", {"seeds": []}, "seeds = []"),
        ("steps", {}, "kept no snapshots of the denoiser"),
        ("R", {"truth": "nowhere"}, "nowhere"),
        ("R", {"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    kind: str, options: dict[str, Any], says: str, made: Path, tmp_path: Path
) -> None:
    with pytest.raises(TagmaskError) as raised:
        call(made, kind, tmp_path / "out", **{"values": [1], **options} if kind == "R" else options)
    assert says in str(raised.value)
    assert not list(tmp_path.glob("out/*.csv")) and not list(tmp_path.glob("out/.*")), "and nothing is left"


def test_a_truth_of_other_names_is_named_before_the_first_walk(
    made: Path, tmp_path: Path, walked: list[int]
) -> None:
    other = made / "cohort/masks/train"
    with pytest.raises(InputError) as raised:
        call(made, "R", tmp_path / "out", values=[1], method="cdm", truth=other)
    assert str(raised.value) == (
        f"{other}: it is of none of the 4 inputs: train0_0, ... against test0_0, ... "
        "Name inputs and truth by the stem of the image."
    )
    assert walked == [] and not (tmp_path / "out").exists()


def test_what_is_wrong_is_not_said_of_a_folder_that_is_gone(made: Path, tmp_path: Path) -> None:
    smaller = tmp_path / "truth"
    shutil.copytree(made / "cohort/masks/test", smaller)
    for path in smaller.iterdir():
        Image.new("L", (5, 5), 255).save(path)
    with pytest.raises(TagmaskError) as raised:
        call(made, "R", tmp_path / "out", values=[1], method="cdm", truth=smaller)
    message = str(raised.value)
    assert message.startswith(f"{smaller}: no slice could be evaluated; 4 cases failed")
    assert ".ablate-" not in message and "masks/test0_0.png" in message
    assert not list(tmp_path.glob("out/*.csv")) and not list(tmp_path.glob("out/.*"))
    (smaller / "test0_0.png").write_bytes((made / "cohort/masks/test/test0_0.png").read_bytes())
    with pytest.raises(InputError, match=r"R = 1: 3 cases failed; the first: test0_1: masks/test0_1\.png: "):
        call(made, "R", tmp_path / "out", values=[1], method="cdm", truth=smaller)


def test_a_run_without_the_classifier_is_refused(made: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "bare", networks=("denoiser",))
    with pytest.raises(RunError, match="no weights of the classifier that cg_cdm needs"):
        call(made, "s", tmp_path / "out", run=run, method="cg_cdm")


def test_a_value_on_fewer_slices_than_others_ends_it(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toybench.hazy(monkeypatch)
    world = tmp_path / "made"
    shutil.copytree(made / "cohort", world / "cohort")
    (world / "cohort/test/images/test0_0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="steps = 5: 1 cases failed; the first: test0_0"):
        call(world, "steps", tmp_path / "out", run=with_snapshot(made, tmp_path))


# the command


def test_the_command(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toybench.hazy(monkeypatch)
    drawn: list[dict[str, SweepLine]] = []
    monkeypatch.setattr(kinds, "sweep", lambda lines, **axes: drawn.append(lines) or sweep(lines, **axes))
    run, cohort = with_snapshot(made, tmp_path), made / "cohort/test"
    arguments = ["ablate", str(run), "steps", str(cohort / "labels.csv"), "--truth", str(cohort)]
    with pytest.raises(SystemExit) as left:
        main(
            [*arguments, "-o", str(tmp_path / "out"), "--values", "[5]", "--seeds", "0,1", "--device", "cpu"]
        )
    printed = capsys.readouterr()
    assert left.value.code == 0 and str(tmp_path / "out" / "steps.svg") in printed.out
    dice = [
        json.loads((tmp_path / f"out/evaluations/steps-5-seed{n}/summary.json").read_text()) for n in (0, 1)
    ]
    values = [summary["rows"][0]["positives"]["image"]["dice"]["value"] for summary in dice]
    found = next(
        n for n in lines(tmp_path / "out/steps.csv") if (n["subset"], n["metric"]) == ("positives", "dice")
    )
    assert float(found["mean"]) == pytest.approx(np.mean(values), abs=1e-6)
    assert float(found["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6) and found["runs"] == "2"
    shown = drawn[0]["Dice, positives"]
    assert [shown.low[0], shown.high[0]] == pytest.approx(
        [np.mean(values) - np.std(values, ddof=1), np.mean(values) + np.std(values, ddof=1)], abs=1e-6
    )
    with pytest.raises(SystemExit) as left:
        main([*arguments, "-o", str(tmp_path / "out"), "--values", "5"])
    assert left.value.code == 2 and "'5' is no list of numbers" in capsys.readouterr().err


def test_it_is_a_public_name() -> None:
    assert tagmask.ablate is ablate
