"""A file is there whole, or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tagmask.errors import InputError, ResourceError
from tagmask.io import atomic_write, case_files, write_csv, write_json
from tagmask.io.atomic import temporaries


def test_a_block_that_ends_well_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    for text in ("one", "two"):
        with atomic_write(target) as temporary:
            assert temporary.parent == target.parent and temporary.suffix == ".txt"
            temporary.write_text(text)
        assert target.read_text() == text
    assert os.listdir(target.parent) == ["a.txt"]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_temporary_file_is_hidden_from_readers(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "b.png") as temporary:
        temporary.write_bytes(b"half")
        with pytest.raises(InputError, match="holds no image"):
            case_files(tmp_path)


def test_a_full_disk_is_a_resource_error(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=r"disk is full.*Free space") as caught,
        atomic_write(tmp_path / "a"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 3
    assert os.listdir(tmp_path) == []


def test_an_error_of_another_kind_passes(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="elsewhere") as caught, atomic_write(tmp_path / "a"):
        raise OSError(errno.EIO, "elsewhere")
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize("name", ["f" * 255, "grüße 🧠 'quoted'\nline.txt"])
def test_odd_names_work(tmp_path: Path, name: str) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("x")
    assert os.listdir(tmp_path) == [name]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for target, what in (
        (tmp_path / ("f" * 256), "too long a name"),
        (tmp_path / "file" / "below", "not a folder"),
        (tmp_path / "folder", "is a folder"),
    ):
        with pytest.raises(InputError, match=what) as caught, atomic_write(target) as temporary:
            temporary.write_text("x")
        assert caught.value.where == str(target)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("kept")
    (tmp_path / "link.txt").symlink_to(outside)
    with atomic_write(tmp_path / "link.txt") as temporary:
        temporary.write_text("new")
    assert outside.read_text() == "kept"
    assert not (tmp_path / "link.txt").is_symlink()


def test_records_and_tables_say_what_they_were_given(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ä": [Path("x/y"), None, 0.1]})
    assert (tmp_path / "a.json").read_text().isascii()
    assert json.loads((tmp_path / "a.json").read_text()) == {"ä": ["x/y", None, 0.1]}
    write_json(tmp_path / "a.json", {"ä": 1}, ascii=False)
    assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")
    write_csv(tmp_path / "a.csv", ("a", "b"), [{"a": 1, "b": "x,y"}, {"a": 2}])
    assert (tmp_path / "a.csv").read_bytes() == b'a,b\r\n1,"x,y"\r\n2,\r\n'
    write_csv(tmp_path / "a.csv", ("a",), [{"a": 1}], line_end="\n")
    assert (tmp_path / "a.csv").read_bytes() == b"a\n1\n"
    with pytest.raises(ValueError, match="not in fieldnames"):
        write_csv(tmp_path / "b.csv", ("a",), [{"c": 1}])
    assert not (tmp_path / "b.csv").exists()


def test_what_a_killed_process_left_is_known_by_its_name(tmp_path: Path) -> None:
    names = (".0123456789abcdef.tmp", ".0123456789abcdef.tmp.gz", f".0123456789abcdef.tmp.{'x' * 15}")
    others = (
        "a.png",
        ".tmp.png",
        ".0123456789ABCDEF.tmp.png",
        "0123456789abcdef.tmp.png",
        ".0123456789abcdef.tmpx",
    )
    for name in (*names, *others):
        (tmp_path / name).write_text("x")
    assert [path.name for path in temporaries(tmp_path)] == sorted(names)
    assert temporaries(tmp_path / "nowhere") == []
    for target in ("a", "a.nii.gz", f"a.{'x' * 30}"):
        with atomic_write(tmp_path / target) as temporary:
            assert temporary in temporaries(tmp_path)
