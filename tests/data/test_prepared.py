from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tagmask.data.prepared import IndexRow, Prepared
from tagmask.data.prepared_writer import PreparedWriter
from tagmask.errors import InputError
from tagmask.slices import SliceSettings

IMAGE = np.random.default_rng(0).uniform(-1, 1, (5, 2, 4, 4)).astype(np.float32)
MASK = IMAGE[:, 0] > 0


def rows() -> list[IndexRow]:
    splits = ("train", "train", "val", "test", "train")
    return [
        IndexRow(
            row=0,
            id=f'id "{i}", é',
            study=f"s{i // 2}",
            slice=i % 2,
            label=(0, 1, 0, None, 1)[i],
            patient=f"P{i}",
            split=splits[i],
            position=(0.25, 1, 0, float("nan"), 0.5)[i],
        )
        for i in range(5)
    ]


TEXTS = (None, 'two "quoted", lines\r\nand é', None, "肺", "\t=1+1")


def make(folder: Path, supervised: bool = False, texts: bool = False) -> Path:
    settings = SliceSettings(plane="k", size=4, normalise="window", window=(-5, 7.5), channels=(1, 0))
    with PreparedWriter(folder, settings, tag="lesion", supervised=supervised) as writer:
        for part in (slice(0, 2), slice(2, 5)):
            mask = MASK[part] if supervised else None
            said = TEXTS[part] if texts else ()
            writer.add(rows()[part], IMAGE[part], mask, sources={f"f{part.start}": "00"}, texts=said)
        writer.finish()
    return folder


def test_it_gives_back_what_was_written(tmp_path: Path) -> None:
    prepared = Prepared.open(make(tmp_path / "p"))
    assert len(prepared) == 5 and prepared.tag == "lesion" and not prepared.supervised
    assert prepared.settings == SliceSettings(
        plane="k", size=4, normalise="window", window=(-5, 7.5), channels=(1, 0)
    )
    assert isinstance(prepared.images, np.memmap) and prepared.images.dtype == np.float32
    assert np.array_equal(prepared.images, IMAGE)
    assert prepared.labels.tolist() == [0, 1, 0, -1, 1] and prepared.labels.dtype == np.int64
    assert [row["row"] for row in prepared.index] == [0, 1, 2, 3, 4]
    assert prepared.index[3]["id"] == 'id "3", é' and prepared.index[3]["label"] is None
    np.testing.assert_array_equal(prepared.positions, [0.25, 1, 0, np.nan, 0.5])
    assert len(prepared.fingerprint) == 64


def test_splits(tmp_path: Path) -> None:
    prepared = Prepared.open(str(make(tmp_path / "p")))
    assert prepared.split_indices("train").tolist() == [0, 1, 4]
    assert prepared.split_indices("train").dtype == np.int64
    assert [row["patient"] for row in prepared.rows("test")] == ["P3"]
    assert prepared.split_indices("other").shape == (0,)


def test_batches(tmp_path: Path) -> None:
    prepared = Prepared.open(make(tmp_path / "p"))
    batch = prepared.batch([4, 1])
    assert batch.ids == ("s2/0", "s0/1")
    assert np.array_equal(batch.image.numpy(), IMAGE[[4, 1]])
    assert batch.label is not None and batch.label.tolist() == [1, 1]
    batch.image.zero_()  # a copy: the folder stays as it is
    assert np.array_equal(prepared.images, IMAGE)
    assert prepared.batch(np.array([1, 3])).label is None


def test_masks_are_there_only_if_supervised(tmp_path: Path) -> None:
    prepared = Prepared.open(make(tmp_path / "p", supervised=True))
    assert prepared.supervised and prepared.open_masks().dtype == np.uint8
    assert np.array_equal(prepared.open_masks(), MASK)
    plain = make(tmp_path / "q")
    assert not (plain / "masks.npy").exists()
    with pytest.raises(InputError, match="prepared from tags alone"):
        Prepared.open(plain).open_masks()


