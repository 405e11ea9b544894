from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tagmask.data import xlsx
from tagmask.data.xlsx import read_sheet
from tagmask.errors import InputError, ResourceError, TableError
from tests.datasets.folders import write_sheet

COLUMNS = ("Image", "Description")


def test_columns_in_any_order_and_case(tmp_path: Path) -> None:
    rows = [
        (" a.png ", 7, "one\ntwo"),
        (None, None, None),
        ("b.png", None, None),
        (3, "x", 'é "quoted", 2.5'),
    ]
    path = write_sheet(tmp_path / "t.xlsx", [("image", "Number", "DESCRIPTION "), *rows])
    assert read_sheet(path, ("Description", "Image")) == [
        (2, {"Description": "one\ntwo", "Image": "a.png"}),
        (4, {"Description": "", "Image": "b.png"}),
        (5, {"Description": 'é "quoted", 2.5', "Image": "3"}),
    ]


def test_the_first_sheet_counts_and_formulas_are_not_run(tmp_path: Path) -> None:
    path = write_sheet(
        tmp_path / "t.xlsx", [COLUMNS, ("a.png", '=WEBSERVICE("http://x.y")')], [("Other",), ("z",)]
    )
    assert read_sheet(path, COLUMNS) == [(2, {"Image": "a.png", "Description": ""})]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("Image", "Text"), "no column 'Description'; its first row is: Image, Text"),
        (("Image", "Description", "description"), "two columns 'Description'"),
        (
            ("a.png", "The nuclei."),
            r"no column 'Image'.*Name the columns in the first row: Image, Description",
        ),
    ],
)
def test_columns_that_are_missing(tmp_path: Path, header: tuple[str, ...], message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_sheet(write_sheet(tmp_path / "t.xlsx", [header, ("b.png", "x", "y")]), COLUMNS)


def broken(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda path: _ignore(path.write_bytes(change(path.read_bytes())))


def _ignore(_: object) -> None:
    """Give nothing back."""


def member(path: Path, name: str, content: bytes) -> None:
    """Add or replace one part of the file."""
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()} | {name: content}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in parts.items():
            archive.writestr(part, data)


SPACE = b'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
SHEET = b"<worksheet " + SPACE + b"><sheetData>%s</sheetData></worksheet>"
ENTITIES = b"".join(
    b'<!ENTITY %c "%b">' % (98 + i, b"&%c;" % (97 + i) * 20 if i else b"lol" * 20) for i in range(9)
)
CELL = SHEET % b'<row r="1"><c r="A1" t="inlineStr"><is><t>&j;</t></is></c></row>'
BOMB = b"<!DOCTYPE r [" + ENTITIES + b"]>" + CELL
OUTSIDE = b'<!DOCTYPE r [<!ENTITY j SYSTEM "file:///etc/passwd">]>' + CELL


def test_text_that_stands_apart_as_excel_writes_it(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "t.xlsx", [COLUMNS])
    with zipfile.ZipFile(path) as archive:
        types = archive.read("[Content_Types].xml")
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    part = b'<Override PartName="/xl/sharedStrings.xml" ContentType="' + kind + b'"/></Types>'
    member(path, "[Content_Types].xml", types.replace(b"</Types>", part))
    cells = b"".join(
        b'<c r="%b" t="s"><v>%d</v></c>' % (place, i) for i, place in enumerate((b"A1", b"B1", b"A2", b"B2"))
    )
    member(
        path,
        "xl/worksheets/sheet1.xml",
        SHEET % (b"<row>" + cells.replace(b'<c r="A2"', b'</row><row><c r="A2"') + b"</row>"),
    )
    texts = b"".join(
        b"<si><t>%b</t></si>" % text for text in (b"Image", b"Description", b"a.png", b"evenly &amp; well")
    )
    member(path, "xl/sharedStrings.xml", b"<sst " + SPACE + b">" + texts + b"</sst>")
    assert read_sheet(path, COLUMNS) == [(2, {"Image": "a.png", "Description": "evenly & well"})]


@pytest.mark.parametrize(
    "damage",
    [
        broken(lambda data: b""),
        broken(lambda data: data[: len(data) // 2]),
        broken(lambda data: b"Image,Description\na.png,text\n"),
        broken(lambda data: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(999)),  # an old or an encrypted file
        lambda path: member(path, "xl/workbook.xml", b"<x/>"),
        lambda path: member(path, "xl/worksheets/sheet1.xml", b"<x"),
        lambda path: member(path, "xl/worksheets/sheet1.xml", BOMB),
        lambda path: member(path, "xl/worksheets/sheet1.xml", OUTSIDE),
        lambda path: member(path, "[Content_Types].xml", b""),
    ],
)
def test_files_that_are_none(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = write_sheet(tmp_path / "t.xlsx", [COLUMNS, ("a.png", "text")])
    damage(path)
    with pytest.raises(TableError) as caught:
        read_sheet(path, COLUMNS)
    assert "root:" not in str(caught.value) and str(path) in str(caught.value) and caught.value.repair


def test_no_file_and_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such table"):
        read_sheet(tmp_path / "t.xlsx", COLUMNS)
    with pytest.raises(InputError, match="cannot be read"):
        read_sheet(tmp_path, COLUMNS)
    with pytest.raises(TableError, match="first sheet is empty"):
        read_sheet(write_sheet(tmp_path / "t.xlsx", []), COLUMNS)
    assert read_sheet(write_sheet(tmp_path / "u.xlsx", [COLUMNS]), COLUMNS) == []


def test_a_file_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "t.xlsx", [COLUMNS, ("a.png", "text")])
    member(path, "xl/styles.xml", b" " * (xlsx._MAX_BYTES + 1))
    assert path.stat().st_size < 200_000
    with pytest.raises(ResourceError, match=r"unpacks to 134,\d\d\d,\d\d\d bytes"):
        read_sheet(path, COLUMNS)


def test_a_cell_far_away_does_not_make_a_sheet_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsx, "_MAX_ROWS", 50)
    path = write_sheet(tmp_path / "t.xlsx", [COLUMNS, ("a.png", "text")], cells={"XFD2": "far"})
    assert read_sheet(path, COLUMNS) == [(2, {"Image": "a.png", "Description": "text"})]
    with pytest.raises(TableError, match="no column 'Description'"):  # the 78th is not looked at
        read_sheet(write_sheet(tmp_path / "t.xlsx", [("Image",)], cells={"BZ1": "Description"}), COLUMNS)
    path = write_sheet(tmp_path / "t.xlsx", [COLUMNS, ("a.png", "text")], cells={"A1048576": "far"})
    with pytest.raises(ResourceError, match="more than the 50 rows"):
        read_sheet(path, COLUMNS)
