"""Cells that are made once, and tables that say what `evaluate` and `combine` say."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

import tagmask
from tagmask.cli import main
from tagmask.errors import ConfigError, InputError, ResourceError, RunError
from tagmask.io import alone_in, read_mask
from tagmask.jobs import benchmark_cell as module
from tagmask.jobs.benchmark import BenchmarkResult, benchmark
from tagmask.jobs.evaluate import combine
from tagmask.jobs.segment import segment
from tagmask.scoring.panels import read_panels, write_panels
from tests.benchmarking import toybench
from tests.benchmarking.toybench import PROTOCOL, data, row, write

Made = tuple[Path, BenchmarkResult]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """Two rows, one with two seeds, finished. Read only: the folder, and the result."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        toybench.hazy(patch)
        cohort, run = toybench.cohort(folder / "cohort"), toybench.runs(folder)
        rows = [
            row("Hazy", run, 'set = ["methods.cdm.noise_level=500"]', 'tags = "none"'),
            row("Clear", run, 'set = ["methods.cdm.noise_level=5"]', "seeds = [0]"),
        ]
        write(folder / "bench.toml", PROTOCOL, data(cohort, 'published = ["hu2023-table1"]'), *rows)
        yield folder, benchmark(folder / "bench.toml", out=folder / "out", device="cpu")


