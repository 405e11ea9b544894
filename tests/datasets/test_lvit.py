from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tagmask
from tagmask.data.prepared import Prepared
from tagmask.data.table import read_table
from tagmask.datasets.settings import DatasetSettings
from tagmask.errors import ConfigError, InputError, TableError
from tagmask.jobs.prepare import PrepareSummary
from tagmask.slices import SliceSettings
from tests.datasets.folders import TEXTS, lvit, write_sheet

ALL = tuple(text for texts in TEXTS.values() for text in texts)
SMALL = SliceSettings(size=8, normalise="window", window=(0, 255))
QATA = {"name": "sub-S0{}_ses-E1_run-1", "mask": "mask_{}.png", "colour": False}
HEADER = ("Image", "Description")


def run(folder: Path, name: str = "monuseg", **options: Any) -> tuple[PrepareSummary, Prepared]:
    out = folder.parent / "out"
    options = {"settings": SMALL, "supervised": True, "overwrite": True} | options
    return tagmask.prepare(folder, out, dataset=name, **options), Prepared.open(out)


def table(folder: Path, split: str, rows: Sequence[Sequence[object]]) -> Path:
    part = split.capitalize()
    return write_sheet(folder / f"{part}_Folder" / f"{part}_text.xlsx", [HEADER, *rows])


def image(number: int) -> str:
    return f"TCGA-18-559{number}-01Z-00-DX1.png"


def warned(summary: PrepareSummary) -> list[str]:
    return [warning.what for warning in summary.warnings]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("monuseg", {}),
        ("monuseg", {"suffix": ".tif"}),  # the picture is a TIFF, its mask and the table say .png
        ("monuseg", {"columns": HEADER[::-1]}),
        ("qata-cov19", QATA),
        ("mosmeddata", {"name": "Morozov_study_0{}_7", "colour": False}),
    ],
)
def test_each_picture_has_its_text_and_its_mask(tmp_path: Path, name: str, shape: dict[str, Any]) -> None:
    summary, prepared = run(lvit(tmp_path / "in", **shape), name)
    assert prepared.texts == ALL
    assert [row["split"] for row in prepared.index] == ["train", "train", "val", "test", "test"]
    assert prepared.images.shape == (5, 3 if shape.get("colour", True) else 1, 8, 8)
    assert [np.flatnonzero(mask.any(axis=1)).tolist() for mask in prepared.open_masks()] == [
        [i] for i in range(5)
    ]
    assert summary.failed == summary.warnings == () and summary.drawn is None
    assert "images with text: 2 of 2 in train, 1 of 1 in val, 2 of 2 in test" in str(summary)
    assert json.loads((prepared.path / "settings.json").read_text())["origin"]["dataset"] == name


def test_its_slices_are_the_papers(tmp_path: Path) -> None:
    _, prepared = run(lvit(tmp_path / "in"), settings=None)
    assert prepared.settings == SliceSettings(size=256, normalise="window", window=(0, 255))


def test_its_tables_serve_the_other_commands(tmp_path: Path) -> None:
    _, prepared = run(lvit(tmp_path / "in"))
    (first, second) = read_table(prepared.path / "tables" / "test")
    assert (first.text, second.text) == TEXTS["test"] and first.patient == "TCGA-18-5593"
    assert first.mask is not None and first.mask.is_file() and first.images[0].is_file() and first.label == 1


