from __future__ import annotations

import csv
import hashlib
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import tagmask.io
from tagmask.data.in_order import in_order
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, TableError
from tagmask.io import read_study, sha256
from tagmask.jobs.prepare import PrepareSummary, prepare
from tagmask.slices import SliceSettings, split, split_map

ROOT = Path(__file__).parents[2]
K = SliceSettings(plane="k", size=8)
HEADER = ("id", "image", "label", "slice", "patient", "split", "mask")
Row = tuple[object, ...]


def noise(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, shape).astype(np.uint8)


def volume(path: Path, seed: int = 0, shape: tuple[int, ...] = (8, 6, 5), array: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = noise(seed, shape) if array is None else array
    nib.save(nib.Nifti1Image(data, np.diag([1.0, 1, 2, 1])), path)
    return path


def picture(path: Path, seed: int = 0, array: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, (8, 8)) if array is None else array).save(path)
    return path


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *((*row, *("",) * (len(HEADER) - len(row))) for row in rows)])
    return path


def pictures(folder: Path, count: int = 6) -> list[Row]:
    """Two tagged pictures in each split, each of a patient of its own."""
    parts = ("train", "train", "val", "val", "test", "test")
    for i in range(count):
        picture(folder / f"i{i}.png", seed=i)
    return [(f"r{i}", f"i{i}.png", i % 2, "", f"P{i}", parts[i]) for i in range(count)]


def volumes(folder: Path) -> list[Row]:
    """A volume of five tagged slices in each split."""
    rows: list[Row] = []
    for i, part in enumerate(("train", "val", "test")):
        volume(folder / f"v{i}.nii.gz", seed=i)
        rows += [(f"v{i}/{k}", f"v{i}.nii.gz", int(k > 2), k, f"P{i}", part) for k in range(5)]
    return rows


def run(tmp_path: Path, rows: list[Row], **options: Any) -> tuple[PrepareSummary, Prepared]:
    options = {"settings": K} | options
    summary = prepare(write(tmp_path / "t.csv", rows), tmp_path / "out", **options)
    return summary, Prepared.open(tmp_path / "out")


def problems(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "out" / "problems.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_volumes_by_slice(tmp_path: Path) -> None:
    summary, prepared = run(tmp_path, volumes(tmp_path))
    assert prepared.images.shape == (15, 1, 8, 8)
    for i in range(3):
        study = read_study(tmp_path / f"v{i}.nii.gz", id=f"v{i}")
        assert np.array_equal(prepared.images[5 * i : 5 * i + 5], split(study, K).image)
    assert prepared.labels.tolist() == [0, 0, 0, 1, 1] * 3
    assert prepared.positions[:5].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert prepared.batch([6]).ids == ("v1/1",) and prepared.index[6]["id"] == "v1/1"
    assert prepared.split_indices("val").tolist() == [5, 6, 7, 8, 9]
    counts = summary.splits["train"]
    assert (counts.images, counts.slices, counts.present, counts.absent) == (1, 5, 2, 3)
    assert counts.patients == {"P0"} and counts.prevalence == 0.4
    assert summary.failed == summary.warnings == () and summary.exit_code == 0 and summary.drawn is None
    assert not (tmp_path / "out" / "problems.csv").exists()
    assert "train" in str(summary) and "0.400" in str(summary) and summary.fingerprint[:12] in str(summary)


def test_each_file_is_read_once_whatever_the_order_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Any, *, id: str) -> Any:
        read.append(id)
        return read_study(path, id=id)

    monkeypatch.setattr("tagmask.jobs.prepare.read_study", counting)
    rows = volumes(tmp_path)
    _, prepared = run(tmp_path, rows[::2] + rows[1::2])
    assert sorted(read) == ["v0", "v1", "v2"]
    assert [row["slice"] for row in prepared.index] == [0, 1, 2, 3, 4] * 3


def test_only_the_slices_of_the_table(tmp_path: Path) -> None:
    rows = [row for row in volumes(tmp_path) if row[3] in (1, 4)]
    _, prepared = run(tmp_path, rows)
    assert [(row["slice"], row["position"]) for row in prepared.index] == [(1, 0.25), (4, 1.0)] * 3


