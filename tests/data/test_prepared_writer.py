from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from tagmask.data.prepared import IndexRow, Prepared
from tagmask.data.prepared_writer import ArrayFile, PreparedWriter
from tagmask.errors import InputError, ResourceError
from tagmask.slices import SliceSettings

SETTINGS = SliceSettings(size=4)
IMAGE = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4)


def rows(label: int = 1) -> list[IndexRow]:
    return [
        IndexRow(row=0, id=f"a{i}", study="a", slice=i, label=label, patient="P", split="train", position=i)
        for i in range(2)
    ]


def fill(out: Path, **options: object) -> PreparedWriter:
    label, image = int(str(options.pop("label", 1))), options.pop("image", IMAGE)
    sources = options.pop("sources", {"a.nii": "11"})
    settings = options.pop("settings", SETTINGS)
    texts = options.pop("texts", ())
    arguments = {"tag": "label", "supervised": False} | options
    writer = PreparedWriter(out, settings, **arguments)  # type: ignore[arg-type]
    with writer:
        writer.add(rows(label), image, sources=sources, texts=texts)  # type: ignore[arg-type]
        writer.finish()
    return writer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_array_file_is_a_npy_file_of_any_length(tmp_path: Path) -> None:
    wanted = np.arange(10_007 * 6, dtype=np.float32).reshape(-1, 2, 3)
    file = ArrayFile(tmp_path / "a.npy", np.float32)
    for start in range(0, len(wanted), 1000):
        file.append(wanted[start : start + 1000])
    file.close()
    file.close()
    assert np.array_equal(np.load(tmp_path / "a.npy", mmap_mode="r", allow_pickle=False), wanted)
    np.save(tmp_path / "b.npy", wanted)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_array_file_refuses_other_shapes(tmp_path: Path) -> None:
    file = ArrayFile(tmp_path / "a.npy", np.uint8)
    file.append(np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="shape"):
        file.append(np.zeros((2, 4), np.uint8))
    file.close()


def test_a_whole_folder_or_nothing(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with pytest.raises(KeyboardInterrupt), PreparedWriter(out, SETTINGS, tag="t", supervised=False) as writer:
        writer.add(rows(), IMAGE, sources={})
        assert not out.exists() and names(out.parent) != []
        raise KeyboardInterrupt
    assert names(out.parent) == []
    fill(out)
    assert names(out.parent) == ["out"]
    assert names(out) == ["commands.txt", "fingerprint.json", "index.csv", "settings.json", "slices.npy"]
    assert out.stat().st_mode & 0o055 == out.parent.stat().st_mode & 0o055  # others may read it as usual


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = fill(out).fingerprint
    with pytest.raises(InputError, match="holds prepared slices already"):
        fill(out, label=0)
    assert Prepared.open(out).fingerprint == before
    after = fill(out, label=0, overwrite=True).fingerprint
    assert Prepared.open(out).fingerprint == after != before
    assert names(tmp_path) == ["out"]
    (out / "my notes.txt").write_text("keep me")
    with pytest.raises(InputError, match=r"also holds my notes\.txt, which would go with it"):
        fill(out, overwrite=True)
    assert Prepared.open(out).fingerprint == after and (out / "my notes.txt").is_file()


def test_a_failed_replacement_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    before = fill(out).fingerprint
    with (
        pytest.raises(RuntimeError),
        PreparedWriter(out, SETTINGS, tag="t", supervised=False, overwrite=True),
    ):
        raise RuntimeError
    assert Prepared.open(out).fingerprint == before

    import os

    rename, calls = os.rename, []

    def second_fails(a: Path, b: Path) -> None:
        calls.append(b)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken disk")
        rename(a, b)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(InputError, match="broken disk"):
        fill(out, label=0, overwrite=True)
    assert Prepared.open(out).fingerprint == before and names(tmp_path) == ["out"]


def test_only_prepared_folders_are_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("x")
    (tmp_path / "json").mkdir()
    (tmp_path / "json" / "settings.json").write_text('["tagmask-prepared"]')
    for name in ("mine", "file", "json"):
        with pytest.raises(InputError, match="is no prepared folder"):
            fill(tmp_path / name, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty")
    assert Prepared.open(tmp_path / "empty")


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    fill(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    fill(tmp_path / "link", label=0, overwrite=True)
    assert (tmp_path / "link").is_symlink() and Prepared.open(tmp_path / "real").labels.tolist() == [0, 0]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ArrayFile, rows: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArrayFile, "append", full)
    with pytest.raises(ResourceError, match="The disk is full"):
        fill(tmp_path / "out")
    assert names(tmp_path) == []


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        fill(tmp_path / "file" / "out")


def test_the_fingerprint_is_of_content(tmp_path: Path) -> None:
    one = fill(tmp_path / "one").fingerprint
    assert fill(tmp_path / "two").fingerprint == one
    assert fill(tmp_path / "moved", sources={"/else/where.nii": "11"}).fingerprint == one
    others = [
        fill(tmp_path / "content", sources={"a.nii": "12"}),
        fill(tmp_path / "label", label=0),
        fill(tmp_path / "tag", tag="other"),
        fill(tmp_path / "settings", settings=SliceSettings(size=4, percentiles=(1, 99))),
        fill(tmp_path / "record", record={"drawn": 3}),
    ]
    assert len({one, *(writer.fingerprint for writer in others)}) == 6


def test_texts_are_part_of_the_fingerprint_where_there_are_some(tmp_path: Path) -> None:
    plain = "4fccb43d860d2a1f5a8f8981a57be428bcf79b96dca6d3f53f9b7a5b39bfb07a"  # before there were texts
    assert fill(tmp_path / "none").fingerprint == plain
    assert fill(tmp_path / "empty", texts=[None, ""]).fingerprint == plain
    assert names(tmp_path / "empty") == names(tmp_path / "none")
    different = [["one", "two"], ["two", "one"], [None, "one"], ["one", None], ["one", "One"]]
    found = {fill(tmp_path / str(i), texts=texts).fingerprint for i, texts in enumerate(different)}
    assert len(found | {plain}) == 6
    assert "texts.csv" in names(tmp_path / "0")
    assert (tmp_path / "3" / "texts.csv").read_text() == "row,text\n0,one\n"


def test_misuse(tmp_path: Path) -> None:
    with PreparedWriter(tmp_path / "a", SETTINGS, tag="t", supervised=False) as writer:
        with pytest.raises(ValueError, match="do not belong together"):
            writer.add(rows(), IMAGE, np.zeros((2, 4, 4), bool), sources={})
        with pytest.raises(ValueError, match="Rows and texts do not belong together"):
            writer.add(rows(), IMAGE, sources={}, texts=["one"])
        with pytest.raises(ValueError, match="no slice to write"):
            writer.finish()
    with (
        pytest.raises(ValueError, match="do not belong together"),
        PreparedWriter(tmp_path / "b", SETTINGS, tag="t", supervised=True) as writer,
    ):
        writer.add(rows(), IMAGE, sources={})
    assert names(tmp_path) == []