def test_texts(tmp_path: Path) -> None:
    assert Prepared.open(make(tmp_path / "p", texts=True)).texts == TEXTS
    plain = Prepared.open(make(tmp_path / "q"))
    assert plain.texts == (None,) * 5
    assert plain.fingerprint == "4c075f18b51eccb02bbd3d5154ed4b21e56c5763d6a5a2766528e9df20691e92"  # as ever


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "texts.csv").unlink(),
        lambda p: truncate(p / "texts.csv"),
        lambda p: replace("texts.csv", "3,", "2,")(p),
        lambda p: replace("fingerprint.json", '"texts"', '"text"')(p),
    ],
)
def test_texts_that_are_not_as_they_were_written(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = make(tmp_path / "p", texts=True)
    damage(folder)
    with pytest.raises(InputError, match=r"damaged: texts\.csv is not as it was written"):
        Prepared.open(folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "settings.json").unlink(), "no settings.json"),
        (lambda p: (p / "settings.json").write_text("{"), "is damaged"),
        (lambda p: (p / "settings.json").write_text("[]"), "no settings file of a prepared folder"),
        (lambda p: (p / "settings.json").write_text('{"format": "other"}'), "no settings file"),
        (lambda p: (p / "settings.json").write_bytes(b"\xff\xfe\0"), "is damaged"),
        (replace("settings.json", '"version": 1', '"version": 2'), "has format 2, and this Tagmask reads 1"),
        (replace("settings.json", '"tag"', '"gat"'), "no 'tag'"),
        (replace("settings.json", '"size": 4', '"size": 8'), "slices.npy holds 5 x 2 x 4 x 4"),
        (replace("settings.json", '"plane": "k"', '"plane": "up"'), "is damaged"),
        (lambda p: (p / "index.csv").unlink(), "is damaged"),
        (lambda p: truncate(p / "index.csv"), "index.csv is not as it was written"),
        (replace("index.csv", "position", "place"), "the columns of index.csv are not"),
        (replace("index.csv", "\n3,", "\n7,"), "do not count from 0"),
        (replace("index.csv", ",1,P4", ",3,P4"), "is 3"),
        (replace("index.csv", ",test,", ",train,"), "index.csv is not as it was written"),
        (lambda p: (p / "slices.npy").unlink(), "is damaged"),
        (lambda p: truncate(p / "slices.npy"), "is damaged"),
        (lambda p: (p / "slices.npy").write_bytes(b""), "is damaged"),
        (lambda p: np.save(p / "slices.npy", IMAGE.astype(np.float64)), "float64, not"),
        (lambda p: np.save(p / "slices.npy", IMAGE[:4]), "holds 4 x 2 x 4 x 4"),
        (lambda p: np.save(p / "slices.npy", np.array([{}] * 5), allow_pickle=True), "is damaged"),
        (lambda p: (p / "fingerprint.json").write_text("{}"), "no 'index'"),
        (lambda p: (p / "fingerprint.json").unlink(), "is damaged"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    folder = make(tmp_path / "p")
    damage(folder)
    with pytest.raises(InputError) as caught:
        Prepared.open(folder)
    assert message in str(caught.value) and str(folder) in str(caught.value) and caught.value.repair


def test_damaged_masks_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "p", supervised=True)
    truncate(folder / "masks.npy")
    with pytest.raises(InputError, match="masks are damaged"):
        Prepared.open(folder).open_masks()
    (folder / "masks.npy").unlink()
    with pytest.raises(InputError, match="masks are damaged"):
        Prepared.open(folder).open_masks()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Prepared.open(tmp_path / "none")
    with pytest.raises(InputError, match="it has no settings"):
        Prepared.open(tmp_path)


def test_settings_are_plain_json(tmp_path: Path) -> None:
    record = json.loads((make(tmp_path / "p") / "settings.json").read_text())
    assert record["format"] == "tagmask-prepared" and record["slices"]["channels"] == [1, 0]