def test_a_row_without_a_slice_tags_the_whole_volume(tmp_path: Path) -> None:
    rows: list[Row] = []
    for i in range(4):
        volume(tmp_path / f"v{i}.nii", seed=i)
        rows.append((f"case{i}", f"v{i}.nii", i % 2, "", f"P{i}", ("train", "train", "val", "test")[i]))
    summary, prepared = run(tmp_path, rows)
    assert prepared.labels.tolist() == [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5
    assert [row["id"] for row in prepared.index[5:8]] == ["case1/0", "case1/1", "case1/2"]
    assert summary.splits["train"].slices == 10
    assert "In 2 volumes one tag stands for all slices" in summary.warnings[0].what
    by_slice, _ = run(tmp_path, volumes(tmp_path), overwrite=True)
    assert not any("one tag" in problem.what for problem in by_slice.warnings)


def test_pictures_have_their_place_within_the_patient(tmp_path: Path) -> None:
    rows: list[Row] = []
    for i, (number, patient) in enumerate([(12, "A"), (4, "A"), (8, "A"), (3, "B"), ("", "C")]):
        picture(tmp_path / f"i{i}.png", seed=i)
        rows.append((f"r{i}", f"i{i}.png", i % 2, number, patient, "train"))
    _, prepared = run(tmp_path, rows)
    np.testing.assert_array_equal(prepared.positions, [1, 0, 0.5, 0.5, np.nan])
    assert [row["slice"] for row in prepared.index] == [
        0
    ] * 5  # the only slice of the file: noise is keyed by it
    assert prepared.batch([0]).ids == ("i0/0",)


def test_several_channels(tmp_path: Path) -> None:
    rows: list[Row] = []
    for i in range(2):
        volume(tmp_path / f"a{i}.nii", seed=i)
        volume(tmp_path / f"b{i}.nii", seed=10 + i)
        rows.append((f"r{i}", f"a{i}.nii;b{i}.nii", i, "", f"P{i}", "train"))
    _, both = run(tmp_path, rows)
    assert both.images.shape == (10, 2, 8, 8)
    _, second = run(tmp_path, rows, settings=SliceSettings(plane="k", size=8, channels=(1,)), overwrite=True)
    assert np.array_equal(second.images[:, 0], both.images[:, 1])


def test_another_tag_and_an_untagged_test_split(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / f"i{i}.png", seed=i)
    lines = ["id,image,label,liver,split", "a,i0.png,,1,train", "b,i1.png,,0,train", "c,i2.png,,1,val"]
    (tmp_path / "t.csv").write_text("\n".join([*lines, "d,i3.png,,,test"]))
    prepare(tmp_path / "t.csv", tmp_path / "out", settings=K, tag="liver")
    prepared = Prepared.open(tmp_path / "out")
    assert prepared.labels.tolist() == [1, 0, 1, -1] and prepared.tag == "liver"
    with pytest.raises(TableError, match=r"row 2: The row has no tag \(column label\)"):
        prepare(tmp_path / "t.csv", tmp_path / "other", settings=K)
    assert not (tmp_path / "other").exists()


def test_splits_are_drawn_where_there_are_none(tmp_path: Path) -> None:
    rows: list[Row] = []
    for i in range(20):
        picture(tmp_path / f"i{i}.png", seed=i)
        rows.append((f"r{i}", f"i{i}.png", i % 2, i, f"P{i // 2}"))
    summary, prepared = run(tmp_path, rows, seed=5)
    assert summary.drawn == 5 and "drawn by patient with seed 5" in str(summary)
    sizes = {name: len(count.patients) for name, count in summary.splits.items()}
    assert sizes == {"train": 6, "val": 2, "test": 2}
    by_patient = {(row["patient"], row["split"]) for row in prepared.index}
    assert len(by_patient) == 10
    again, _ = run(tmp_path, rows, seed=5, overwrite=True)
    other, _ = run(tmp_path, rows, seed=6, overwrite=True)
    assert again.fingerprint == summary.fingerprint != other.fingerprint


def test_a_share_is_refused_where_splits_are_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.csv: val_fraction = 0\.4, but splits are given already"):
        run(tmp_path, volumes(tmp_path), val_fraction=0.4)
    assert not (tmp_path / "out").exists()


def test_splits_drawn_from_a_table_of_one_split_are_doubted(tmp_path: Path) -> None:
    """The pictures to learn from would be parted once more, and a third of them never be learnt from."""
    for i in range(20):
        picture(tmp_path / "train" / f"i{i}.png", seed=i)
    rows: list[Row] = [(f"r{i}", f"i{i}.png", i % 2, i, f"P{i // 2}") for i in range(20)]
    table = write(tmp_path / "train" / "labels.csv", rows)
    parted = prepare(table, tmp_path / "a", settings=K)
    assert "lies in a folder 'train', but val and test were drawn" in parted.warnings[0].what
    whole = prepare(table, tmp_path / "b", settings=K, val_fraction=0.0, test_fraction=0.0)
    assert whole.splits["train"].images == 20
    assert not any("drawn from it" in problem.what for problem in whole.warnings)


def test_a_folder_with_a_table_for_each_split(tmp_path: Path) -> None:
    for row in pictures(tmp_path):
        part = str(row[5])
        (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / str(row[1])).rename(tmp_path / "data" / part / str(row[1]))
    for part in ("train", "val", "test"):
        mine = [row[:5] for row in pictures(tmp_path) if row[5] == part]
        write(tmp_path / "data" / part / "labels.csv", mine)
    summary = prepare(tmp_path / "data", tmp_path / "out", settings=K)
    assert {name: count.slices for name, count in summary.splits.items()} == {"train": 2, "val": 2, "test": 2}


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda p: p.unlink(), "i3.png"),
    "empty": (lambda p: p.write_bytes(b""), "0 bytes"),
    "cut": (lambda p: p.write_bytes(p.read_bytes()[:60]), "i3.png"),
    "foreign": (lambda p: p.write_text("hello"), "none of NIfTI"),
    "colour": (lambda p: picture(p, array=noise(3, (8, 8, 3))), "has 3 channels, those that are kept have 1"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_case_is_listed_and_the_others_go_on(tmp_path: Path, kind: str) -> None:
    rows = pictures(tmp_path)
    BAD[kind][0](tmp_path / "i3.png")
    summary, prepared = run(tmp_path, rows)
    assert [row["study"] for row in prepared.index] == ["i0", "i1", "i2", "i4", "i5"]
    (failed,) = [line for line in problems(tmp_path) if line["level"] == "failed"]
    assert failed["case"] == "i3" and failed["file"] == str(tmp_path / "i3.png") and failed["repair"]
    assert BAD[kind][1] in failed["file"] + failed["what"]
    assert summary.exit_code == 2 and summary.failed[0].case == "i3" and "1 failed" in str(summary)


def test_an_odd_first_case_does_not_leave_itself_alone(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    picture(tmp_path / "i0.png", array=noise(3, (8, 8, 3)))
    with pytest.raises(InputError, match="The first image, i0, has 3 channels; 5 others, such as i1,"):
        run(tmp_path, rows)
    assert not (tmp_path / "out").exists()
    picture(tmp_path / "i1.png", array=noise(4, (8, 8, 3)))
    picture(tmp_path / "i2.png", array=noise(5, (8, 8, 3)))
    summary, _ = run(tmp_path, rows)  # half and half: nothing says which of them is odd
    assert [failed.case for failed in summary.failed] == ["i3", "i4", "i5"]


def test_an_unforeseen_error_is_a_problem_of_its_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Any, *, id: str) -> Any:
        if id == "i3":
            raise ZeroDivisionError("surprise")
        return read_study(path, id=id)

    monkeypatch.setattr("tagmask.jobs.prepare.read_study", broken)
    summary, prepared = run(tmp_path, pictures(tmp_path))
    assert len(prepared) == 5 and "ZeroDivisionError: surprise" in summary.failed[0].what


@pytest.mark.parametrize(("index", "row"), [(5, 16), (99, 16)])
def test_a_slice_out_of_range_fails_its_volume(tmp_path: Path, index: int, row: int) -> None:
    rows = volumes(tmp_path)
    rows[-1] = (*rows[-1][:3], index, *rows[-1][4:])
    summary, prepared = run(tmp_path, rows)
    (failed,) = summary.failed
    assert f"The slice is {index}, but v2 has 5 along k" in failed.what
    assert failed.file == f"{tmp_path / 't.csv'}, row {row}"
    assert [row["study"] for row in prepared.index] == ["v0"] * 5 + ["v1"] * 5


def test_two_rows_of_one_picture_fail(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    rows[2:4] = [("r2", "i2.png", 0, 1, "P2", "val"), ("r3", "i2.png", 1, 2, "P2", "val")]
    summary, _ = run(tmp_path, rows)
    assert "2 rows are about one picture" in summary.failed[0].what


def test_no_case_left(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    for i in range(6):
        (tmp_path / f"i{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"None of the 6 cases could be read\. The first: i0: .*0 bytes"):
        run(tmp_path, rows)
    assert not (tmp_path / "out").exists()


def test_what_is_left_of_train_must_have_both_tags(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    (tmp_path / "i1.png").unlink()
    with pytest.raises(TableError, match="All 1 rows of train have the tag 0"):
        run(tmp_path, rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"i{i}.png" for i in (0, 2, 3, 4, 5)] + ["t.csv"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: ("r0", "i0.png", 1, "", "P0", "train")}, "All 2 rows of train have the tag 1"),
        ({1: ("r1", "i1.png", 0, "", "P1", "train")}, "All 2 rows of train have the tag 0"),
        ({4: ("r4", "i4.png", 0, "", "P0", "test")}, "The patient 'P0' is in test, and in train"),
        ({1: ("r1", "i1.png", "", "", "P1", "train")}, "row 3: The row has no tag"),
        ({3: ("r3", "i3.png", "", "", "P3", "val")}, "row 5: The row has no tag"),
        ({3: ("r3", "i3.png", 2, "", "P3", "val")}, "row 5: The tag is '2'"),
        ({3: ("r2", "i3.png", 1, "", "P3", "val")}, "row 5: The id 'r2' is used twice"),
        ({3: ("R2", "i3.png", 1, "", "P3", "val")}, "row 5: The id 'R2' is too like 'r2'"),
    ],
)
def test_tables_that_are_refused_leave_nothing(tmp_path: Path, change: dict[int, Row], message: str) -> None:
    rows = pictures(tmp_path)
    for i, row in change.items():
        rows[i] = row
    with pytest.raises(TableError) as caught:
        run(tmp_path, rows)
    assert message in str(caught.value) and not (tmp_path / "out").exists()


def test_one_patient_is_a_warning(tmp_path: Path) -> None:
    rows = [(*row[:4], "P", "train") for row in pictures(tmp_path)]
    summary, prepared = run(tmp_path, rows)
    assert len(prepared) == 6 and summary.exit_code == 0
    assert any("All rows are of one patient" in line["what"] for line in problems(tmp_path))


def test_the_same_pixels_in_two_splits_are_a_leak(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    Image.fromarray(noise(0, (8, 8))).save(tmp_path / "i4.png", compress_level=0)  # other bytes, same pixels
    assert (tmp_path / "i0.png").read_bytes() != (tmp_path / "i4.png").read_bytes()
    with pytest.raises(InputError, match=r"1 slices .* r4 \(test\) and r0 \(train\)"):
        run(tmp_path, rows)
    assert not (tmp_path / "out").exists()


def test_the_same_pixels_in_one_split_are_a_warning(tmp_path: Path) -> None:
    rows = volumes(tmp_path)
    volume(tmp_path / "w.nii", array=noise(0, (8, 6, 5)))
    rows += [(f"w/{k}", "w.nii", k % 2, k, "P9", "train") for k in range(5)]
    summary, prepared = run(tmp_path, rows)
    assert len(prepared) == 20
    (warning,) = summary.warnings
    assert (
        warning.case == "w"
        and "5 slices have the same pixels as others of v0, as w/0 and v0/0" in warning.what
    )


def test_slices_of_one_value_are_no_leak(tmp_path: Path) -> None:
    rows = volumes(tmp_path)
    for i in range(3):
        array = noise(i, (8, 6, 5))
        array[:, :, 0] = 0
        volume(tmp_path / f"v{i}.nii.gz", array=array)
    summary, prepared = run(tmp_path, rows)
    assert summary.warnings == () and (prepared.images[[0, 5, 10]] == -1).all()


def test_a_plane_that_the_table_was_not_made_for(tmp_path: Path) -> None:
    summary, _ = run(tmp_path, volumes(tmp_path), settings=SliceSettings(plane="i", size=8))
    assert len(summary.warnings) == 3
    assert "The 5 rows fit axis k, but the plane has 8 slices" in summary.warnings[0].what


def test_the_result_does_not_depend_on_workers(tmp_path: Path) -> None:
    rows = volumes(tmp_path) + [(*row[:5], row[5], "") for row in pictures(tmp_path)]
    rows = [(*row[:4], f"{row[4]}{i > 14}", row[5]) for i, row in enumerate(rows)]
    (tmp_path / "i3.png").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    one, first = run(tmp_path, rows, workers=1)
    files = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    four, _ = run(
        tmp_path, rows, workers=4, overwrite=True, report=lambda done, total: seen.append((done, total))
    )
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == files
    assert one.fingerprint == four.fingerprint and one.failed == four.failed
    assert seen == [(i, 9) for i in range(1, 10)]
    assert len(first) == 20


def test_sources_are_hashed_by_content(tmp_path: Path) -> None:
    summary, _ = run(tmp_path, volumes(tmp_path))
    record = json.loads((tmp_path / "out" / "fingerprint.json").read_text())
    path = tmp_path / "v1.nii.gz"
    assert record["sources"][str(path)] == hashlib.sha256(path.read_bytes()).hexdigest()
    splits = {row["study"]: row["split"] for row in Prepared.open(tmp_path / "out").index}
    assert record["splits"] == {p: splits[Path(p).name.partition(".")[0]] for p in record["sources"]}
    assert len(record["sources"]) == 3 and record["fingerprint"] == summary.fingerprint
    volume(path, seed=77)
    changed, _ = run(tmp_path, volumes(tmp_path)[:5] + volumes(tmp_path)[10:], overwrite=True)
    assert changed.fingerprint != summary.fingerprint


def test_output_is_not_replaced_unasked(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    run(tmp_path, rows)
    with pytest.raises(InputError, match="holds prepared slices already"):
        run(tmp_path, rows)
    run(tmp_path, rows, overwrite=True)
    with pytest.raises(InputError, match="is no prepared folder"):
        prepare(tmp_path / "t.csv", tmp_path, settings=K, overwrite=True)


def test_memory_does_not_grow_with_cases(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        rows: list[Row] = []
        for i in range(count):
            volume(tmp_path / f"m{i}.nii", seed=i, shape=(64, 64, 16))
            rows += [(f"m{i}/{k}", f"m{i}.nii", k % 2, k, f"P{i}", "train") for k in range(16)]
        table = write(tmp_path / "m.csv", rows)
        settings = SliceSettings(plane="k", size=64)
        tracemalloc.start()
        prepare(table, tmp_path / f"out{count}", settings=settings, workers=2)
        _, high = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return high

    peak(2)  # imports
    small, large = peak(8), peak(40)
    slices = 32 * 16 * 64 * 64 * 4  # bytes that 32 more cases come to
    assert large - small < 0.35 * slices  # their rows and names alone


def test_few_studies_wait_in_memory() -> None:
    started: list[int] = []
    found = in_order(lambda item: started.append(item) or item, range(100), workers=3)
    for item in range(100):
        assert next(found) == item
        assert len(started) <= item + 6  # those asked for, and at most 2 for each worker in all
    assert next(found, None) is None


# masks


def masked(tmp_path: Path) -> list[Row]:
    """Volumes with masks in masks/<split>, where the tag says whether label 2 is there."""
    rows = volumes(tmp_path)
    for i, part in enumerate(("train", "val", "test")):
        array = np.zeros((8, 6, 5), np.uint8)
        array[2:6, 1:5, 3:] = 2
        array[0, 0, 0] = 1
        volume(tmp_path / "masks" / part / f"v{i}.nii.gz", array=array)
    return rows


def test_supervised(tmp_path: Path) -> None:
    settings = SliceSettings(plane="k", size=5)  # smaller than the volume: the mask is resampled too
    plain, _ = run(tmp_path, masked(tmp_path), settings=settings)
    options = {"settings": settings, "supervised": True, "mask_labels": (2,), "overwrite": True}
    summary, prepared = run(tmp_path, masked(tmp_path), **options)
    study = read_study(tmp_path / "v0.nii.gz", id="v0")
    mask = np.asarray(nib.load(tmp_path / "masks/train/v0.nii.gz").dataobj) == 2
    soft = split_map(mask, split(study, settings).grid)
    assert ((soft > 0.5) & (soft < 0.9)).any() and ((soft > 0.1) & (soft < 0.5)).any()
    assert np.array_equal(prepared.open_masks()[:5], soft >= 0.5)
    assert prepared.open_masks().any(axis=(1, 2)).tolist() == [bool(label) for label in prepared.labels]
    assert summary.warnings == () and summary.fingerprint != plain.fingerprint
    record = json.loads((tmp_path / "out" / "fingerprint.json").read_text())
    assert str(tmp_path / "masks/train/v0.nii.gz") in record["sources"]


def test_labels_that_no_mask_holds_are_refused(tmp_path: Path) -> None:
    rows, first = masked(tmp_path), tmp_path / "masks" / "test" / "v2.nii.gz"
    for workers in (1, 2):
        with pytest.raises(InputError) as caught:
            run(tmp_path, rows, supervised=True, mask_labels=(7, 9), workers=workers)
        assert str(caught.value) == (
            f"mask_labels: none of 3 masks holds a label of 7, 9; {first} holds 0, 1, 2. "
            "Name values that the masks have (--mask-labels)."
        )
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))
    run(tmp_path, rows, supervised=True, mask_labels=(2, 7))  # what one of them holds is enough


def test_the_values_of_a_palette_are_not_its_colours(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    for i in range(6):
        mask = Image.new("P", (8, 8), 1)
        mask.putpalette([0, 0, 0, 255, 0, 0])
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"i{i}.png")
    with pytest.raises(InputError, match=r"holds a label of 255; \S*i\d\.png holds 1\. Name values"):
        run(tmp_path, rows, supervised=True, mask_labels=(255,))
    run(tmp_path, rows, supervised=True, mask_labels=(1,))


def test_tags_alone_never_open_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(*row, f"masks/{row[5]}/v{i // 5}.nii.gz") for i, row in enumerate(masked(tmp_path))]
    one, _ = run(tmp_path, rows)

    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("a mask was opened")

    monkeypatch.setattr(tagmask.io, "read_mask", forbidden)
    for path in (tmp_path / "masks").rglob("*.nii.gz"):
        path.unlink()
        path.symlink_to("/nowhere")
    two, prepared = run(tmp_path, rows, overwrite=True)
    assert one.fingerprint == two.fingerprint and one.failed == two.failed == ()
    assert not (tmp_path / "out" / "masks.npy").exists() and not prepared.supervised
    with pytest.raises(InputError, match="None of the 3 cases"):  # and the guard of this test does guard
        run(tmp_path, rows, supervised=True, overwrite=True)


def test_tags_that_disagree_with_masks_are_warnings(tmp_path: Path) -> None:
    summary, _ = run(tmp_path, masked(tmp_path), supervised=True)
    assert summary.exit_code == 0 and len(summary.warnings) == 3
    assert summary.warnings[0].what == "1 slices have tag 0, but their masks are not empty: 0."
    volume(tmp_path / "masks/val/v1.nii.gz", array=np.zeros((8, 6, 5), np.uint8))
    summary, _ = run(tmp_path, masked(tmp_path)[:10], supervised=True, mask_labels=(1,), overwrite=True)
    assert "2 slices have tag 1, but empty masks: 3, 4." in [w.what for w in summary.warnings]


def test_masks_that_were_made_from_tags_are_known_as_such(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = pictures(tmp_path)
    array = np.zeros((8, 8), np.uint8)
    array[2:5, 2:5] = 255
    cases = []
    for i in range(6):
        path = picture(tmp_path / "made" / "masks" / f"i{i}.png", array=array)
        cases.append({"case": f"i{i}", "status": "done", "mask_sha256": sha256(path)})
    manifest = tmp_path / "made" / "manifest.json"
    record = {"format": "tagmask-segmentation", "status": "finished", "reads": "tags", "cases": cases}
    options: dict[str, Any] = {"supervised": True, "masks": tmp_path / "made" / "masks", "overwrite": True}
    for content, found in ((record, "tags"), ({"format": "other"}, "train masks"), ("[", "train masks")):
        manifest.write_text(json.dumps(content) if isinstance(content, dict) else content)
        assert run(tmp_path, rows, **options)[1].masks_read == found
    manifest.write_text(json.dumps({**record, "status": "running"}))
    with pytest.raises(InputError, match="not finished"):
        run(tmp_path, rows, **options)
    # masks that a person drew, named in the table, are not read beside those
    manifest.write_text(json.dumps(record))
    rows = [(*row[:6], "own.png" if row[0] == "r3" else "") for row in rows]
    picture(tmp_path / "own.png", array=array)
    assert run(tmp_path, rows, **options)[1].masks_read == "tags"
    sources = json.loads((tmp_path / "out" / "fingerprint.json").read_text())["sources"]
    assert str(tmp_path / "made" / "masks" / "i3.png") in sources and str(tmp_path / "own.png") not in sources
    # one that a person has corrected in place, or added, makes all of them a person's
    manifest.write_text(json.dumps({**record, "cases": cases[:5]}))
    assert run(tmp_path, rows, **options)[1].masks_read == "train masks"
    manifest.write_text(json.dumps(record))
    picture(tmp_path / "made" / "masks" / "i4.png", array=array.T[::-1])
    assert run(tmp_path, rows, **options)[1].masks_read == "train masks"
    assert (
        "1 of 6 masks" in caplog.text
        and "i4.png for instance, are not as tagmask segment wrote them" in caplog.text
    )
    manifest.write_text(json.dumps({**record, "cases": [{"case": "i0", "status": "done"}]}))
    with pytest.raises(InputError, match="earlier Tagmask, and does not say by SHA-256"):
        run(tmp_path, rows, **options)


def test_a_picture_tagged_0_needs_no_mask(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    tags = [int(row[2]) for row in rows]
    for i, tag in enumerate(tags):
        if tag:
            picture(tmp_path / "some" / f"i{i}.png", array=np.full((8, 8), 255, np.uint8))
    summary, prepared = run(tmp_path, rows, supervised=True, masks=tmp_path / "some")
    assert set(tags) == {0, 1} and not summary.failed
    assert prepared.open_masks().any(axis=(1, 2)).tolist() == [tag == 1 for tag in tags]
    rows[4] = (*rows[4][:2], "", *rows[4][3:])  # without a tag it does
    summary, _ = run(tmp_path, rows, supervised=True, masks=tmp_path / "some", overwrite=True)
    assert [problem.case for problem in summary.failed] == ["i4"]


def test_where_masks_are_looked_for(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    array = np.zeros((8, 8), np.uint8)
    array[2:5, 2:5] = 255
    for i in range(6):
        picture(tmp_path / "elsewhere" / f"i{i}.png", array=array)
    rows[1] = (*rows[1][:6], "own.png")
    own = np.zeros((8, 8), np.uint8)
    own[0, 0] = 255
    picture(tmp_path / "own.png", array=own)
    (tmp_path / "elsewhere" / "i5.png").unlink()
    summary, prepared = run(tmp_path, rows, supervised=True, masks=tmp_path / "elsewhere")
    assert [p.case for p in summary.failed] == ["i5"] and "No mask was found" in summary.failed[0].what
    assert prepared.open_masks().sum(axis=(1, 2)).tolist() == [9] * 5, (
        "the folder that was named goes before the column"
    )
    _, prepared = run(tmp_path, rows, supervised=True, overwrite=True)
    assert prepared.open_masks().sum(axis=(1, 2)).tolist() == [0, 1, 0, 0], "else the column counts"
    # the layout <split>/labels.csv beside masks/<split>, with another suffix
    data = tmp_path / "data"
    for i in range(2):
        volume(data / "train" / "images" / f"v{i}.nii", seed=i)
        volume(data / "masks" / "train" / f"v{i}.nii.gz", array=np.ones((8, 6, 5), np.uint8))
    write(data / "train" / "labels.csv", [(f"v{i}", f"images/v{i}.nii", i) for i in range(2)])
    for name, table in (("a", data), ("b", data / "train" / "labels.csv")):
        prepare(table, tmp_path / name, settings=K, supervised=True)
        assert Prepared.open(tmp_path / name).open_masks().any(axis=(1, 2)).all()


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    rows = masked(tmp_path)
    volume(tmp_path / "masks/val/v1.nii.gz", shape=(8, 6, 4))
    off = nib.Nifti1Image(np.ones((8, 6, 5), np.uint8), np.diag([1.0, 1, 3, 1]))
    nib.save(off, tmp_path / "masks/test/v2.nii.gz")
    summary, _ = run(tmp_path, rows, supervised=True)
    assert [p.case for p in summary.failed] == ["v1", "v2"]
    assert "The mask is 8 x 6 x 4, its image is 8 x 6 x 5" in summary.failed[0].what
    assert "lies elsewhere" in summary.failed[1].what


def test_one_mask_for_two_images(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "masks" / f"i{i}.png")
    picture(tmp_path / "own.png")
    rows = [row if i < 4 else (*row, "own.png") for i, row in enumerate(pictures(tmp_path))]
    summary, prepared = run(tmp_path, rows, supervised=True)
    (failed,) = summary.failed
    assert (failed.case, failed.file) == ("i5", str(tmp_path / "own.png"))
    assert "the mask of both i4 and i5" in failed.what and len(prepared) == 5


def test_settings_at_odds(tmp_path: Path) -> None:
    rows = pictures(tmp_path)
    for options in ({"masks": tmp_path}, {"mask_labels": (1,)}):
        with pytest.raises(ConfigError, match="only a supervised preparation"):
            run(tmp_path, rows, **options)
    with pytest.raises(ConfigError, match="workers = 0"):
        run(tmp_path, rows, workers=0)


# texts


def told(folder: Path, texts: list[str], labels: list[int | str] | None = None) -> Path:
    """Six pictures with a text each, in a table."""
    rows = [
        dict(zip(HEADER, row, strict=False)) | {"text": text}
        for row, text in zip(pictures(folder), texts, strict=True)
    ]
    for row, label in zip(rows, labels or [], strict=False):
        row["label"] = label
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, (*HEADER[:6], "text"), extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "t.csv"


def test_texts_arrive_as_they_are(tmp_path: Path) -> None:
    texts = ["left " * 2000, 'a "quoted", line\nand another', "左肺炎症", "", "bell \x07", "ปอด"]
    summary = prepare(told(tmp_path, texts), tmp_path / "out", settings=K)
    assert Prepared.open(tmp_path / "out").texts == (texts[0].strip(), *texts[1:3], None, *texts[4:])
    assert [count.texts for count in summary.splits.values()] == [2, 1, 2] and summary.warnings == ()
    assert "images with text: 2 of 2 in train, 1 of 2 in val, 2 of 2 in test" in str(summary)


def test_without_texts_nothing_is_said_of_them(tmp_path: Path) -> None:
    summary, prepared = run(tmp_path, pictures(tmp_path))
    assert "with text" not in str(summary) and not (prepared.path / "texts.csv").exists()


def test_a_column_of_nothing_is_doubted(tmp_path: Path) -> None:
    summary = prepare(told(tmp_path, [""] * 6), tmp_path / "out", settings=K)
    assert [warning.what for warning in summary.warnings] == ["The column text is empty in all rows."]
    assert summary.fingerprint == run(tmp_path, pictures(tmp_path), overwrite=True)[0].fingerprint


def test_the_text_of_a_volume_is_that_of_its_slices(tmp_path: Path) -> None:
    lines = ["id,image,label,text,split,slice"]
    for i, part in enumerate(("train", "train", "val")):
        volume(tmp_path / f"v{i}.nii", seed=i)
        lines.append(f"v{i},v{i}.nii,{i % 2},text {i},{part},")
    volume(tmp_path / "v3.nii", seed=3)
    lines += [f"v3_{k},v3.nii,{k % 2},of slice {k},test,{k}" for k in (0, 3)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    prepare(tmp_path / "t.csv", tmp_path / "out", settings=K)
    wanted = [f"text {i}" for i in range(3) for _ in range(5)] + ["of slice 0", "of slice 3"]
    assert list(Prepared.open(tmp_path / "out").texts) == wanted


def test_the_same_pixels_with_two_texts_are_refused(tmp_path: Path) -> None:
    table = told(tmp_path, ["one", "two", "three", "four", "five", "six"])
    picture(tmp_path / "i1.png", seed=0)
    with pytest.raises(
        InputError, match=r"1 slices have the same pixels .* another text: r1 \('two'\) and r0 \('one'\)"
    ):
        prepare(table, tmp_path / "out", settings=K)
    assert not (tmp_path / "out").exists()
    for second in ("one", ""):
        (tmp_path / "t.csv").write_text(table.read_text().replace(",two", f",{second}"))
        summary = prepare(table, tmp_path / "out", settings=K, overwrite=True)
        assert any("same pixels" in warning.what for warning in summary.warnings)
        told(tmp_path, ["one", "two", "three", "four", "five", "six"])
        picture(tmp_path / "i1.png", seed=0)


# tags that are not asked for


@pytest.mark.parametrize("labels", [[1] * 6, [""] * 6, [1, "", 0, 1, "", ""]])
def test_who_has_masks_needs_no_tags(tmp_path: Path, labels: list[int | str]) -> None:
    table = told(tmp_path, ["one", "two", "three", "four", "five", "six"], labels)
    for i in range(6):
        picture(tmp_path / "masks" / f"i{i}.png", array=np.full((8, 8), 255, np.uint8))
    with pytest.raises(TableError, match=r"--untagged"):
        prepare(table, tmp_path / "out", settings=K)
    summary = prepare(table, tmp_path / "out", settings=K, supervised=True)
    assert len(Prepared.open(tmp_path / "out")) == 6 and summary.failed == ()


def test_masks_of_nothing_teach_nothing(tmp_path: Path) -> None:
    table = told(tmp_path, ["one"] * 6, [0] * 6)
    with pytest.raises(TableError, match="All 2 rows of train have the tag 0"):
        prepare(table, tmp_path / "out", settings=K, supervised=True)


@pytest.mark.parametrize("labels", [[0] * 6, [1] * 6, [""] * 6])
def test_who_learns_from_pictures_alone_needs_no_tags(tmp_path: Path, labels: list[int | str]) -> None:
    table = told(tmp_path, ["one", "two", "three", "four", "five", "six"], labels)
    summary = prepare(table, tmp_path / "out", settings=K, untagged=True)
    prepared = Prepared.open(tmp_path / "out")
    assert len(prepared) == 6 and not prepared.supervised and summary.warnings == ()
    assert prepared.labels.tolist() == [-1 if label == "" else label for label in labels]


# real data


def test_real_texts(shared: Path, tmp_path: Path) -> None:
    settings = SliceSettings(size=32, normalise="window", window=(0, 255))
    summary = prepare(shared / "data/monuseg", tmp_path / "out", settings=settings, supervised=True)
    assert [count.texts for count in summary.splits.values()] == [24, 6, 11]
    assert summary.failed == summary.warnings == ()


@pytest.mark.parametrize(
    ("data", "plane", "size", "rows", "prevalence"),
    [("abdomen-mr", "axial", 32, 683, 0.472), ("hippocampus", "sagittal", 48, 7777, 0.623)],
)
def test_real_volumes(
    shared: Path, tmp_path: Path, data: str, plane: Any, size: int, rows: int, prevalence: float
) -> None:
    settings = SliceSettings(plane=plane, size=size)
    summary = prepare(shared / "data" / data, tmp_path / "out", settings=settings, workers=2)
    prepared = Prepared.open(tmp_path / "out")
    assert len(prepared) == rows and summary.failed == summary.warnings == ()
    assert round(summary.splits["train"].prevalence, 3) == prevalence
    assert -1 <= prepared.images.min() < -0.9 and 0.9 < prepared.images.max() <= 1
    if data == "hippocampus":  # what the embedded run learnt from, long before this code
        run_of = json.loads((ROOT / "demo/run/environment.json").read_text())
        assert prepared.fingerprint == run_of["data"]


def test_real_pictures(shared: Path, tmp_path: Path) -> None:
    with (shared / "data/brain-mri/train/labels.csv").open() as file:
        lines = [next(file) for _ in range(120)]
    folder = shared / "data/brain-mri/train"
    (tmp_path / "t.csv").write_text("".join(lines).replace("images/", f"{folder}/images/"))
    summary = prepare(tmp_path / "t.csv", tmp_path / "out", settings=SliceSettings(size=64))
    assert summary.failed == () and summary.drawn == 0
    assert Prepared.open(tmp_path / "out").images.shape == (119, 1, 64, 64)
