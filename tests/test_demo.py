"""The embedded sample and the embedded weights: real slices through the whole path, as `make demo` takes it."""

from __future__ import annotations

import csv
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tagmask.jobs.evaluate import evaluate
from tagmask.jobs.segment import segment

DEMO = Path(__file__).parents[1] / "demo"
CASES = ("hippocampus_001", "hippocampus_150")


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with (DEMO / "hippocampus" / "labels.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if Path(line["image"]).name.split(".")[0] in CASES]
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({**line, "image": DEMO / "hippocampus" / line["image"]} for line in lines)
    one_draw = ["methods.cdm.draws=1"]
    out = folder / "masks"
    result = segment(
        DEMO / "run", [folder / "labels.csv"], out=out, val_masks=True, overrides=one_draw, device="cpu"
    )
    assert sorted(result.done) == sorted(CASES) and not result.failed
    return folder


def test_masks_lie_on_the_grid_of_their_scans(masks: Path) -> None:
    for case in CASES:
        scan, mask, scores = (
            nibabel.load(path)
            for path in (
                DEMO / "hippocampus" / "images" / f"{case}.nii.gz",
                masks / "masks" / "masks" / f"{case}.nii.gz",
                masks / "masks" / "scores" / f"{case}.nii.gz",
            )
        )
        assert mask.shape == scores.shape == scan.shape
        assert np.allclose(mask.affine, scan.affine) and np.allclose(scores.affine, scan.affine)
        assert mask.header.get_zooms() == scan.header.get_zooms()
        values = np.unique(np.asarray(mask.dataobj))
        assert values.tolist() == [0, 1]


def test_the_target_is_found(masks: Path) -> None:
    truth = DEMO / "hippocampus" / "masks"
    found = evaluate(
        masks / "masks", truth, table=masks / "labels.csv", out=masks / "evaluation", resamples=20
    )
    # .435; .345 with the slices in reverse order, .23 mirrored within them; all-foreground has .16.
    ours, rest = found.value("dice"), found.value("dice", row="all_foreground")
    assert ours is not None and rest is not None and ours > 0.39 > 0.2 > rest
