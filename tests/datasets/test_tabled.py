"""The sets that come with tables: by name they are what one would have written by hand."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tagmask
from tagmask.data.prepared import Prepared
from tagmask.datasets.settings import DatasetSettings
from tagmask.errors import InputError
from tests.datasets import folders

HAND: dict[str, dict[str, Any]] = {
    "brain-mri": {"size": 64, "normalise": "window", "window": (0.0, 255.0)},
    "abdomen-mr": {"size": 96, "percentiles": (0.5, 99.8)},
    "hippocampus": {"plane": "sagittal", "size": 48},
}
SPLITS = ("train", "val", "test")
ORGANS = ("liver", "kidney_right", "kidney_left", "spleen")


def labels(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def brain_mri(folder: Path) -> Path:
    for p, split in enumerate(SPLITS):
        rows: list[tuple[object, ...]] = []
        for k in range(4):
            name = f"TCGA_CS_{p}_{k}"
            for place, array in (
                (folder / split / "images", np.random.default_rng(9 * p + k).integers(0, 200, (64, 64))),
                (folder / "masks" / split, np.full((64, 64), 255 * (k % 2))),
            ):
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array.astype(np.uint8)).save(place / f"{name}.png")
            rows.append((name, f"images/{name}.png", k % 2, f"TCGA_CS_{p}", k))
        labels(folder / split / "labels.csv", ("id", "image", "label", "patient", "slice"), rows)
    return folder


def abdomen_mr(folder: Path) -> Path:
    for p, split in enumerate(SPLITS):
        name = f"chaos_{p:02d}"
        array = folders.lesion(values=(1, 2, 3, 4))
        folders.save(folder / split / "images" / f"{name}.nii.gz", folders.scan(p), folders.MNI)
        folders.save(folder / "masks" / split / f"{name}.nii.gz", array, folders.MNI)
        shown = [[int((array[..., k] == value).any()) for value in (1, 2, 3, 4)] for k in range(6)]
        rows = [
            (f"{name}_z{k}", f"images/{name}.nii.gz", max(organs[1:3]), k, name, *organs)
            for k, organs in enumerate(shown)
        ]
        labels(
            folder / split / "labels.csv",
            ("id", "image", "label", "slice", "patient", *ORGANS),
            list(rows),
        )
    return folder


def hippocampus(folder: Path) -> Path:
    for p, split in enumerate(SPLITS):
        name = f"hippocampus_{p:03d}"
        array = folders.lesion(values=(1, 2))
        folders.save(folder / split / "images" / f"{name}.nii.gz", folders.scan(p), folders.MNI)
        folders.save(folder / "masks" / split / f"{name}.nii.gz", array, folders.MNI)
        rows = [
            (f"{name}/{i}", f"images/{name}.nii.gz", int(array[i].any()), i, name) for i in range(len(array))
        ]
        labels(folder / split / "labels.csv", ("id", "image", "label", "slice", "patient"), list(rows))
    return folder


BUILD = {"brain-mri": brain_mri, "abdomen-mr": abdomen_mr, "hippocampus": hippocampus}


@pytest.mark.parametrize("name", list(BUILD))
@pytest.mark.parametrize("supervised", [False, True])
def test_by_name_as_by_hand(tmp_path: Path, name: str, supervised: bool) -> None:
    folder = BUILD[name](tmp_path / "in")
    hand = {"mask_labels": (2, 3)} if supervised and name == "abdomen-mr" else {}
    settings = tagmask.SliceSettings(**HAND[name])
    one = tagmask.prepare(folder, tmp_path / "hand", settings=settings, supervised=supervised, **hand)
    two = tagmask.prepare(folder, tmp_path / "name", dataset=name, supervised=supervised)
    assert one.fingerprint == two.fingerprint and two.failed == () == two.warnings
    first, second = Prepared.open(tmp_path / "hand"), Prepared.open(tmp_path / "name")
    assert np.array_equal(first.images, second.images) and not (tmp_path / "name" / "tables").exists()
    assert not supervised or np.array_equal(first.open_masks(), second.open_masks())


def test_another_organ(tmp_path: Path) -> None:
    folder = abdomen_mr(tmp_path / "in")
    liver = DatasetSettings("abdomen-mr", target="liver")
    tagmask.prepare(folder, tmp_path / "out", dataset=liver, supervised=True)
    prepared = Prepared.open(tmp_path / "out")
    assert prepared.tag == "liver"
    assert prepared.open_masks().any(axis=(1, 2)).tolist() == [bool(label) for label in prepared.labels]


def test_a_preset_of_slices_comes_before_the_sets_own(tmp_path: Path) -> None:
    folder = abdomen_mr(tmp_path / "in")
    tagmask.prepare(folder, tmp_path / "out", dataset="abdomen-mr", preset="cdm-chaos")
    assert Prepared.open(tmp_path / "out").settings == tagmask.SliceSettings(size=128, percentiles=(0, 100))


def test_they_are_told_apart(tmp_path: Path) -> None:
    folder = hippocampus(tmp_path / "in")
    with pytest.raises(InputError, match=r"looks like hippocampus \(MSD Task04\), not like brain-mri"):
        tagmask.prepare(folder, tmp_path / "out", dataset="brain-mri")
    with pytest.raises(InputError, match=r"looked for train/labels\.csv and train/images/TCGA_\*"):
        tagmask.prepare(tmp_path, tmp_path / "out", dataset="brain-mri")
