"""Tiny data sets in the layouts of the real ones: made here, so that what is in them is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from openpyxl import Workbook
from PIL import Image

from tests.io.files import save_dicom, slice_dataset

SHAPE = (8, 10, 6)
_PLAIN = {"RescaleSlope": 1, "RescaleIntercept": 0, "PixelSpacing": [1, 1]}
LESION = (2, 3)
"""The slices that show the target."""
BRATS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
MNI = np.array([[1.0, 0, 0, -98], [0, 1, 0, -134], [0, 0, 1, -72], [0, 0, 0, 1]])
OLD = {"flair": "_flair", "t1": "_t1", "t1ce": "_t1ce", "t2": "_t2", "seg": "_seg"}
NEW = {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "seg": "-seg"}
BRATS: dict[str, tuple[str, dict[str, str], str]] = {
    "BraTS 2020": ("BraTS20_Training_{:03d}", OLD, ".nii"),
    "BraTS 2021": ("BraTS2021_{:05d}", OLD, ".nii.gz"),
    "BraTS 2023": ("BraTS-GLI-{:05d}-000", NEW, ".nii.gz"),
}


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def scan(seed: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """A skull-stripped head: air in the first and last slice, and at the border of the others."""
    array = np.zeros(shape, np.int16)
    inner = (slice(1, -1), slice(1, -1), slice(1, -1))
    array[inner] = np.random.default_rng(seed).integers(50, 900, array[inner].shape)
    return array


def lesion(shape: tuple[int, ...] = SHAPE, values: tuple[int, ...] = (1, 2, 4)) -> np.ndarray:
    """Labels in the slices LESION, one pixel in one of them."""
    array = np.zeros(shape, np.uint8)
    array[2:5, 3:6, LESION[0]] = np.resize(values, (3, 3))
    array[4, 4, LESION[1]] = values[0]
    return array


def brats_case(folder: Path, release: str, number: int, seed: int | None = None) -> Path:
    """One case; give its folder."""
    name, ends, suffix = BRATS[release]
    case = folder / name.format(number)
    for i, (part, end) in enumerate(ends.items()):
        array = lesion() if part == "seg" else scan(100 * (number if seed is None else seed) + i)
        save(case / f"{case.name}{end}{suffix}", array, BRATS_AFFINE)
    return case


def brats(folder: Path, release: str = "BraTS 2021", count: int = 6) -> Path:
    for number in range(count):
        brats_case(folder, release, number)
    return folder


def atlas(folder: Path, count: int = 6, part: str = "Training") -> Path:
    """In folder/ATLAS_2, as it is unpacked."""
    for number in range(count):
        subject = f"sub-r{1 + number % 2:03d}s{number:03d}"
        stem = f"{subject}_ses-1_space-MNI152NLin2009aSym"
        anat = folder / "ATLAS_2" / part / subject[4:8].upper() / subject / "ses-1" / "anat"
        save(anat / f"{stem}_T1w.nii.gz", scan(number + 10 * (part == "Testing")), MNI)
        if part == "Training":
            mask = lesion(values=(1,))
            save(anat / f"{stem}_label-L_desc-T1lesion_mask.nii.gz", mask, MNI)
    return folder


def organs(number: int, slices: int = 5, rows: int = 6, columns: int = 9) -> np.ndarray:
    """(slices, rows, columns) labels of CHAOS, no two slices alike and none symmetric; the first is empty.

    Slice k has k + 1 pixels of the right kidney and k of the left. The liver spells the number in bits.
    """
    labels = np.zeros((slices, rows, columns), np.uint8)
    for k in range(1, slices):
        labels[k, 0, : k + 1] = 126
        labels[k, 1 : 1 + k, number % 4] = 189
        labels[k, rows - 1] = [63 * (number >> bit & 1) for bit in range(columns)]
        labels[k, 1, columns - 1] = 252
    return labels


def chaos_case(
    folder: Path,
    number: int,
    labels: np.ndarray,
    *,
    names: list[str] | None = None,
    pictures: list[str] | None = None,
    **fields: Any,
) -> Path:
    """One volume whose image is its own labels, so that a mask that lies wrongly shows.

    Slice k lies at height 7 k. Its DICOM file is names[k], its picture pictures[k]; by default both names fall
    as the height rises.
    """
    home = folder / "Train_Sets" / "MR" / str(number) / "T2SPIR"
    (home / "DICOM_anon").mkdir(parents=True)
    (home / "Ground").mkdir()
    names = names or [f"IMG-{number:04d}-{len(labels) - k:05d}" for k in range(len(labels))]
    for k, (label, name, picture) in enumerate(zip(labels, names, pictures or names, strict=True)):
        data = slice_dataset(label + np.uint16(number), 7.0 * k, **{**_PLAIN, **fields})
        save_dicom(home / "DICOM_anon" / f"{name}.dcm", data)
        Image.fromarray(label).save(home / "Ground" / f"{picture}.png")
    return home


def chaos(folder: Path, numbers: tuple[int, ...] = (1, 2, 13, 20)) -> Path:
    for number in numbers:
        chaos_case(folder, number, organs(number))
    return folder


Rows = Sequence[Sequence[object]]


def write_sheet(path: Path, rows: Rows, *others: Rows, cells: Mapping[str, str] | None = None) -> Path:
    """An .xlsx with these rows in its first sheet, then single cells; and more sheets."""
    book = Workbook()
    for i, content in enumerate((rows, *others)):
        sheet = book.worksheets[0] if i == 0 else book.create_sheet()
        for row in content:
            sheet.append(list(row))
    for place, value in (cells or {}).items():
        book.worksheets[0][place] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(path)
    return path


TEXTS = {
    "train": ("The nuclei are evenly distributed.", "The nuclei density in the upper left is high."),
    "val": ("The nuclei are sparsely distributed.",),
    "test": ("The nuclei density in the lower right is high.", "The nuclei are evenly distributed."),
}


def lvit(
    folder: Path,
    name: str = "TCGA-18-559{}-01Z-00-DX1",
    *,
    suffix: str = ".png",
    mask: str = "{}.png",
    columns: tuple[str, str] = ("Image", "Description"),
    colour: bool = True,
) -> Path:
    """A set in LViT's layout, of five pictures numbered from 0; `mask` names a mask after its picture's stem."""
    number = 0
    for split, texts in TEXTS.items():
        home, rows = folder / f"{split.capitalize()}_Folder", []
        for text in texts:
            stem, rng = name.format(number), np.random.default_rng(number)
            picture = rng.integers(0, 256, (8, 8, 3) if colour else (8, 8)).astype(np.uint8)
            truth = np.zeros((8, 8), np.uint8)
            truth[number, :4] = 255
            for part, file, array in (
                ("img", stem + suffix, picture),
                ("labelcol", mask.format(stem), truth),
            ):
                (home / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(home / part / file)
            fields = {"Image": mask.format(stem), "Description": text}
            rows.append(tuple(fields.get(column, "") for column in columns))
            number += 1
        write_sheet(home / f"{split.capitalize()}_text.xlsx", [columns, *rows])
    return folder
