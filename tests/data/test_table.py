from __future__ import annotations

from pathlib import Path

import pytest

from tagmask.data.table import by_study, read_inputs, read_table
from tagmask.errors import InputError, TableError


def write(path: Path, *lines: str, header: str = "id,image,label,slice,patient,split,mask,text") -> Path:
    """Write a table; rows are filled up with empty fields."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width = header.count(",")
    path.write_text("\n".join([header, *(row + "," * (width - row.count(",")) for row in lines)]) + "\n")
    return path


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_every_column_is_read(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv",
        "a0,v/a.nii.gz;w/b.nii.gz,1,7,P1,train,m/a.png,dark",
        "b,/abs/b.png,,,,,,",
        "c,c.png,0.0,3.0",
    )
    a, b, c = read_table(table)
    assert (a.id, a.study, a.slice, a.label, a.patient) == ("a0", "a", 7, 1, "P1")
    assert (a.text, a.split, a.row, a.source) == ("dark", "train", 2, table)
    assert a.images == (tmp_path / "v/a.nii.gz", tmp_path / "w/b.nii.gz") and a.mask == tmp_path / "m/a.png"
    assert b.images == (Path("/abs/b.png"),)
    assert (b.slice, b.label, b.patient, b.text, b.split, b.mask) == (None, None, "b", None, None, None)
    assert (c.slice, c.label, c.row) == (3, 0, 4)


def test_unknown_columns_and_another_tag(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,a.png,0,1,3.5", header="id,image,label,liver,age")
    assert [c.label for c in read_table(table)] == [0]
    assert [c.label for c in read_table(table, tag="liver")] == [1]
    with pytest.raises(TableError, match="no column 'lver'"):
        read_table(table, tag="lver")


def test_a_table_without_tags_is_read(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "t.csv", "a,a.png", header="id,image"))[0].label is None


@pytest.mark.parametrize("tag", ["2", "-1", "yes", "0.5", "True", "nan", "01"])
def test_a_tag_is_0_or_1(tmp_path: Path, tag: str) -> None:
    table = write(tmp_path / "t.csv", "a,a.png,1", f"b,b.png,{tag}")
    with pytest.raises(TableError, match=rf"row 3: The tag is '{tag}' \(column label\)"):
        read_table(table)


@pytest.mark.parametrize("index", ["first", "-1", "1.5", "1e2", "٣", "12345678901"])
def test_a_slice_is_an_index(tmp_path: Path, index: str) -> None:
    with pytest.raises(TableError, match=f"row 2: The slice is '{index}'"):
        read_table(write(tmp_path / "t.csv", f"a,a.nii,1,{index}"))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a,a.png,1", "a,b.png,0", "row 3: The id 'a' is used twice (TABLE, row 2)"),
        ("Case,a.png,1", "case,b.png,0", "row 3: The id 'case' is too like 'Case' (TABLE, row 2)"),
        ("\u00e9,a.png,1", "e\u0301,b.png,0", "is too like"),
        ("a,a.png,1", ",b.png,0", "row 3: The id is empty"),
        ("a,a.png,1", "b,,0", "row 3: The image is empty"),
        ("a,a.png,1", "b, ; ,0", "row 3: The image is empty"),
        ("a,v.nii,1,0,P", "b,v.nii,0,1,Q", "row 3: The patient differs"),
        ("a,v.nii,1,0,P,train", "b,v.nii,0,1,P,test", "row 3: The split differs"),
        ("a,v.nii,1,0,P,,m.nii", "b,v.nii,0,1,P,,n.nii", "row 3: The mask differs"),
        ("a,v.nii,1,0", "b,v.nii;w.nii,0,1", "row 3: The images differs"),
        ("a,v.nii,1,4", "b,v.nii,0,4", "row 3: The row is about slice 4 of v, as another row is"),
        ("a,v.nii,1", "b,v.nii,0", "row 3: The row is about the whole image of v"),
        ("a,v.nii,1,4", "b,v.nii,0", "row 3: The row is about the whole image of v"),
        ("a,v.nii,1", "b,v.nii,0,0", "row 3: The row is about slice 0 of v"),
        ("a,Scan.png,1", "b,scan.png,0", "too like"),
    ],
)
def test_rows_that_contradict(tmp_path: Path, first: str, second: str, message: str) -> None:
    table = write(tmp_path / "t.csv", first, second)
    with pytest.raises(TableError) as caught:
        read_table(table)
    assert message.replace("TABLE", str(table)) in str(caught.value) and caught.value.repair


def test_two_files_of_one_name_are_kept_apart(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv",
        "a,p1/scan.nii.gz,1",
        "b,p2/scan.nii.gz,0",
        "c,p3/other.png,0",
        "d,../out/x.png,0",
        "e,x.png,0",
        "f,p4/y.png,0",
        "g,p4/y.nii,0",
    )
    # The path below the table, and the suffix only where that is needed too.
    names = ["p1_scan", "p2_scan", "other", "out_x", "x", "p4_y.png", "p4_y.nii"]
    assert [case.study for case in read_table(table)] == names


def test_a_hidden_image_gets_a_name_that_is_seen(tmp_path: Path) -> None:
    touch(tmp_path / ".p.png")
    assert [(c.id, c.study) for c in read_inputs(tmp_path / ".p.png")] == [("p", "p")]
    assert [c.study for c in read_table(write(tmp_path / "t.csv", "a,.p.png,1"))] == ["p"]
    with pytest.raises(TableError, match=r"row 3: The images differs from that of .*, row 2"):
        read_table(write(tmp_path / "t.csv", "a,.p.png,1", "b,p.png,0"))


def test_the_folder_of_the_table_is_called_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "series"
    write(home / "t.csv", "a,.,1", "b,other/x.nii,0")
    monkeypatch.chdir(home)
    for table in (home / "t.csv", "t.csv"):
        assert [c.study for c in read_table(table)] == ["series", "x"]
    write(home / "t.csv", "a,.,1", "b,other/series,0")
    monkeypatch.chdir(tmp_path)
    assert [c.study for c in read_table("series/t.csv")] == ["series", "other_series"]


def test_rows_of_a_volume_share_a_study(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "a,v.nii,1,0", "b,w.nii,1,0", "c,v.nii,0,1")
    groups = by_study(read_table(table))
    assert {study: [case.id for case in rows] for study, rows in groups.items()} == {
        "v": ["a", "c"],
        "w": ["b"],
    }


def test_a_folder_of_split_tables(tmp_path: Path) -> None:
    write(tmp_path / "train" / "labels.csv", "a,images/a.png,1")
    write(tmp_path / "val" / "labels.csv", "b,images/b.png,0,,,val")
    cases = read_table(tmp_path)
    assert [(c.id, c.split) for c in cases] == [("a", "train"), ("b", "val")]
    assert cases[0].images == (tmp_path / "train/images/a.png",)
    write(tmp_path / "test" / "labels.csv", "A,images/c.png,0")
    with pytest.raises(TableError, match="too like 'A'"):  # ids are unique over all tables
        read_table(tmp_path)
    write(tmp_path / "test" / "labels.csv", "c,images/c.png,0,,,train")
    with pytest.raises(
        TableError, match="row 2: The split is 'train', but the table lies in the folder 'test'"
    ):
        read_table(tmp_path)


def test_a_folder_with_one_table(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "a,a.png,1")
    assert [(c.id, c.split) for c in read_table(tmp_path)] == [("a", None)]


def test_folders_of_images(tmp_path: Path) -> None:
    touch(tmp_path / "one" / "b.nii.gz", tmp_path / "one" / "a.png", tmp_path / "one" / ".hidden.png")
    found = read_table(tmp_path / "one")
    assert [(c.id, c.study, c.patient, c.label, c.slice) for c in found] == [
        ("a", "a", "a", None, None),
        ("b", "b", "b", None, None),
    ]
    two = tmp_path / "two"
    touch(two / "train" / "images" / "a.png", two / "test" / "a.png")
    assert [(c.study, c.split) for c in read_table(two)] == [("train_images_a", "train"), ("test_a", "test")]
    with pytest.raises(InputError):
        read_table(tmp_path / "none")


def test_inputs_may_be_single_images(tmp_path: Path) -> None:
    touch(tmp_path / "scan.nii.gz")
    (case,) = read_inputs(tmp_path / "scan.nii.gz")
    assert (case.id, case.study, case.images) == ("scan", "scan", (tmp_path / "scan.nii.gz",))
    assert case.where == str(tmp_path / "scan.nii.gz")
    with pytest.raises(InputError, match="no such file or folder"):
        read_inputs(tmp_path / "nothing.nii.gz")
    table = write(tmp_path / "t.csv", "a,scan.nii.gz,1")
    assert [c.label for c in read_inputs(table)] == [1]
    assert [c.study for c in read_inputs(tmp_path)] == ["scan"]


@pytest.mark.parametrize(
    ("data", "rows", "studies", "present"),
    [("brain-mri", 3389, 3389, 1281), ("abdomen-mr", 683, 19, 308), ("hippocampus", 7777, 220, 4842)],
)
def test_real_tables(shared: Path, data: str, rows: int, studies: int, present: int) -> None:
    cases = read_table(shared / "data" / data)
    assert (len(cases), len(by_study(cases))) == (rows, studies)
    assert sum(case.label or 0 for case in cases) == present
    assert {case.split for case in cases} == {"train", "val", "test"}
