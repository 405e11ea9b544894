"""AnoFPDM's figures: every number is that of `segment`, `evaluate`, `sweep` and `trace`, from one or two walks."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from tagmask.ablations import ABLATIONS
from tagmask.errors import ConfigError
from tagmask.io import write_csv
from tagmask.jobs.ablate import AblateResult, ablate
from tagmask.jobs.evaluate import EvaluateSettings
from tagmask.jobs.segment import segment
from tagmask.methods.anofpdm import AnoFPDM
from tagmask.runs import Run
from tagmask.scoring.scoreboard import write_numbers
from tagmask.types import Batch
from tests import toys
from tests.random_run import write_run

FAST = EvaluateSettings(resamples=5)
BATCH = Batch(
    torch.rand(3, 1, toys.SIZE, toys.SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1,
    ("a/0", "a/1", "b/0"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cohort and run. Read only."""
    folder = tmp_path_factory.mktemp("ablate")
    toys.write_cohort(folder / "cohort", patients=1, slices=6)
    write_run(folder / "run", "methods.anofpdm.m_max=[0.05]", networks=("denoiser",))
    write_tried(folder / "run", JUDGED_BY)
    return folder


JUDGED_BY: dict[float, tuple[float, list[float]]] = {
    0.5: (0.9, [0.01]),
    3.0: (0.6, [0.2]),
    1.0: (-1.0, [0.04]),
}
"""What tags chose under each w."""


def write_tried(run: Path, found: dict[float, tuple[float, list[float]]], **settings: Any) -> None:
    """Leave the table that `tune` leaves."""
    columns = [*settings, "guidance", "healthy_threshold", "m_max", "accuracy"]
    table = [
        dict(zip(columns, (*settings.values(), w, *pair, 0.8), strict=True)) for w, pair in found.items()
    ]
    write_csv(run / "tune-anofpdm.csv", columns, table)


