"""Which result belongs to which truth, in every layout that is accepted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmask.data.sources import mask_paths
from tagmask.data.table import by_study, read_table
from tagmask.errors import ConfigError, InputError, TableError
from tagmask.scoring.results import open_results
from tagmask.scoring.truth import picture_positions, slice_info, truth_cases


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def data(root: Path) -> Path:
    for split in ("train", "test"):
        for k in range(2):
            picture(root / split / "images" / f"{split}{k}.png")
            picture(root / "masks" / split / f"{split}{k}.png")
        rows = "".join(f"{split}{k},images/{split}{k}.png,{k},p,{k + 3}\n" for k in range(2))
        text(root / split / "labels.csv", "id,image,label,patient,slice\n" + rows)
    return root


def test_a_data_folder_and_one_split_of_it(tmp_path: Path) -> None:
    root = data(tmp_path / "data")
    for truth in (root / "test", root / "test" / "labels.csv"):
        found = truth_cases(truth)
        assert list(found) == ["test0", "test1"]
        assert found["test1"].mask.resolve() == (root / "masks" / "test" / "test1.png").resolve()
        assert found["test1"].rows[0].label == 1 and found["test1"].images[0].name == "test1.png"
    assert set(truth_cases(root)) == {"train0", "train1", "test0", "test1"}


@pytest.mark.parametrize("where", ["masks", "masks/test", "../masks/d"])
def test_masks_are_looked_for_where_prepare_looks(where: str, tmp_path: Path) -> None:
    root = tmp_path / "d"
    rows = "".join(f"{i},{i}.png,{int(i == 'a')},test\n" for i in "ab")
    table = text(root / "labels.csv", "id,image,label,split\n" + rows)
    for name in "ab":
        picture(root / f"{name}.png")
    mask = picture(root / where / "a.png")
    picture(root / "masks" / "train" / "b.png")  # of another split
    for truth in (root, table):
        found = truth_cases(truth)
        assert {i: case.mask.resolve() for i, case in found.items()} == {"a": mask.resolve()}
    prepared = mask_paths(by_study(read_table(root)), None)
    assert isinstance(prepared["a"], Path) and prepared["a"].resolve() == mask.resolve()


def test_a_table_that_names_its_masks(tmp_path: Path) -> None:
    picture(tmp_path / "m" / "other_name.png")
    table = text(tmp_path / "t.csv", "id,image,label,mask\nx,x.png,1,m/other_name.png\ny,y.png,0,\n")
    found = truth_cases(table)
    assert list(found) == ["x"] and found["x"].mask.name == "other_name.png"


def test_a_folder_of_masks_with_and_without_a_table(tmp_path: Path) -> None:
    root = data(tmp_path / "data")
    plain = truth_cases(root / "masks" / "test")
    assert plain["test0"].rows == () and plain["test0"].images == ()
    told = truth_cases(root / "masks" / "test", root / "test" / "labels.csv")
    assert [r.label for r in told["test1"].rows] == [1]


def test_another_column_can_be_the_tag(tmp_path: Path) -> None:
    picture(tmp_path / "m.png")
    table = text(tmp_path / "t.csv", "id,image,label,liver,mask\nx,x.png,1,0,m.png\n")
    assert truth_cases(table, tag="liver")["x"].rows[0].label == 0


def test_two_files_of_one_case_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.png.*a\.tif|a\.tif.*a\.png"):
        truth_cases(tmp_path)


def test_a_table_without_masks_is_refused(tmp_path: Path) -> None:
    table = text(tmp_path / "t.csv", "id,image,label\nx,x.png,1\n")
    with pytest.raises(InputError, match="no masks"):
        truth_cases(table)


def results(root: Path, lines: str, manifest: dict[str, object]) -> Path:
    picture(root / "masks" / "test0.png")
    text(root / "slices.csv", "id,case,slice,patient,tag,tag_source,score,threshold,mask_pixels\n" + lines)
    text(root / "manifest.json", json.dumps(manifest))
    return root


def test_tags_come_from_the_table_then_from_what_was_given(tmp_path: Path) -> None:
    root, line = data(tmp_path / "data"), "test0/0,test0,0,q,1,given,0.75,0.5,3\n"
    found = open_results(results(tmp_path / "r", line, {"method": "cdm", "reads": "tags"}))
    told, plain = (truth_cases(p)["test0"] for p in (root / "test", root / "masks" / "test"))
    assert found.title == "cdm" and found.reads == "tags, tags of these slices"
    (info,) = slice_info(told, found, 1)
    assert info is not None and (info.patient, info.tag, info.tag_source, info.score) == (
        "p",
        0,
        "table",
        0.75,
    )
    (info,) = slice_info(plain, found, 1)
    assert info is not None and (info.patient, info.tag, info.tag_source) == ("q", 1, "slices.csv")
    (info,) = slice_info(plain, None, 1)
    assert info is not None and (info.patient, info.tag, info.tag_source) == ("test0", None, "none")


def test_masks_without_a_manifest_are_not_said_to_have_read_tags_alone(tmp_path: Path) -> None:
    picture(tmp_path / "masks" / "test0.png")
    assert open_results(tmp_path / "masks").reads == "unknown"


def test_a_table_beside_a_truth_that_has_one_is_refused(tmp_path: Path) -> None:
    root = data(tmp_path / "data")
    with pytest.raises(ConfigError, match="would not be read"):
        truth_cases(root / "test", root / "test" / "labels.csv")


def test_the_manifest_names_images_that_are_still_there(tmp_path: Path) -> None:
    image = picture(tmp_path / "i.png")
    inputs = {"test0": [str(image)], "gone": ["/nowhere/x.png"]}
    found = open_results(results(tmp_path / "r", "", {"inputs": inputs}))
    assert found.images("test0") == (image,) and found.images("gone") == found.images("never") == ()
    assert found.title == "r" and found.reads == "unknown"


def test_where_image_level_scores_come_from(tmp_path: Path) -> None:
    root = results(tmp_path / "r", "test0/0,test0,0,q,,none,0.75,0.5,3\n", {})
    assert open_results(root).score_source(["test0"]) == "slices.csv"
    text(root / "slices.csv", "id,case,slice,score\ntest0/0,test0,0,\n")
    assert open_results(root).score_source(["test0"]) == "area of the mask"
    picture(root / "scores" / "test0.tif")
    assert open_results(root).score_source(["test0"]) == "maximum of the score map"


def test_pictures_are_placed_among_their_patients(tmp_path: Path) -> None:
    found = truth_cases(data(tmp_path / "data") / "test")
    assert picture_positions(found, None) == {"test0": 0.0, "test1": 1.0}


def test_results_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        open_results(tmp_path / "no")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        open_results(tmp_path / "empty")
    with pytest.raises(TableError, match="case and slice"):
        open_results(text(results(tmp_path / "r", "", {}) / "slices.csv", "a,b\n1,2\n").parent)
