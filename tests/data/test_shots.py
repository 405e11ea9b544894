from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tagmask.data.prepared import Prepared
from tagmask.data.shots import Shots, choose_shots, read_shots, shot_rows, write_shots
from tagmask.errors import TagmaskError


@pytest.fixture(scope="module")
def data(prepared: Path) -> Prepared:
    return Prepared.open(prepared)


def test_a_draw_is_of_train_alone_and_belongs_to_its_seed(data: Prepared) -> None:
    train = {row["id"] for row in data.rows("train")}
    draws = [choose_shots(data, 5, draw) for draw in range(20)]
    assert all(len(set(ids)) == 5 and set(ids) <= train for ids in draws)
    assert choose_shots(data, 5, 3) == draws[3] and len(set(draws)) == 20
    assert set().union(*draws) == train  # all have their turn
    assert choose_shots(data, 9, 3)[:5] == draws[3]  # more pictures are these and others
    assert set(choose_shots(data, len(train))) == train


def test_the_order_of_the_table_does_not_matter(data: Prepared) -> None:
    class Turned:
        index, path = data.index[::-1], data.path
        rows = staticmethod(lambda split: data.rows(split)[::-1])

    assert choose_shots(Turned(), 5, 3) == choose_shots(data, 5, 3)  # type: ignore[arg-type]


def test_a_list_is_taken_as_it_is(data: Prepared, tmp_path: Path) -> None:
    ids = ("train3_1", "train0_0")
    write_shots(tmp_path / "shots.csv", ids)
    assert read_shots(tmp_path / "shots.csv") == ids
    assert choose_shots(data, tmp_path / "shots.csv") == choose_shots(data, ids, 7) == ids
    rows = shot_rows(data, ids, where="here")
    assert [data.index[row]["id"] for row in rows] == ["train0_0", "train3_1"] and rows.dtype == np.int64


@pytest.mark.parametrize(
    ("shots", "words"),
    [
        (0, "shots = 0"),
        (25, "shots = 25, but the train split has 24 pictures"),
        ((), "no picture is named"),
        (("train0_0", "train0_0"), "'train0_0' is named twice"),
        (("test0_1",), "'test0_1' is in the split test"),
        (("nobody",), "no picture 'nobody'"),
        (Path("nowhere.csv"), "no such table"),
    ],
)
def test_what_cannot_be_is_refused(data: Prepared, shots: Shots, words: str) -> None:
    with pytest.raises(TagmaskError, match=words) as raised:
        choose_shots(data, shots)
    assert raised.value.repair
