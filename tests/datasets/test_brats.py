from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

import tagmask
from tagmask.data.prepared import Prepared
from tagmask.datasets.settings import DatasetSettings
from tagmask.datasets.splits import by_rule
from tagmask.errors import ConfigError, InputError
from tagmask.io import read_study
from tagmask.jobs.prepare import PrepareSummary
from tagmask.slices import SliceSettings, split, split_map
from tests.datasets import folders

SETTINGS = SliceSettings(size=10)


def run(folder: Path, out: Path, **options: Any) -> tuple[PrepareSummary, Prepared]:
    summary = tagmask.prepare(folder, out, **{"dataset": "brats", "settings": SETTINGS, **options})
    return summary, Prepared.open(out)


def settings_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "settings.json").read_text())
    return found


@pytest.mark.parametrize("release", list(folders.BRATS))
def test_every_release_becomes_tagged_slices(tmp_path: Path, release: str) -> None:
    folders.brats(tmp_path / "unpacked" / "inner", release)
    summary, prepared = run(tmp_path / "unpacked", tmp_path / "out")
    assert prepared.images.shape == (36, 4, 10, 10) and summary.failed == ()
    assert [row["label"] for row in prepared.index] == [0, 0, 1, 1, 0, 0] * 6
    name, ends, suffix = folders.BRATS[release]
    for place, number in ((0, 0), (30, 5)):
        case = tmp_path / "unpacked" / "inner" / name.format(number)
        files = [case / f"{case.name}{ends[m]}{suffix}" for m in ("flair", "t1", "t1ce", "t2")]
        wanted = split(read_study(files, id=case.name), SETTINGS).image
        assert np.array_equal(prepared.images[place : place + 6], wanted)
        assert prepared.index[place]["id"] == f"{case.name}/0"
    record = settings_of(tmp_path / "out")
    assert record["tags_from"] == "masks" and record["origin"]["layout"] == release
    assert record["origin"]["modalities"] == ["flair", "t1", "t1ce", "t2"]
    assert f"{release}: tags of tumour are from the segmentations, splits: anofpdm." in str(summary)


