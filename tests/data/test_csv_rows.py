from __future__ import annotations

from pathlib import Path

import pytest

from tagmask.data.csv_rows import read_rows
from tagmask.errors import InputError, TableError

PLAIN = "id,image,label,text\na,x.png,1,two words\nb,y.png,,\n"
ROWS = [
    (2, {"id": "a", "image": "x.png", "label": "1", "text": "two words"}),
    (3, {"id": "b", "image": "y.png", "label": "", "text": ""}),
]


@pytest.mark.parametrize(
    "data",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode("utf-8-sig"),
        PLAIN.replace("a,x.png", " a, x.png ").replace("label", " label ").encode(),
        PLAIN.rstrip("\n").encode(),
    ],
    ids=["plain", "bom", "crlf", "cr", "semicolon", "tab and bom", "spaces", "no last line end"],
)
def test_dialects_give_the_same_rows(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    assert list(read_rows(path, ("id", "image"))) == ROWS


def test_blank_rows_are_left_out_but_counted(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,image\n\na,x\n,\nb,y\n")
    assert [(number, fields["id"]) for number, fields in read_rows(path)] == [(3, "a"), (5, "b")]


def test_text_passes_whole(tmp_path: Path) -> None:
    path, long = tmp_path / "t.csv", "lésion à gauche, 病変 " * 600
    path.write_text(f'id,text\na,"{long}"\nb,"two\nlines"\n', encoding="utf-8")
    rows = list(read_rows(path))
    assert rows[0][1]["text"] == long.strip() and len(long) > 10_000
    assert rows[1] == (3, {"id": "b", "text": "two\nlines"})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b" \n,,\n", "is empty"),
        (b"id,image\n", "has no rows"),
        (b"PK\x03\x04 rest", "spreadsheet or zip"),
        (b"\x89PNG\r\n\x1a\n\0\0", "no UTF-8 text"),
        ("id,image\nmüller,x\n".encode("latin-1"), "no UTF-8 text"),
        (b"id,image\na\0,x\n", "zero bytes"),
        (b"name,file\na,x\n", "no column 'id'; its first row is: name, file"),
        (b"id,image,image\na,x,y\n", "Two columns are called 'image'"),
        (b"id,image\na,x\nb,y,z\n", "row 3: The row has 3 fields, but the header has 2"),
        (b"id,image\na,x\nb\n", "row 3: The row has 1 fields"),
        (b'id,image\na,x\nb,"y\nc,z\n', "row 3: The row cannot be read"),
        (b'id,image\na,"x"y\n', "row 2: The row cannot be read"),
        (b"id,image\na," + b"x" * 200_000 + b"\n", "row 2: The row cannot be read"),
    ],
)
def test_what_is_no_table(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(TableError, match=str(path)) as caught:
        list(read_rows(path, ("id", "image")))
    assert message in str(caught.value) and caught.value.repair


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table"):
        list(read_rows(tmp_path / "t.csv"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_rows(tmp_path))
