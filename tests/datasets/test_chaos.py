from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tagmask
from tagmask.data.prepared import Prepared
from tagmask.datasets.settings import DatasetSettings
from tagmask.errors import ConfigError, InputError
from tagmask.io import read_mask, read_study, write_mask
from tagmask.jobs.prepare import PrepareSummary
from tagmask.scoring.truth import truth_cases
from tagmask.slices import SliceSettings
from tests.datasets import folders

SETTINGS = SliceSettings(size=9, percentiles=(0, 100))  # as large as the pictures are wide
KIDNEYS = (*range(110, 136), *range(175, 201))


def run(folder: Path, out: Path, **options: Any) -> tuple[PrepareSummary, Prepared]:
    settings = options.pop("settings", SETTINGS)
    summary = tagmask.prepare(folder, out, **{"dataset": "chaos", "settings": settings, **options})
    return summary, Prepared.open(out)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four volumes whose images are their own labels. Read only."""
    return folders.chaos(tmp_path_factory.mktemp("chaos"))


def test_tags_and_masks_lie_on_their_slices(root: Path, tmp_path: Path) -> None:
    summary, prepared = run(root, tmp_path / "out", supervised=True)
    assert len(prepared) == 20 and summary.failed == () and summary.exit_code == 0
    assert [row["label"] for row in prepared.index] == [0, 1, 1, 1, 1] * 4
    # Volume n holds label + n, from n to 252 + n, which became -1 to 1: the image is its own labels.
    grey = np.rint((prepared.images[:, 0] + 1) * 126)
    assert np.array_equal(np.isin(grey, (126, 189)), prepared.open_masks().astype(bool))
    counts = np.isin(grey, (126, 189)).sum(axis=(1, 2)).tolist()
    assert counts == [2 * row["slice"] + bool(row["slice"]) for row in prepared.index]
    record = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert record["mask_labels"] == list(KIDNEYS) and record["tags_from"] == "masks"


def test_the_other_organs(root: Path, tmp_path: Path) -> None:
    right = DatasetSettings("chaos", target="kidney-right")
    _, prepared = run(root, tmp_path / "right", dataset=right, supervised=True)
    assert prepared.open_masks().sum(axis=(1, 2)).tolist() == [0, 2, 3, 4, 5] * 4
    _, named = run(root, tmp_path / "named", mask_labels=(126,), supervised=True)
    assert np.array_equal(named.open_masks(), prepared.open_masks())
    with pytest.raises(ConfigError, match=r"target: 'pancreas'.*kidney, kidney-right.*liver, spleen"):
        DatasetSettings("chaos", target="pancreas")


def test_four_folds(root: Path, tmp_path: Path) -> None:
    tests: list[str] = []
    for fold in range(1, 5):
        _, prepared = run(root, tmp_path / str(fold), dataset=DatasetSettings("chaos", fold=fold))
        parts = {row["patient"]: row["split"] for row in prepared.index}
        assert sorted(parts.values()) == ["test"] + ["train"] * 3
        tests += [patient for patient, split in parts.items() if split == "test"]
        record = json.loads((tmp_path / str(fold) / "settings.json").read_text())
        assert record["origin"]["splits"] == f"cdm-chaos, fold {fold}"
    assert sorted(tests) == sorted(parts)
    for settings in ({"fold": 5}, {"fold": 0}, {"fold": 2, "splits": "drawn"}):
        with pytest.raises(ConfigError, match="fold"):
            DatasetSettings("chaos", **settings)  # type: ignore[arg-type]


def test_test_slices_with_little_of_the_target_are_dropped_and_counted(root: Path, tmp_path: Path) -> None:
    # Slice k shows 2 k + 1 pixels of the kidneys, of 6 x 9.
    _, whole = run(root, tmp_path / "whole")
    some = DatasetSettings("chaos", min_area_frac=0.12)
    summary, prepared = run(root, tmp_path / "some", dataset=some)
    dropped = {row["id"] for row in whole.index} - {row["id"] for row in prepared.index}
    tests = [row for row in whole.index if row["split"] == "test"]
    assert dropped == {row["id"] for row in tests if row["slice"] < 3}
    what = "Of 5 test slices, 2 show the target on at least 0.12 of the slice; the others are left out."
    assert what in [warning.what for warning in summary.warnings]
    body = DatasetSettings("chaos", min_area_frac=0.5, area_of="body")
    summary, prepared = run(root, tmp_path / "body", dataset=body)
    kept = {row["slice"] for row in prepared.index if row["split"] == "test"}
    assert kept == {1, 2, 3, 4}  # what is not air is kidney for the most part
    none = DatasetSettings("chaos", min_area_frac=0.9)
    summary, prepared = run(root, tmp_path / "none", dataset=none)
    assert len(prepared) == 15 and {row["split"] for row in prepared.index} == {"train"}
    assert any(warning.what.startswith("Of 5 test slices, 0 show") for warning in summary.warnings)


def test_the_preset_of_the_paper(root: Path, tmp_path: Path) -> None:
    summary = tagmask.prepare(root, tmp_path / "out", dataset="chaos", preset="cdm-chaos")
    prepared = Prepared.open(tmp_path / "out")
    assert prepared.settings == SliceSettings(size=128, percentiles=(0, 100))
    assert any("at least 0.05 of the body" in warning.what for warning in summary.warnings)
    record = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert record["origin"]["preset"] == "cdm-chaos" and record["origin"]["min_area_frac"] == 0.05


def test_incomplete_volumes_and_those_of_the_challenge(tmp_path: Path) -> None:
    root = folders.chaos(tmp_path / "in", (1, 2, 3, 5, 8))
    hidden = folders.chaos_case(tmp_path / "other", 4, folders.organs(4))
    (tmp_path / "in" / "Test_Sets" / "MR").mkdir(parents=True)
    hidden.parent.rename(tmp_path / "in" / "Test_Sets" / "MR" / "4")
    for picture in (root / "Train_Sets/MR/5/T2SPIR/Ground").iterdir():
        picture.unlink()
    next((root / "Train_Sets/MR/8/T2SPIR/Ground").iterdir()).unlink()
    summary, prepared = run(root, tmp_path / "out")
    assert {row["patient"] for row in prepared.index} == {"chaos_01", "chaos_02", "chaos_03"}
    assert [(problem.case, problem.what) for problem in summary.failed] == [
        ("chaos_05", "There is no label (Ground/*.png)."),
        ("chaos_08", "There are 4 label pictures, but 5 slices in DICOM_anon."),
    ]
    what = "1 volumes of Test_Sets are left out: their labels are not published."
    assert what in [warning.what for warning in summary.warnings]


def test_every_level_of_the_folder_will_do(root: Path, tmp_path: Path) -> None:
    prints = {
        run(folder, tmp_path / str(i))[0].fingerprint
        for i, folder in enumerate((root, root / "Train_Sets", root / "Train_Sets" / "MR"))
    }
    assert len(prints) == 1
    with pytest.raises(InputError, match=r"looked for Train_Sets/MR/\*/T2SPIR/ with DICOM_anon"):
        run(tmp_path / "0", tmp_path / "x")


def test_its_tables_serve_an_evaluation(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    tables = tmp_path / "out" / "tables" / "test"
    cases = truth_cases(tables)
    assert len(cases) == 1
    for name, case in cases.items():
        assert case.mask is not None
        mask = read_mask(case.mask, labels=KIDNEYS, image=case.images[0])
        study = read_study(case.images, id=name)
        write_mask(tmp_path / "results" / name, mask.array, study)
    settings = tagmask.EvaluateSettings(mask_labels=KIDNEYS, resamples=10)
    found = tagmask.evaluate(tmp_path / "results", tables, out=tmp_path / "evaluation", settings=settings)
    assert found.failed == () and found.value("dice") == 1


def test_a_path_that_a_table_cannot_hold(tmp_path: Path) -> None:
    folders.chaos(tmp_path / "a;b", (1,))
    with pytest.raises(InputError, match="semicolon"):
        run(tmp_path / "a;b", tmp_path / "out")