def test_no_mask_goes_on_unless_it_is_asked_for(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    _, prepared = run(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "masks.npy").exists()
    with pytest.raises(InputError, match="holds no masks"):
        prepared.open_masks()
    _, supervised = run(tmp_path / "in", tmp_path / "out2", supervised=True)
    study = read_study(tmp_path / "in/BraTS2021_00000/BraTS2021_00000_flair.nii.gz", id="x")
    seg = np.asarray(nib.load(tmp_path / "in/BraTS2021_00000/BraTS2021_00000_seg.nii.gz").dataobj)
    wanted = split_map(seg > 0, split(study, SETTINGS).grid) >= 0.5
    assert wanted.any() and np.array_equal(supervised.open_masks()[:6], wanted)


def test_flair_alone(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    _, whole = run(tmp_path / "in", tmp_path / "whole")
    _, flair = run(tmp_path / "in", tmp_path / "flair", dataset=DatasetSettings("brats", ("flair",)))
    assert np.array_equal(flair.images, whole.images[:, :1])
    _, turned = run(tmp_path / "in", tmp_path / "two", dataset=DatasetSettings("brats", ("t2", "flair")))
    assert np.array_equal(turned.images, whole.images[:, [3, 0]])


def test_a_case_without_a_modality_is_refused_by_name_and_the_others_are_done(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    _, whole = run(tmp_path / "in", tmp_path / "whole")
    (tmp_path / "in/BraTS2021_00002/BraTS2021_00002_t1ce.nii.gz").unlink()
    summary, prepared = run(tmp_path / "in", tmp_path / "out")
    (failed,) = summary.failed
    assert summary.exit_code == 2 and failed.case == "BraTS2021_00002"
    assert failed.what == ("The modality t1ce is missing: there is no BraTS2021_00002_t1ce.nii.gz or .nii.")
    assert failed.repair == "Fetch it, remove the case, or do without (--modalities flair,t1,t2)."
    with (tmp_path / "out" / "problems.csv").open() as file:
        assert "BraTS2021_00002" in [row["case"] for row in csv.DictReader(file)]
    splits = {row["patient"]: row["split"] for row in whole.index}
    assert {row["patient"]: row["split"] for row in prepared.index} == {
        patient: name for patient, name in splits.items() if patient != "BraTS2021_00002"
    }  # the others stay where they were
    three = DatasetSettings("brats", ("flair", "t1", "t2"))
    summary, prepared = run(tmp_path / "in", tmp_path / "three", dataset=three)
    assert summary.failed == () and len(prepared) == 36


def test_a_segmentation_under_another_name_is_pointed_at(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in", "BraTS 2020")  # as case 355 of the real set
    case = tmp_path / "in" / "BraTS20_Training_003"
    (case / "BraTS20_Training_003_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")
    summary, _ = run(tmp_path / "in", tmp_path / "out")
    (failed,) = summary.failed
    assert failed.what.endswith("BraTS20_Training_003_seg.nii.gz or .nii, but W39_1998.09.19_Segm.nii.")
    assert failed.repair.startswith("Rename it if it is the segmentation")


def test_a_damaged_or_shifted_segmentation_fails_its_case_alone(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    (tmp_path / "in/BraTS2021_00001/BraTS2021_00001_seg.nii.gz").write_bytes(b"\x1f\x8b")
    path = tmp_path / "in/BraTS2021_00004/BraTS2021_00004_seg.nii.gz"
    folders.save(path, folders.lesion(), np.diag([1.0, 1, 1, 1]))
    summary, prepared = run(tmp_path / "in", tmp_path / "out", workers=2)
    assert [problem.case for problem in summary.failed] == ["BraTS2021_00001", "BraTS2021_00004"]
    assert "lies elsewhere" in summary.failed[1].what and len(prepared) == 24


def test_visits_of_a_patient_stay_together(tmp_path: Path) -> None:
    for number in range(4):
        folders.brats_case(tmp_path / "in", "BraTS 2023", number)
    for number in range(4):
        first = tmp_path / "in" / f"BraTS-GLI-{number:05d}-000"
        for visit in (1, 2):
            again = first.with_name(f"BraTS-GLI-{number:05d}-{visit:03d}")
            folders.brats_case(tmp_path / "other", "BraTS 2023", number, seed=50 + 10 * visit + number)
            (tmp_path / "other" / first.name).rename(again)
            for file in again.iterdir():
                file.rename(again / file.name.replace(first.name, again.name))
    _, prepared = run(tmp_path / "in", tmp_path / "out")
    assert len({row["study"] for row in prepared.index}) == 12
    patients = sorted({row["patient"] for row in prepared.index})
    assert patients == [f"BraTS-GLI-{n:05d}" for n in range(4)]
    wanted = by_rule("anofpdm", patients)
    assert all(row["split"] == wanted[row["patient"]] for row in prepared.index)


def test_the_order_on_the_disk_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders.brats(tmp_path / "in")
    one, _ = run(tmp_path / "in", tmp_path / "one")
    ordered = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: iter(sorted(ordered(path), reverse=True)))
    two, _ = run(tmp_path / "in", tmp_path / "two")
    assert one.fingerprint == two.fingerprint


def test_progress_counts_the_conversion_too(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    seen: list[tuple[int, int]] = []
    run(tmp_path / "in", tmp_path / "out", report=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 12) for i in range(1, 13)]


def test_validation_cases_are_passed_by(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in", "BraTS 2020")
    case = folders.brats_case(tmp_path / "in" / "val", "BraTS 2020", 7)
    (case / f"{case.name}_seg.nii").unlink()
    case.rename(case.with_name("BraTS20_Validation_001"))
    summary, prepared = run(tmp_path / "in", tmp_path / "out")
    assert summary.failed == () and len(prepared) == 36
    assert "1 validation cases are left out: they have no segmentation." in [w.what for w in summary.warnings]


def test_years_are_not_mixed(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in", "BraTS 2020", 2)
    folders.brats(tmp_path / "in", "BraTS 2021", 2)
    with pytest.raises(InputError, match="holds BraTS 2020 and BraTS 2021, which share patients"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_case_that_is_there_twice(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in" / "a", count=2)
    folders.brats(tmp_path / "in" / "b", count=1)
    with pytest.raises(InputError, match=r"BraTS2021_00000 is there twice, also in .*/a/"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_folder_of_another_data_set_is_recognised(tmp_path: Path) -> None:
    folders.brats(tmp_path / "brats", "BraTS 2023", 1)
    folders.atlas(tmp_path / "atlas", 1)
    with pytest.raises(InputError, match=r"looks like BraTS 2023, not like ATLAS v2.0. Use --dataset brats"):
        run(tmp_path / "brats", tmp_path / "out", dataset="atlas")
    with pytest.raises(InputError, match=r"looks like ATLAS v2.0, not like BraTS 2020, 2021 or 2023"):
        run(tmp_path / "atlas", tmp_path / "out")


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "in" / "Brats17_2013_10_1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"looked for BraTS20_Training_\*/, BraTS2021_\*/ or BraTS-GLI"):
        run(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="There is no such folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "brats.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"This is a file\. Unpack the data set"):
        run(tmp_path / "brats.zip", tmp_path / "out")


def test_all_cases_refused(tmp_path: Path) -> None:
    case = folders.brats_case(tmp_path / "in", "BraTS 2021", 0)
    (case / f"{case.name}_seg.nii.gz").unlink()
    with pytest.raises(InputError, match=r"No case of BraTS 2021 can be used.*segmentation is missing"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_taken_output_is_refused_before_the_masks_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders.brats(tmp_path / "in", count=1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    monkeypatch.setattr("tagmask.io.read_mask", lambda *a, **k: pytest.fail("a mask was opened"))
    with pytest.raises(InputError, match="is no prepared folder"):
        run(tmp_path / "in", tmp_path / "out")


def test_a_split_file_and_drawn_splits(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    path = tmp_path / "mine.csv"
    lines = [f"BraTS2021_{n:05d},{s}" for n, s in enumerate(("train", "val", "test", "train", "", "val"))]
    path.write_text("\n".join(["patient,split", *lines]))
    summary, _ = run(tmp_path / "in", tmp_path / "out", dataset=DatasetSettings("brats", splits=path))
    assert {name: len(count.patients) for name, count in summary.splits.items()} == {
        **{"train": 2, "val": 2, "test": 1}
    }
    assert settings_of(tmp_path / "out")["origin"]["splits"] == "of mine.csv"
    drawn = DatasetSettings("brats", splits="drawn")
    summary, _ = run(tmp_path / "in", tmp_path / "drawn", dataset=drawn, seed=4, test_fraction=0.5)
    assert summary.drawn == 4 and len(summary.splits["test"].patients) == 3
    with pytest.raises(ConfigError, match="neither a rule nor a file"):
        run(tmp_path / "in", tmp_path / "x", dataset=DatasetSettings("brats", splits="anofdpm"))


def test_the_rows_are_kept_as_tables(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    tissue = SliceSettings(size=10, tissue=0.5)
    summary, prepared = run(tmp_path / "in", tmp_path / "out", settings=tissue)
    assert len(prepared) == 24  # air above and below is left out
    again = tagmask.prepare(tmp_path / "out" / "tables", tmp_path / "again", settings=SETTINGS)
    second = Prepared.open(tmp_path / "again")
    kept = {row["id"]: (row["split"], row["label"], row["slice"]) for row in prepared.index}
    assert {row["id"]: (row["split"], row["label"], row["slice"]) for row in second.index} == kept
    assert again.failed == () and again.splits.keys() == summary.splits.keys()
    assert "tags_from" not in settings_of(tmp_path / "again")


def test_it_has_no_columns(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in", count=1)
    with pytest.raises(ConfigError, match=r"brats has no column 'tumour'"):
        run(tmp_path / "in", tmp_path / "out", tag="tumour")