def test_no_mask_is_opened_unasked(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in")
    for mask in folder.glob("*/labelcol/*"):
        mask.write_bytes(b"unreadable")
    with pytest.raises(TableError, match=r"nothing to learn.*--supervised.*--untagged"):
        run(folder, supervised=False)
    summary, prepared = run(folder, supervised=False, untagged=True)
    assert len(prepared) == 5 and prepared.texts == ALL and not prepared.supervised
    assert summary.failed == summary.warnings == ()


def test_one_table_for_two_splits(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in" / "Covid19", **QATA)
    rows = []
    for split in ("train", "val"):
        home = folder / f"{split.capitalize()}_Folder"
        (home / f"{split.capitalize()}_text.xlsx").unlink()
        rows += [
            (mask.name, text)
            for mask, text in zip(sorted(home.glob("labelcol/*")), TEXTS[split], strict=True)
        ]
    for place in ("Train_Folder", "."):
        path = write_sheet(folder / place / "Train_Val_text.xlsx", [HEADER, *rows])
        summary, prepared = run(tmp_path / "in", "qata-cov19")
        assert prepared.texts == ALL and summary.warnings == ()
        path.unlink()


def test_descriptions_of_no_picture_and_pictures_without_description(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in")
    table(folder, "train", [("TCGA-XX.png", "Of another."), (image(1), TEXTS["train"][1]), ("", "Of none.")])
    table(folder, "test", [(image(3), ""), (image(4), TEXTS["test"][1])])
    summary, prepared = run(folder)
    assert prepared.texts == (None, ALL[1], ALL[2], None, ALL[4]) and summary.failed == ()
    assert warned(summary) == [
        "2 descriptions are of no picture here: TCGA-XX.png, row 4.",
        f"1 pictures have no description: {image(0)}.",
        f"1 pictures have no description: {image(3)}.",
    ]
    assert "1 of 2 in train" in str(summary)


def test_the_table_of_other_pictures_is_refused(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in")
    shutil.copy(folder / "Test_Folder/Test_text.xlsx", folder / "Val_Folder/Val_text.xlsx")
    with pytest.raises(
        InputError, match=rf"Val_text.*None of its 2 descriptions is of a picture.*{image(3)}"
    ):
        run(folder)
    table(folder, "val", [])
    with pytest.raises(InputError, match="None of its 0 descriptions"):
        run(folder)


def test_two_descriptions_of_one_picture_are_refused(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in")
    rows = [(image(0), ALL[0]), (image(1), ALL[1]), (image(0), ALL[0])]
    table(folder, "train", rows)
    assert run(folder)[1].texts == ALL  # the same one twice is one
    table(folder, "train", [*rows, (image(0), "Another.")])
    with pytest.raises(
        TableError, match=rf"Train_text\.xlsx, row 5: {image(0)} has two descriptions, also in row 2"
    ):
        run(folder)
    table(folder, "train", [(image(0), ALL[0]), (f"mask_{image(0)}", "Another.")])
    with pytest.raises(TableError, match="two descriptions"):
        run(folder)


def test_a_missing_column_and_a_missing_table(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in", columns=("Image", "Text"))
    with pytest.raises(TableError, match="no column 'Description'"):
        run(folder)
    for path in folder.glob("*/*.xlsx"):
        path.unlink()
    summary, prepared = run(folder)
    assert prepared.texts == (None,) * 5 and not (prepared.path / "texts.csv").exists()
    assert (
        warned(summary)[0] == "There are no texts for train: no Train_text.xlsx."
        and len(warned(summary)) == 3
    )


def test_a_picture_without_mask_is_left_out_where_masks_are_asked_for(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in")
    (folder / "Train_Folder" / "labelcol" / image(1)).unlink()
    summary, prepared = run(folder)
    assert [row["id"] for row in prepared.index] == [image(i)[:-4] for i in (0, 2, 3, 4)]
    assert summary.exit_code == 2 and "No mask was found" in summary.failed[0].what
    assert prepared.texts == (ALL[0], *ALL[2:])


def test_a_person_in_two_of_the_published_splits_is_told(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in", "sub-S1_ses-E{}", mask="mask_{}.png")
    summary, prepared = run(folder, "qata-cov19")
    assert len(prepared) == 5 and {row["patient"] for row in prepared.index} == {
        f"sub-S1_ses-E{i}" for i in range(5)
    }
    assert warned(summary) and warned(summary)[0].startswith(
        "1 persons are in two splits, as sub-S1: the published"
    )


def test_the_same_picture_under_two_names(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in")
    home = folder / "Train_Folder" / "img"
    shutil.copy(home / image(0), home / image(1))
    with pytest.raises(
        InputError, match=r"1 slices have the same pixels as others, but another text: .*evenly"
    ):
        run(folder)
    shutil.copy(home / image(0), home / image(0).replace(".png", ".tif"))
    with pytest.raises(InputError, match="is there twice"):
        run(folder)


def test_sets_are_told_apart(tmp_path: Path) -> None:
    folder = lvit(tmp_path / "in" / "MoNuSeg")
    with pytest.raises(InputError, match=r"looks like MoNuSeg, with LViT's texts, not like QaTa-COV19"):
        run(folder, "qata-cov19")
    with pytest.raises(
        InputError, match=r"No case of MosMedData\+ was found; looked for \{Train,Val,Test\}_Folder"
    ):
        run(tmp_path / "in" / "MoNuSeg" / "Train_Folder" / "img", "mosmeddata")
    with pytest.raises(InputError, match=r"looks like MoNuSeg, with LViT's texts\. Use --dataset monuseg"):
        tagmask.prepare(tmp_path / "in", tmp_path / "out", supervised=True)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        tagmask.prepare(tmp_path / "none", tmp_path / "out")
    lvit(tmp_path / "in" / "Covid19", **QATA)
    assert run(tmp_path / "in")[1].texts == run(tmp_path / "in", "qata-cov19")[1].texts == ALL
    lvit(tmp_path / "in" / "again")
    with pytest.raises(InputError, match="is there 2 times"):
        run(tmp_path / "in")


def test_settings_it_has_no_use_for() -> None:
    with pytest.raises(ConfigError, match="comes with its own tags and splits"):
        DatasetSettings("monuseg", splits="drawn")
    with pytest.raises(ConfigError, match="monuseg has nuclei"):
        DatasetSettings("monuseg", target="tumour")


def test_another_tag_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="monuseg has no column 'liver'"):
        run(lvit(tmp_path / "in"), tag="liver")


def test_the_real_sentences_put_back_into_the_layout(shared: Path, tmp_path: Path) -> None:
    """Five real pictures, the table in front of them as LViT has it."""
    source, home = shared / "data" / "monuseg", tmp_path / "in" / "Train_Folder"
    with (source / "train" / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[:5]
    for row in rows:
        for part, path in (
            ("img", source / "train" / row["image"]),
            ("labelcol", source / "masks/train" / f"{row['id']}.png"),
        ):
            (home / part).mkdir(parents=True, exist_ok=True)
            Image.open(path).resize((16, 16)).save(home / part / path.name)
    write_sheet(
        home / "Train_text.xlsx", [HEADER, *((f"{row['id']}.png", row["text"]) for row in reversed(rows))]
    )
    summary, prepared = run(tmp_path / "in", settings=SliceSettings(size=16))
    assert dict(zip((row["id"] for row in prepared.index), prepared.texts, strict=True)) == {
        row["id"]: row["text"] for row in rows
    }
    assert {row["patient"] for row in prepared.index} == {
        row["patient"] for row in rows
    } and summary.failed == ()