@pytest.fixture
def world(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished benchmark that a test may change; it gives the file, beside which lies out/."""
    toybench.hazy(monkeypatch)
    shutil.copytree(made[0] / "out", tmp_path / "out")
    shutil.copy(made[0] / "bench.toml", tmp_path)
    return tmp_path / "bench.toml"


def again(file: Path, **options: Any) -> BenchmarkResult:
    return benchmark(file, out=file.parent / "out", device="cpu", **options)


def lines(out: Path) -> list[dict[str, str]]:
    with (out / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def own_numbers(out: Path) -> list[dict[str, str]]:
    """Without what a row cost, which changes from call to call."""
    return [line for line in lines(out) if line["setup"]]


def calls(monkeypatch: pytest.MonkeyPatch, name: str, *, stop_at: int = 0) -> list[Path]:
    """Note the output folder of every call of a job; the nth is interrupted when it has done half of its work."""
    noted: list[Path] = []
    job = getattr(module, name)

    def watched(*args: Any, out: Path, **options: Any) -> Any:
        noted.append(out)
        if len(noted) == stop_at:
            out.mkdir(parents=True, exist_ok=True)
            (out / "half.json").write_text('{"format": "half"')
            raise KeyboardInterrupt
        return job(*args, out=out, **options)

    monkeypatch.setattr(module, name, watched)
    return noted


def test_a_damaged_evaluation_is_named_with_what_to_delete(world: Path) -> None:
    path = next(world.parent.glob("out/cells/Hazy-*/evaluation-*/none/summary.json"))
    before = (world.parent / "out/table.csv").read_bytes()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError) as caught:
        again(world)
    assert caught.value.where == str(path) and "cannot be read (JSONDecodeError" in caught.value.what
    assert caught.value.repair == f"Evaluate again: delete {path.parents[1]} and run the benchmark once more."
    assert (world.parent / "out/table.csv").read_bytes() == before
    shutil.rmtree(path.parents[1])
    assert len(again(world).done) == 1 and own_numbers(world.parent / "out")


# what a person reads


def test_what_became_of_the_cells(made: Made) -> None:
    folder, result = made
    assert result.done == ("Hazy on toy, seed 0", "Hazy on toy, seed 1", "Clear on toy, seed 0")
    assert (result.skipped, result.failed, result.exit_code) == ((), {}, 0)
    assert "3 cells made, 0 there already, 0 failed" in str(result)
    assert {p.name for p in (folder / "out").iterdir()} == {"table.md", "table.csv", "table.json", "cells"}


def test_examples_side_by_side(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = '[[examples]]\nname = "fig2"\nrows = ["Clear", "Hazy"]\n'
    write(world, world.read_text(), asked)
    result = again(world)
    assert not result.done and [f.name for f in result.figures] == ["fig2-toy.png", "fig2-toy.svg"]
    drawing = (world.parent / "out" / "fig2-toy.svg").read_text(encoding="utf-8")
    # Names are drawn as outlines, with their text beside them.
    assert drawing.index("<!-- Clear") < drawing.index("<!-- Hazy") and "<!-- truth -->" in drawing
    evaluations = sorted(world.parent.glob("out/cells/Hazy-*/evaluation-*/none/panels.npz"))
    assert len(evaluations) == 2  # one a seed; the first is shown
    first = next(file for file in evaluations if "seed0" in str(file))
    write_panels(first, [p for p in read_panels(first) if p.choice.kind != "shared"])
    for _ in range(2):
        assert again(world).figures and f"{first.parents[1]} holds no shared slices" in caplog.text
        assert "<!-- Hazy" not in (world.parent / "out" / "fig2-toy.svg").read_text(encoding="utf-8")
        caplog.clear()
        first.unlink(missing_ok=True)  # no pictures at all are no reason to fail either
    write(world, world.read_text().replace('"Clear", "Hazy"', '"Cloar"'))
    with pytest.raises(ConfigError, match=r"\[\[examples\]\] fig2: unknown row 'Cloar'. Did you mean Clear"):
        again(world)


def test_the_table_for_people(made: Made) -> None:
    text = (made[0] / "out" / "table.md").read_text(encoding="utf-8")
    assert text == made[1].table
    table = [
        [c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")
    ]
    head, body = table[0], {cells[0]: dict(zip(table[0], cells, strict=True)) for cells in table[1:]}
    assert head[:4] == ["row", "source", "reads", "repeats"]
    assert body["Hazy"]["reads"] == "tags" and body["Clear"]["reads"] == "tags, tags of these slices"
    assert (body["Hazy"]["repeats"], body["Clear"]["repeats"]) == ("2", "1")
    assert " ± " in body["Hazy"]["Dice, positives"] and " ± " not in body["Clear"]["Dice, positives"]
    assert body["all-empty"]["reads"] == "nothing" and body["intensity oracle"]["reads"] == "test masks"
    assert body["CG-CDM"]["Dice, positives"] == "0.563 ± 0.023" and body["CG-CDM"]["s / image"] == "2.78"
    assert body["CG-CDM"]["source"] == "printed in Hu et al. 2023, Table 1 (BraTS), other data"
    assert float(body["Hazy"]["parameters [M]"]) > 0 and body["all-empty"]["parameters [M]"] == "-"
    assert float(body["Hazy"]["s / image"]) > 0 and float(body["Hazy"]["peak MB"].replace(",", "")) > 10
    assert "Peak: largest resident memory of the process" in text
    assert "2 positive of 4 slices of 2 patients." in text


def test_the_table_for_programs(made: Made) -> None:
    content = json.loads((made[0] / "out" / "table.json").read_text(encoding="utf-8"))
    assert (content["format"], content["failed"]) == ("tagmask-benchmark", {})
    assert content["sets"]["toy"]["hd95_unit"] == "px" and content["protocol"]["seeds"] == [0, 1]
    dice = next(
        n for n in content["numbers"] if (n["row"], n["setup"], n["metric"]) == ("Hazy", "mixed", "dice")
    )
    found = next(n for n in lines(made[0] / "out") if n["row"] == "Hazy" and n["setup"] == "mixed")
    assert float(found["mean"]) == pytest.approx(dice["mean"], rel=1e-5) and dice["repeats"] == 2


# the numbers


def evaluations(out: Path, name: str) -> list[Path]:
    return sorted(p.parent for p in out.glob(f"cells/{name}-*/evaluation-*/*/summary.json"))


@pytest.mark.parametrize(("name", "seeds"), [("Hazy", 2), ("Clear", 1)])
def test_they_are_those_of_combine(name: str, seeds: int, made: Made) -> None:
    folders = evaluations(made[0] / "out", name)
    assert len(folders) == seeds
    expected = {
        (n["subset"], n["per"], n["metric"]): n
        for n in combine([folder / "summary.json" for folder in folders])
        if n["row"] == "method"
    }
    compared = 0
    for line in json.loads((made[0] / "out" / "table.json").read_text())["numbers"]:
        if (line["row"], line["source"]) == (name, "here") and "setup" in line:
            reference = expected[line["setup"], line["per"], line["metric"]]
            assert line["mean"] == reference["mean"]
            sd = float("nan") if line["sd"] is None else line["sd"]
            assert sd == pytest.approx(reference["sd"], rel=1e-12, nan_ok=True)
            assert line["repeats"] == reference["runs"] == seeds
            compared += 1
    assert compared == 8


def test_of_one_seed_the_interval_is_that_of_evaluate(made: Made) -> None:
    (folder,) = evaluations(made[0] / "out", "Clear")
    summary = json.loads((folder / "summary.json").read_text())
    rows = {r["title"]: r for r in summary["rows"]}
    compared = 0
    for line in own_numbers(made[0] / "out"):
        if line["row"] in rows and line["source"] == "here":
            cell = rows[line["row"]][line["setup"]][line["per"]][line["metric"]]
            for bound in ("low", "high"):
                expected = float("nan") if cell[bound] is None else cell[bound]
                assert float(line[bound] or "nan") == pytest.approx(expected, abs=1e-5, nan_ok=True)
                compared += 1
    assert compared >= 8 * 2


def test_the_paired_test_by_hand(made: Made) -> None:
    out = made[0] / "out"

    def patients(folder: Path, key: str) -> dict[str, list[float]]:
        with (folder / "per_slice.csv").open(newline="") as file:
            found: dict[str, list[float]] = {}
            for n in csv.DictReader(file):
                if n["row"] == key and n["positive"] == "1":
                    found.setdefault(n["patient"], []).append(float(n["dice"]))
        return found

    hazy: dict[str, list[float]] = {}
    for folder in evaluations(out, "Hazy"):
        for patient, values in patients(folder, "method").items():
            hazy.setdefault(patient, []).extend(values)
    (clear,) = evaluations(out, "Clear")
    line = next(n for n in lines(out) if (n["row"], n["setup"], n["metric"]) == ("Hazy", "positives", "dice"))
    titles = {r["title"]: r["row"] for r in json.loads((clear / "summary.json").read_text())["rows"]}
    best = patients(clear, titles[line["against"]])
    difference = [np.mean(hazy[p]) - np.mean(best[p]) for p in sorted(best)]
    assert float(line["p"]) == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert int(line["patients"]) == len(best) == 2


# going on


def test_a_second_call_makes_nothing(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_numbers(world.parent / "out")
    segmented, evaluated = calls(monkeypatch, "segment"), calls(monkeypatch, "evaluate")
    result = again(world)
    assert segmented == evaluated == [] and len(result.skipped) == 3 and result.done == ()
    assert own_numbers(world.parent / "out") == before


def test_a_deleted_cell_is_made_anew_alone(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, segmented = own_numbers(world.parent / "out"), calls(monkeypatch, "segment")
    (cell,) = (world.parent / "out" / "cells").glob("Hazy-toy-seed1-*")
    shutil.rmtree(cell)
    result = again(world)
    assert segmented == [cell / "none"] and result.done == ("Hazy on toy, seed 1",)
    assert own_numbers(world.parent / "out") == before


@pytest.mark.parametrize("job", ["segment", "evaluate"])
def test_an_interrupted_cell_is_made_anew(job: str, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own_numbers(world.parent / "out")
    (cell,) = (world.parent / "out" / "cells").glob("Hazy-toy-seed1-*")
    shutil.rmtree(cell)
    with monkeypatch.context() as patch:
        calls(patch, job, stop_at=1)
        with pytest.raises(KeyboardInterrupt):
            again(world)
    assert list(cell.rglob("half.json")), "it was interrupted in the middle"
    assert (cell / "segmented.json").exists() == (job == "evaluate")
    assert not list(cell.glob("evaluation-*/evaluated.json"))
    segmented = calls(monkeypatch, "segment")
    result = again(world)
    assert result.done == ("Hazy on toy, seed 1",)
    assert len(segmented) == (job == "segment"), "masks that were finished stay"
    assert not list(cell.rglob("half.json")), "what was half done is gone"
    assert own_numbers(world.parent / "out") == before


def test_another_protocol_needs_no_new_masks(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    segmented = calls(monkeypatch, "segment")
    changes = ["protocol.empty_hd=diagonal", "protocol.setups=['positives']"]
    result = again(world, overrides=changes, only=["Clear"])
    assert segmented == [] and result.done == ("Clear on toy, seed 0",) and "| Hazy |" not in result.table
    assert {line["setup"] for line in lines(world.parent / "out") if line["source"] == "here"} == {
        "positives",
        "",
    }


def test_a_row_that_is_not_there_cannot_be_made_alone(world: Path) -> None:
    with pytest.raises(ConfigError, match="there is no row 'Clara'"):
        again(world, only=["Clara"])


# failing


def test_what_fails_is_named_and_the_others_are_made(
    world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = toybench.runs(world.parent / "other")
    text = (
        world.read_text()
        + row("Gone", world.parent / "gone")
        + row("Late", run)
        + row("Best", run, method="unet")
    )
    world.write_text(text)

    def broken(*args: Any, out: Path, **options: Any) -> Any:
        if "Late" in str(out):
            raise ResourceError("the disk is full.") if "seed0" in str(out) else ZeroDivisionError("oh")
        return segment(*args, out=out, **options)

    monkeypatch.setattr(module, "segment", broken)
    with pytest.raises(SystemExit) as left:
        main(["benchmark", str(world), "-o", str(world.parent / "out"), "--device", "cpu"])
    printed = capsys.readouterr()
    assert left.value.code == 2 and "0 cells made, 3 there already, 4 failed" in printed.out
    for problem in (
        "Gone on toy: ",
        "is not a run",
        "Late on toy, seed 0: the disk is full.",
        "Late on toy, seed 1: ZeroDivisionError: oh",
        "Best on toy: ",
        "no weights of the segmenter that unet needs",
    ):
        assert problem in printed.out and problem.rstrip(": ").split(": ")[-1] in printed.err
    assert "| Late |" not in printed.out and "| Hazy |" in printed.out
    failed = json.loads((world.parent / "out" / "table.json").read_text())["failed"]
    assert list(failed) == ["Gone on toy", "Best on toy", "Late on toy, seed 0", "Late on toy, seed 1"]
    alone = again(world, only=["Hazy"])
    assert alone.failed == {} and "| Hazy |" in alone.table, "of rows that were not asked for nothing is said"


def test_a_cell_that_leaves_out_an_image_fails(world: Path, made: Made) -> None:
    copy = world.parent / "cohort"
    shutil.copytree(made[0] / "cohort", copy)
    world.write_text(world.read_text().replace(str(made[0] / "cohort"), str(copy)))
    (copy / "test" / "images" / "test1_1.png").write_bytes(b"no picture")
    result = again(world, only=["Clear"])
    assert len(result.failed) == 1 and result.exit_code == 2
    assert "1 cases could not be segmented; the first: test1_1" in result.failed["Clear on toy, seed 0"]
    assert "No cell is finished." in result.table


def test_a_cell_that_lost_a_mask_fails(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder,) = (world.parent / "out" / "cells").glob("Clear-toy-seed0-*")
    for mask in folder.glob("*/masks/test1_1.*"):
        mask.unlink()
    result = again(world, only=["Clear"], overrides=["data.toy.min_area_frac=0.001"])  # evaluated anew
    assert "1 cases could not be evaluated; the first: test1_1: its mask is gone." in "".join(
        result.failed.values()
    )


def test_two_do_not_work_in_one_folder(world: Path) -> None:
    with alone_in(world.parent / "out"), pytest.raises(RunError, match="in use by another process"):
        again(world)


def test_a_fold_without_a_positive_slice_fails(world: Path) -> None:
    result = again(world, overrides=["data.toy.min_area_frac=0.9"], only=["Clear"])
    assert "no slice could be evaluated" in result.failed["Clear on toy, seed 0"]
    result = again(world, overrides=["data.toy.mask_labels=[7]"], only=["Clear"])
    assert "none of 4 slices of the truth holds a label of 7" in result.failed["Clear on toy, seed 0"]


# set-ups with and without a gate


def test_one_walk_serves_masks_with_and_without_a_gate(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = toybench.hazy(monkeypatch)
    run, cohort = made[0] / "run", made[0] / "cohort"
    gated = row("Gated", run, 'tags = {mixed = "given", positives = "none"}')
    file = write(tmp_path / "bench.toml", PROTOCOL, "", data(cohort), gated)
    result = benchmark(file, out=tmp_path / "out", device="cpu", overrides=["protocol.seeds=[3]"])
    assert sorted(asked) == sorted({(name, 3) for name, _ in asked}) and len(asked) == 4
    assert result.failed == {}
    for mode in ("none", "given"):
        alone = segment(
            run, [cohort / "test/labels.csv"], out=tmp_path / mode, seed=3, tags=mode, device="cpu"
        )  # type: ignore[arg-type]
        (folder,) = tmp_path.glob(f"out/cells/Gated-*/{mode}/masks")
        for mask in sorted((alone.out / "masks").iterdir()):
            assert (read_mask(mask).array == read_mask(folder / mask.name).array).all()
    numbers = {
        (n["setup"], n["metric"]): float(n["mean"] or "nan") for n in own_numbers(tmp_path / "out")[:8]
    }
    for setup, mode in (("positives", "none"), ("mixed", "given")):
        (path,) = tmp_path.glob(f"out/cells/*/evaluation-*/{mode}/summary.json")
        expected = json.loads(path.read_text())["rows"][0][setup]["image"]["dice"]["value"]
        assert numbers[setup, "dice"] == pytest.approx(expected, abs=1e-6)


def test_trivial_rows_that_some_rows_alone_have_are_shown(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that was handed no tag, and one gated in one set-up, come first; the third is told in both."""
    toybench.hazy(monkeypatch)
    run, cohort = made[0] / "run", made[0] / "cohort"
    rows = [
        row("Plain", run, 'tags = "none"'),
        row("Gated", run, 'tags = {mixed = "given", positives = "none"}'),
        row("Told", run, 'tags = "given"'),
    ]
    file = write(tmp_path / "bench.toml", PROTOCOL, "", data(cohort), *rows)
    for setups in ('["mixed", "positives"]', '["positives", "mixed"]'):
        sets = ["protocol.seeds=[3]", f"protocol.setups={setups}"]
        result = benchmark(file, out=tmp_path / "out", device="cpu", overrides=sets)
        assert result.failed == {}
        found = {n["row"]: n["reads"] for n in own_numbers(tmp_path / "out")}
        assert found["all-foreground (whole image)"] == "nothing"
        assert found["all-foreground (whole image), told the tags"] == "tags of these slices"


# folds, settings chosen on masks


def test_folds(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The val patients play a second fold: mean and sd are over folds and seeds, patients of both are counted."""
    toybench.hazy(monkeypatch)
    cohort = made[0] / "cohort"
    sets = f'[data.toy]\ninputs = "{cohort}/{{fold}}/labels.csv"\ntruth = "{cohort}/{{fold}}"\n'
    sets += 'folds = ["val", "test"]\n'
    (tmp_path / "chosen.toml").write_text("[methods.cdm]\nnoise_level = 400\n")
    rows = row("Hazy", made[0] / "run", f'tuned = "{tmp_path}/chosen.toml"')
    file = write(tmp_path / "bench.toml", PROTOCOL, sets, rows)
    result = benchmark(file, out=tmp_path / "out", device="cpu")
    assert result.failed == {} and len(result.done) == 4
    assert "4 positive of 8 slices of 4 patients, 2 of 2 folds." in result.table
    values = [
        json.loads(p.read_text())["rows"][0]["positives"]["image"]["dice"]["value"]
        for p in tmp_path.glob("out/cells/Hazy-toy-*/evaluation-*/given/summary.json")
    ]
    line = own_numbers(tmp_path / "out")[0]
    assert float(line["mean"]) == pytest.approx(np.mean(values), abs=1e-6)
    assert float(line["sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert (line["reads"], line["repeats"]) == ("tags + val masks, tags of these slices", "4")
    tests = [(n["against"], n["patients"]) for n in own_numbers(tmp_path / "out") if n["patients"]]
    assert set(tests) == {("Hazy", "4")} and "| intensity oracle |" in result.table
    for path in tmp_path.glob("out/cells/Hazy-toy-val-*/evaluation-*/given/summary.json"):
        summary = json.loads(path.read_text())
        summary["rows"] = [r for r in summary["rows"] if r["row"] != "intensity_oracle"]
        summary["image_level"]["detection"] = summary["image_level"]["detection"][:1]
        path.write_text(json.dumps(summary))
    text = benchmark(file, out=tmp_path / "out", device="cpu").table
    assert "| intensity oracle |" not in text and "| all-empty |" in text, "a row must be there in every fold"


def test_it_is_a_public_name() -> None:
    assert tagmask.benchmark is benchmark
