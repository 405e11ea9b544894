"""slices.csv as it comes back after a person, a spreadsheet or a disk had their hands on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tagmask.errors import TableError
from tagmask.jobs.evaluate import evaluate
from tagmask.scoring.results import open_results
from tagmask.scoring.truth import TruthCase, picture_positions, slice_info

HEADER = b"id,case,slice,patient,tag,tag_source,score\n"
GOOD = b"a/0,a,0,p,1,given,0.5\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A result of one picture, with its truth beside it."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    for folder in ("results/masks", "truth"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / folder / "a.png")
    (tmp_path / "results/slices.csv").write_bytes(HEADER + GOOD)
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("content", "row", "says"),
    [
        (HEADER + GOOD + b"a/1,a,1,p,1,given,high\n", 3, "the score is 'high', and not a number or empty"),
        (HEADER + b"a/0,a,zero,p,1,given,0.5\n", 2, "the slice is 'zero', and not a whole number"),
        (HEADER + b"a/0,a,-1,p,1,given,0.5\n", 2, "the slice is '-1'"),
        (HEADER + b"a/0,a," + b"9" * 5000 + b",p,1,given,0.5\n", 2, "the slice is '999"),
        (HEADER + b"a/0,a,0,p,yes,given,0.5\n", 2, "the tag is 'yes', and not 0, 1 or empty"),
        (HEADER + GOOD + GOOD + b"a/0,a,0,\xff,1,given,0.5\n", 4, r"this is no UTF-8 text: b'\xff'"),
        (HEADER + GOOD + b"a/0,a\n", 3, "does not fit the header"),
        (HEADER + GOOD + b"a/0,a,0,p,1,given,0.5,more\n", 3, "does not fit the header"),
        (HEADER + b"a/0,a,0," + b"p" * 200_000 + b",1,given,0.5\n", 2, "cannot be read: field larger"),
    ],
)
def test_a_damaged_table_is_named_with_row_and_value(
    content: bytes, row: int, says: str, results: Path, tmp_path: Path
) -> None:
    (results / "slices.csv").write_bytes(content)
    with pytest.raises(TableError) as caught:
        evaluate(results, tmp_path / "truth", out=tmp_path / "out")
    message = str(caught.value)
    assert message.startswith(f"{results / 'slices.csv'}, row {row}: ") and says in message
    assert "Segment again, or correct the table." in message and len(message) < 400
    assert not (tmp_path / "out").exists()


def test_what_a_spreadsheet_makes_of_it_is_read(results: Path, tmp_path: Path) -> None:
    lines = b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"\r\na/0,a,0,p,1.0,given,nan\r\n"
    (results / "slices.csv").write_bytes(lines)
    (info,) = slice_info(TruthCase("a", tmp_path / "truth/a.png"), open_results(results), 1)
    assert info is not None and (info.tag, info.patient) == (1, "p") and np.isnan(info.score)
    (results / "slices.csv").write_bytes(HEADER + b"a/0,a,,p,,,\n")
    found = open_results(results)
    (info,) = slice_info(TruthCase("a", tmp_path / "truth/a.png"), found, 1)
    assert info is not None and info.tag is None
    assert picture_positions({"a": TruthCase("a", tmp_path)}, found) == {}
