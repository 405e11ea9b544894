"""Fig. 2c of AnoFPDM: magnitudes in target and rest over t / t_e, in a world where they can be worked out."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tagmask.ablations import ABLATIONS
from tagmask.ablations.kinds import Drawing, Scored
from tagmask.errors import ConfigError, InputError
from tagmask.io import write_csv
from tagmask.jobs.ablate import AblateResult, ablate
from tagmask.jobs.evaluate import EvaluateSettings
from tagmask.methods.anofpdm import AnoFPDM
from tagmask.metrics import Counts
from tagmask.runs import Run
from tagmask.scoring.slice_records import PER_SLICE, SliceRecord
from tagmask.types import Batch
from tests.random_run import write_run

SIZE = 16
AIR, DIM, LIT = 0, 100, 120  # grey of the air, and of a body whose t_e is 20 or 40
LEFT, RIGHT = 200, 240  # grey of the target's halves: "healthy" changes the left alone


def slice_of(body: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Give a picture, two pixels of air around a body of 12 x 12, and the mask of its target, 4 x width."""
    picture, mask = np.full((SIZE, SIZE), AIR, np.uint8), np.zeros((SIZE, SIZE), bool)
    picture[2:14, 2:14] = body
    mask[6:10, 6 : 6 + width] = True
    picture[6:10, 6 : 6 + width // 2], picture[6:10, 6 + width // 2 : 6 + width] = LEFT, RIGHT
    return picture, mask


SLICES = {"a": slice_of(DIM, 4), "b": slice_of(LIT, 2), "c": slice_of(DIM, 0)}


def write_cohort(folder: Path, masks: dict[str, np.ndarray]) -> Path:
    (folder / "test/images").mkdir(parents=True)
    (folder / "masks/test").mkdir(parents=True)
    rows = [("id", "image", "label", "patient", "slice")]
    for n, (name, (picture, _)) in enumerate(SLICES.items()):
        Image.fromarray(picture).save(folder / f"test/images/{name}.png")
        Image.fromarray(masks[name].astype(np.uint8) * 255).save(folder / f"masks/test/{name}.png")
        rows.append((name, f"images/{name}.png", str(int(name != "c")), f"p{n}", "0"))
    with (folder / "test/labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "test"


def encode(self: AnoFPDM, batch: Batch, seed: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yield noises for which X^0 is the image, and X^h moves some of it.

    The air by .5 and the body by .1 at every step, the target's left half by .4 (dim body) or .2 (lit) at
    t_e = 20 or 40 and by less before and after, its right half not at all.
    """
    x0 = batch.image
    grey = (x0 + 1) * 127.5
    lit = grey[:, :, 3:4, 3:4] > (DIM + LIT) / 2
    for t in self.settings.steps:
        rate = torch.exp(-(((t - torch.where(lit, 40.0, 20.0)) / 8) ** 2))
        change = torch.full_like(x0, 0.1)
        change = torch.where(grey < DIM / 2, 0.5, change)
        change = torch.where(grey > LIT + 40, rate * torch.where(lit, 0.2, 0.4), change)
        change = torch.where(grey > LEFT + 20, 0.0, change)
        signal, sigma = self.schedule.signal_noise(t, x0)
        yield t, signal * x0, -signal / sigma * change / (1 + self.settings.guidance), torch.zeros_like(x0)


def call(folder: Path, truth: Path, out: str, **options: Any) -> AblateResult:
    given: dict[str, Any] = {"method": "anofpdm", "device": "cpu", "tags": "none", "values": [0.5, 1.0, 2.0]}
    settings = EvaluateSettings(resamples=5)
    return ablate(folder / "run", "regions", [truth / "labels.csv"], truth=truth, out=folder / out,
                  settings=settings, **{**given, **options})  # fmt: skip


def table(path: Path) -> dict[tuple[float, str], dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {(float(n["t_over_t_e"]), n["curve"]): n for n in csv.DictReader(file)}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Settings that move maps: all but the stride must leave the magnitudes alone.
    settings = ("stride=1", "mask.median=3", "mask.foreground=head", "mask.erode=1", "end_exclusive=true")
    write_run(tmp_path / "run", *(f"methods.anofpdm.{each}" for each in settings), networks=("denoiser",))
    monkeypatch.setattr(AnoFPDM, "_encode", encode)
    return tmp_path


def test_numbers_that_can_be_worked_out(world: Path) -> None:
    """Half of the target's pixels move: RMS is peak / √2, the mean would be half of it. Air is no rest."""
    truth = write_cohort(world / "cohort", {name: mask for name, (_, mask) in SLICES.items()})
    result = call(world, truth, "out")
    found = table(world / "out/regions.csv")
    names = ("M_t", "target", "rest of the body", "target / rest")
    at_end = {name: float(found[1.0, name]["mean"]) for name in names}
    root = 0.5**0.5
    assert at_end["target"] == pytest.approx(root * (0.16 + 0.04) / 2, rel=1e-4)
    assert float(found[1.0, "target"]["sd"]) == pytest.approx(root * (0.16 - 0.04) * root, rel=1e-4)
    assert at_end["rest of the body"] == pytest.approx(0.01, rel=1e-4)
    assert at_end["target / rest"] == pytest.approx(root * (16 + 4) / 2, rel=1e-4)
    dim, lit = 8 * 0.16 + 128 * 0.01 + 112 * 0.25, 4 * 0.04 + 136 * 0.01 + 112 * 0.25
    assert at_end["M_t"] == pytest.approx((dim + lit) / 2 / SIZE**2, rel=1e-4)
    half = (0.16 * np.exp(-2 * (10 / 8) ** 2) + 0.04 * np.exp(-2 * (20 / 8) ** 2)) / 2
    assert float(found[0.5, "target"]["mean"]) == pytest.approx(root * half, rel=1e-4)
    assert [found[0.5, name]["n"] for name in names] == ["2"] * 4, "two slices show the target"
    # 2 x 40 lies beyond T' = 60: the dim slice is left, at t = 40.
    assert [(found[2.0, name]["n"], found[2.0, name]["sd"]) for name in names] == [("1", "")] * 4
    late = root * 0.16 * np.exp(-2 * (20 / 8) ** 2)
    assert float(found[2.0, "target"]["mean"]) == pytest.approx(late, rel=1e-3)
    assert all("test masks, to draw" in line["reads"] for line in found.values())
    assert (world / "out/regions.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (world / "out/regions.svg").read_bytes()

    # Another truth: what the walk saw is the same, the numbers are not.
    shifted = write_cohort(world / "other", {name: np.roll(mask, 2, 1) for name, (_, mask) in SLICES.items()})
    other = call(world, shifted, "other-out")
    assert other.scored[0].seen == result.scored[0].seen and len(result.scored[0].seen) >= 6
    moved = float(table(world / "other-out/regions.csv")[1.0, "target"]["mean"])
    assert moved == pytest.approx(0.01 * (root + 1) / 2, rel=1e-4), "the right half and the body beside it"


def test_every_share_is_bit_for_bit_that_of_its_own_run(tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run", networks=("denoiser",)))
    image = torch.rand(3, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch, values = Batch(image, ("a/0", "a/1", "b/0")), [2.0, 0.5, 1.0]
    (walk,) = ABLATIONS["regions"].walks(run, "anofpdm", values, "cpu")
    found = walk.predict(batch, 5)
    assert [(s.map, s.end_ratio) for s in walk.settings] == [("single", v) for v in values]
    method: Any = run.method("anofpdm")
    (end,) = (passage.end[:, 0] for passage in method.sweep(batch, 5))
    m = {step.t: step.m[:, 0] for (step,) in method.trace(batch, 5)}
    for value, prediction in zip(values, found, strict=True):
        alone = run.method("anofpdm", map="single", end_ratio=value).predict(batch, 5)
        assert torch.equal(prediction.score_map, alone.score_map)
        for i, one in enumerate(batch.ids):
            t = round(value * int(end[i]))
            at = max(visited for visited in m if visited <= max(t, 1))
            assert walk.seen.get((one, 5, value)) == (float(m[at][i]) if t <= 60 else None)


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_shares_of_nothing_are_refused(value: float, tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run", networks=("denoiser",)))
    with pytest.raises(ConfigError, match="end_ratio"):
        list(ABLATIONS["regions"].walks(run, "anofpdm", [1.0, value], "cpu"))


# the drawing alone


def evaluation(folder: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """Rows of name, positive, target and rest, as `evaluate` writes them."""
    plain = SliceRecord(
        "method", "", 0, "p", None, "", False, 0.5, math.nan, Counts(1, 0, 0, 0), math.nan, "", math.nan, ""
    )
    lines = [
        {**plain.cells(), "case": name, "positive": positive, "rms_target": target, "rms_rest": rest}
        for name, positive, target, rest in rows
    ]
    write_csv(folder / "per_slice.csv", PER_SLICE, lines)
    return folder


def draw(folder: Path, seen: dict[tuple[str, int, float], float]) -> Drawing:
    (drawing,) = ABLATIONS["regions"].draw("regions", "t / t_e", [Scored(1.0, 0, folder, {}, seen)])
    return drawing


def test_two_hundred_slices_are_drawn_by_their_names_alone(tmp_path: Path) -> None:
    names = [f"s{n}" for n in range(300)]
    seen = {(f"{name}/0", 0, 1.0): float(n) for n, name in enumerate(names)}
    rows = [(name, "1", str(1 + n), "1") for n, name in enumerate(names)]
    healthy = [("h", "0", "", "1"), ("untouched", "1", "", "1"), ("lost", "1", "1", "")]
    first = draw(evaluation(tmp_path / "a", [*rows, *healthy]), seen).lines
    assert {line["n"] for line in first} == {200}
    order = sorted(range(300), key=lambda n: hashlib.sha256(f"s{n}/0".encode()).hexdigest())[:200]
    assert first[0]["mean"] == pytest.approx(np.mean(order))
    # Other targets, another order: the same slices.
    again = draw(evaluation(tmp_path / "b", [(name, "1", "2", "1") for name in names[::-1]]), seen).lines
    assert again[0] == first[0] and again[1]["mean"] == 2


def test_a_rest_of_zero_has_no_ratio(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", [("x", "1", "3", "0"), ("y", "1", "6", "2")])
    lines = draw(folder, {("x/0", 0, 1.0): 1.0, ("y/0", 0, 1.0): 1.0}).lines
    assert [(n["curve"], n["mean"], n["n"]) for n in lines][1:] == [
        *(("target", 4.5, 2), ("rest of the body", 1.0, 2), ("target / rest", 3.0, 1)),
    ]


@pytest.mark.parametrize("row", [("x", "0", "", "1"), ("x", "1", "1", ""), ("x", "1", "", "")])
def test_without_a_target_in_a_body_there_is_no_figure(row: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no slice shows the target within a body"):
        draw(evaluation(tmp_path / "a", [row]), {})  # type: ignore[list-item]