def own_choice(kind: str, value: float) -> dict[str, Any]:
    return dict(zip(("healthy_threshold", "m_max"), JUDGED_BY[value], strict=True)) if kind == "w" else {}


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note how many slices went into every walk."""
    noted: list[int] = []
    encode = AnoFPDM._encode

    def watched(self: AnoFPDM, batch: Batch, seed: int) -> Iterator[Any]:
        noted.append(len(batch))
        return encode(self, batch, seed)

    monkeypatch.setattr(AnoFPDM, "_encode", watched)
    return noted


def call(made: Path, kind: str, out: Path, **options: Any) -> AblateResult:
    table = made / "cohort/test/labels.csv"
    given = {"method": "anofpdm", "truth": made / "cohort/test", "device": "cpu", "batch": 12, "tags": "none"}
    return ablate(made / "run", kind, [table], out=out, settings=FAST, **{**given, **options})


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def drawn(out: Path, kind: str) -> list[dict[str, str]]:
    assert (out / f"{kind}.png").read_bytes().startswith(b"\x89PNG") and b"<svg" in (
        out / f"{kind}.svg"
    ).read_bytes()
    table = lines(out / f"{kind}.csv")
    assert table and all("test masks, to draw" in line["reads"] for line in table)
    return table


@pytest.mark.parametrize(
    ("kind", "setting", "values", "walks"),
    [
        ("w", "guidance", [0.5, 3.0, 1.0], 1),
        ("end", "end_ratio", [2.0, 0.4, 1.0], 2),
        ("end", "end_ratio", [1.0], 1),
    ],
)
def test_every_value_is_bit_for_bit_that_of_its_own_run(
    kind: str, setting: str, values: list[float], walks: int, made: Path, walked: list[int]
) -> None:
    run = Run.open(made / "run")
    (walk,) = ABLATIONS[kind].walks(run, "anofpdm", values, "cpu")
    found = walk.predict(BATCH, 5)
    assert walked == [3] * walks
    assert [getattr(s, setting) for s in walk.settings] == values
    for value, prediction in zip(values, found, strict=True):
        alone = run.method("anofpdm", **{setting: value}, **own_choice(kind, value)).predict(BATCH, 5)
        for name in ("score_map", "threshold", "score"):
            assert torch.equal(getattr(prediction, name), getattr(alone, name)), (value, name)
    maps = [p.score_map for p in found]
    assert len(maps) == 1 or not torch.equal(maps[0], maps[1])


@pytest.mark.parametrize("names", [(), ("forward_steps", "encoding", "clip")])
def test_thresholds_go_with_the_strength_as_tags_chose_them(
    names: tuple[str, ...], made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    run = Run.open(tmp_path / "run")
    write_tried(run.path, JUDGED_BY, **{name: getattr(run.settings("anofpdm"), name) for name in names})
    assert ABLATIONS["w"].values(run, "anofpdm") == list(JUDGED_BY)
    (walk,) = ABLATIONS["w"].walks(run, "anofpdm", [2.0, *JUDGED_BY], "cpu")
    judged = [(s.healthy_threshold, s.m_max) for s in walk.settings]
    assert judged == [(None, (0.05,)), *((cut, tuple(m)) for cut, m in JUDGED_BY.values())]
    thresholds = [p.threshold for p in walk.predict(BATCH, 5)]
    assert not torch.equal(thresholds[1], thresholds[2])  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [None, {"forward_steps": 500}, {"encoding": "ddpm"}])
def test_a_strength_whose_thresholds_nobody_chose_is_refused(
    settings: dict[str, Any] | None, made: Path, tmp_path: Path
) -> None:
    shutil.copytree(made / "run", tmp_path / "run")
    (tmp_path / "run/tune-anofpdm.csv").unlink()
    if settings is not None:
        write_tried(tmp_path / "run", JUDGED_BY, **settings)
    run = Run.open(tmp_path / "run")
    assert ABLATIONS["w"].values(run, "anofpdm") == run.settings("anofpdm").candidates
    with pytest.raises(ConfigError, match=r"w = 3 has no healthy threshold.* those of w = 2.*tagmask tune"):
        list(ABLATIONS["w"].walks(run, "anofpdm", [2.0, 3.0], "cpu"))
    bare = replace(run, experiment=replace(run.experiment, methods={}))
    (walk,) = ABLATIONS["w"].walks(bare, "anofpdm", [2.0, 3.0], "cpu")
    assert [s.m_max for s in walk.settings] == [None, None], "nothing was chosen, nothing is missing"


def test_the_sweep_of_w_writes_what_segment_writes(made: Path, tmp_path: Path, walked: list[int]) -> None:
    result = call(made, "w", tmp_path / "out", values=[0.5, 3.0])
    assert walked == [12], "one walk for both values"
    table = drawn(tmp_path / "out", "w")
    assert {line["subset"] for line in table} == {"mixed", "positives"}
    segment(
        made / "run", [made / "cohort/test/labels.csv"], out=tmp_path / "m", method="anofpdm", device="cpu",
        overrides=[f"methods.anofpdm.{own}" for own in ("guidance=3.0", "healthy_threshold=0.6", "m_max=[0.2]")],
        batch=12, tags="none",
    )  # fmt: skip
    mine = {(n["case"], n["slice"]): n["mask_pixels"] for n in lines(result.scored[1].evaluation / "per_slice.csv")
            if n["row"] == "method"}  # fmt: skip
    theirs = {n["case"]: n["mask_pixels"] for n in lines(tmp_path / "m/slices.csv")}
    assert {case: pixels for (case, _), pixels in mine.items()} == theirs


def test_fixed_thresholds_and_the_dynamic_one_share_a_walk(made: Path, walked: list[int]) -> None:
    run = Run.open(made / "run", overrides=["mask.rule=quantile", "mask.value=0.9", "mask.median=3"])
    (walk,) = ABLATIONS["threshold"].walks(run, "anofpdm", [0.1, 0.0, 0.2], "cpu")
    found = walk.predict(BATCH, 5)
    assert walked == [3]
    mask = walk.run.experiment.mask_of("anofpdm")
    assert (mask.rule, mask.value, mask.median) == ("method", None, 3), "all else as the run has it"
    own = run.method("anofpdm").predict(BATCH, 5)
    assert torch.equal(found[1].threshold, own.threshold)  # type: ignore[arg-type]
    for k, level in ((0, 0.1), (2, 0.2)):
        assert torch.equal(found[k].threshold, torch.full((3,), level)) and torch.equal(
            found[k].score_map, own.score_map
        )  # type: ignore[arg-type]
    bare = replace(run, experiment=replace(run.experiment, methods={}))
    for given, values, says in ((bare, [0.0], "m_max is not known"), (run, [-1.0], "thresholds above 0")):
        with pytest.raises(ConfigError, match=says):
            list(ABLATIONS["threshold"].walks(given, "anofpdm", values, "cpu"))


def test_the_drawing_of_thresholds(made: Path, tmp_path: Path) -> None:
    call(made, "threshold", tmp_path, values=[0.0, 0.05, 1e6])
    table = {
        (n["value"], n["subset"]): n
        for n in drawn(tmp_path, "threshold")
        if (n["per"], n["metric"]) == ("image", "dice")
    }
    assert {v for v, _ in table} == {"0", "0.05", "1e+06"}
    assert float(table["1e+06", "positives"]["mean"]) < 1e-3, "nothing lies above"


def test_curves_are_those_of_trace_and_r_is_that_of_scipy(
    made: Path, tmp_path: Path, walked: list[int]
) -> None:
    result = call(made, "curves", tmp_path, values=[2.0])
    assert walked == [12]
    seen = result.scored[0].seen
    (walk,) = ABLATIONS["curves"].walks(Run.open(made / "run"), "anofpdm", [2.0], "cpu")
    walk.predict(BATCH, 5)
    steps = [step for (step,) in Run.open(made / "run").method("anofpdm", guidance=2.0).trace(BATCH, 5)]  # type: ignore[attr-defined]
    for i, one in enumerate(BATCH.ids):
        expected = torch.stack([torch.stack([s.m[i, 0], s.mse_h[i, 0], s.mse_0[i, 0]]) for s in steps], dim=1)
        assert np.array_equal(walk.seen[one, 5, 2.0][1], expected.numpy())
    table = drawn(tmp_path, "curves")
    assert len(table) == 2 * 3 * len(steps)
    for group, odd in (("healthy", 0), ("unhealthy", 1)):
        members = [
            kept[1]
            for (name, _, _), kept in seen.items()
            if "/" in name and int(name.split("/")[0][-1]) % 2 == odd
        ]
        for k, curve in enumerate(("M_t", "MSE^h_t", "MSE^0_t")):
            mine = [n for n in table if (n["slices_are"], n["curve"]) == (group, curve)]
            assert [int(n["t"]) for n in mine] == [s.t for s in steps] and {n["n"] for n in mine} == {
                str(len(members))
            }
            values = np.stack([m[k] for m in members]).astype(float)
            assert [float(n["mean"]) for n in mine] == pytest.approx(values.mean(axis=0), rel=1e-4)
            assert [float(n["sd"]) for n in mine] == pytest.approx(values.std(axis=0, ddof=1), rel=1e-4)
    sizes(result, tmp_path)


def sizes(result: AblateResult, out: Path) -> None:
    """Targets of many sizes, from the same walk: the drawing needs no more than the evaluation."""
    (one,) = result.scored
    path = one.evaluation / "per_slice.csv"
    rows = lines(path)
    for k, row in enumerate(rows):
        row["tp"], row["fn"] = str(10), str(7 * k % 23)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    (drawing,) = ABLATIONS["size"].draw("size", "size", [one])
    write_numbers(out / "size.csv", drawing.columns, drawing.lines)
    (out / "size.png").write_bytes(drawing.pictures["png"])
    (out / "size.svg").write_bytes(drawing.pictures["svg"])
    table = drawn(out, "size")
    x, y = ([float(n[key]) for n in table] for key in ("truth_pixels", "m_max"))
    assert len(x) == 6 and len(set(x)) > 3
    assert float(table[0]["pearson_r"]) == pytest.approx(pearsonr(x, y).statistic, abs=1e-4)
    for n in drawing.lines:
        assert n["m_max"] == one.seen[str(n["slice"]), 0, 2.0][1][0].max()


def test_sams_and_gradients_at_chosen_steps(made: Path, tmp_path: Path, walked: list[int]) -> None:
    result = call(made, "sam", tmp_path, values=[21, 41])
    assert walked == [12]
    table = drawn(tmp_path, "sam")
    assert len({n["slice"] for n in table}) == 4 and [n["t"] for n in table] == ["21", "41"] * 4
    assert {name for name, _, _ in result.scored[0].seen} == {n["slice"] for n in table}
    run = Run.open(made / "run")
    (walk,) = ABLATIONS["sam"].walks(run, "anofpdm", [21, 41], "cpu")
    found = walk.predict(BATCH, 5)
    method: Any = run.method("anofpdm")
    plain: Any = run.method("anofpdm", sam="plain")
    own, gradients = ({s.t: s.sam for (s,) in m.trace(BATCH, 5)} for m in (method, plain))
    passage = method.sweep(BATCH, 5)[0]
    for k, t in enumerate((21, 41)):
        assert torch.equal(found[k].score_map, own[t])
        for i, one in enumerate(BATCH.ids):
            kept = walk.seen[one, 5, t]
            assert np.array_equal(kept.sam, own[t][i, 0].numpy())
            assert np.array_equal(kept.gradient, gradients[t][i, 0].numpy())
            assert (kept.end, kept.peak) == (tuple(passage.end[i].tolist()), float(passage.peak[i, 0]))
    with pytest.raises(ConfigError, match="step 22 is not visited"):
        list(ABLATIONS["sam"].walks(run, "anofpdm", [22], "cpu"))


def test_default_values(made: Path) -> None:
    run = Run.open(made / "run")
    found = {
        kind: list(ABLATIONS[kind].values(run, "anofpdm")) for kind in ("w", "end", "curves", "size", "sam")
    }
    assert found["w"] == list(JUDGED_BY) and 1.0 in found["end"]  # what tune looked at
    assert found["curves"] == found["size"] == [run.settings("anofpdm").guidance]
    assert found["sam"] == [1, 21, 41]
