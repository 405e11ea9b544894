"""PNG, JPEG and TIFF: what is read, what is refused, and with which words."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from tagmask.errors import InputError, ResourceError, TagmaskError
from tagmask.io import (
    guards,
    read_header,
    read_mask,
    read_scores,
    read_study,
    write_mask,
    write_png,
    write_scores,
)
from tests.io.files import png_bytes

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
RGB = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)
DEEP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1301


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def encoded(format: str, array: np.ndarray = GREY, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=format, **options)
    return buffer.getvalue()


def refused(path: Path, what: str, kind: type[TagmaskError] = InputError) -> None:
    """Read a file that must be refused with these words, the file's name and a repair."""
    with pytest.raises(kind, match=what) as caught:
        read_study(path, id="a")
    assert str(path) in str(caught.value) and caught.value.repair


def check(path: Path, expected: np.ndarray) -> None:
    """Compare a picture, and its header, with (rows, columns) or (rows, columns, 3)."""
    study = read_study(path, id="a")
    expected = (expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1))[..., None]
    np.testing.assert_array_equal(study.image, expected.astype(np.float32))
    assert study.image.dtype == np.float32
    assert (study.kind, study.affine, study.spacing) == ("picture", None, None)
    header = read_header(path)
    assert (header.channels, *header.shape) == study.image.shape and header.kind == "picture"


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("array", [GREY, RGB, DEEP], ids=["grey", "rgb", "grey16"])
def test_grey_and_rgb(tmp_path: Path, array: np.ndarray, name: str) -> None:
    check(save(tmp_path / name, array), array)


def test_colour_of_16_bit_keeps_all_of_them(tmp_path: Path) -> None:
    deep = np.stack([DEEP, DEEP[::-1], 65535 - DEEP], axis=-1)
    (tmp_path / "a.png").write_bytes(png_bytes(deep, colour=2, depth=16))
    check(tmp_path / "a.png", deep)
    opaque = np.concatenate([deep, np.full((6, 8, 1), 65535, np.uint16)], axis=-1)
    (tmp_path / "b.png").write_bytes(png_bytes(opaque, colour=6, depth=16))
    check(tmp_path / "b.png", deep)
    tifffile.imwrite(tmp_path / "c.tif", deep, photometric="rgb")
    check(tmp_path / "c.tif", deep)


def test_jpeg_and_content_before_suffix(tmp_path: Path) -> None:
    data = encoded("JPEG", quality=95)
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(data)
        check(tmp_path / name, np.asarray(Image.open(io.BytesIO(data))))
    (tmp_path / "b.png").write_bytes(encoded("TIFF"))
    check(tmp_path / "b.png", GREY)


def test_palette_becomes_grey_or_colour_and_indices_for_a_mask(tmp_path: Path) -> None:
    indices = GREY % 3
    for colours, expected in (
        ([0, 0, 0, 90, 90, 90, 200, 200, 200], np.array([0, 90, 200], np.uint8)[indices]),
        ([0, 0, 0, 255, 0, 0, 0, 9, 0], np.array([[0, 0, 0], [255, 0, 0], [0, 9, 0]], np.uint8)[indices]),
    ):
        image = Image.fromarray(indices).convert("L")
        image.putpalette(colours)
        image.save(tmp_path / "a.png")
        check(tmp_path / "a.png", expected)
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png", labels=(2,)).array[..., 0], indices == 2)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("colour", [0, 3], ids=["grey", "palette"])
def test_masks_of_few_bits_keep_their_labels(tmp_path: Path, depth: int, colour: int) -> None:
    labels = (np.arange(64).reshape(8, 8) % 2**depth).astype(np.uint8)
    path = tmp_path / "m.png"
    if colour == 3:
        image = Image.fromarray(labels)
        image.putpalette([9, 0, 200] * 2**depth)
        image.save(path, bits=depth)
    else:
        bits = labels[..., None] >> np.arange(depth, dtype=np.uint8)[::-1] & 1
        rows = np.packbits(bits.reshape(8, -1), axis=1)
        path.write_bytes(png_bytes(rows, colour=0, depth=depth, size=(8, 8)))
        check(path, labels * (255 // (2**depth - 1)))  # as a picture, from black to white
    assert path.read_bytes()[24:26] == bytes([depth, colour])
    for label in range(min(2**depth, 64)):
        found = read_mask(path, labels=(label,)).array[..., 0]
        np.testing.assert_array_equal(found, labels == label)
    np.testing.assert_array_equal(read_mask(path).array[..., 0], labels > 0)


@pytest.mark.parametrize("depth", [2, 4])
def test_a_tiff_of_few_bits_is_refused(tmp_path: Path, depth: int) -> None:
    # One row of 8 bits, 0, in LZW: clear, 0, end, in codes of 9 bits.
    data = int(f"{256:09b}{0:09b}{257:09b}00000", 2).to_bytes(4, "big")
    tags = {256: 8 // depth, 257: 1, 258: depth, 259: 5, 262: 1, 273: 8, 277: 1, 278: 1, 279: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    (tmp_path / "a.tif").write_bytes(
        b"II*\0" + struct.pack("<I", 12) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    refused(tmp_path / "a.tif", rf"1 samples of {depth} bit .*Save it as grey or RGB, 8 or 16 bit")


def test_alpha_is_dropped_where_it_says_nothing(tmp_path: Path) -> None:
    check(save(tmp_path / "a.png", RGB, "RGBA"), RGB)
    check(save(tmp_path / "b.png", GREY, "LA"), GREY)
    check(save(tmp_path / "c.tif", RGB, "RGBA"), RGB)
    clear = np.dstack([RGB, np.where(GREY == 0, 254, 255).astype(np.uint8)])
    for name in ("d.png", "d.tif"):
        refused(save(tmp_path / name, clear), "partly transparent")
    deep = np.stack([DEEP, np.full_like(DEEP, 65535)], axis=-1)
    (tmp_path / "e.png").write_bytes(png_bytes(deep, colour=4, depth=16))
    refused(tmp_path / "e.png", "16-bit grey with alpha")


def test_one_bit_becomes_0_and_255(tmp_path: Path) -> None:
    check(save(tmp_path / "a.png", GREY > 100), np.where(GREY > 100, 255, 0))


@pytest.mark.parametrize(
    ("mode", "name"), [("CMYK", "a.jpg"), ("CMYK", "a.tif"), ("LAB", "a.tif"), ("YCbCr", "a.tif")]
)
def test_other_colours_are_refused(tmp_path: Path, mode: str, name: str) -> None:
    refused(save(tmp_path / name, RGB, mode), "of kind CMYK|samples")


def test_tiff_kinds(tmp_path: Path) -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        check(save(tmp_path / "a.tif", RGB, compression=compression), RGB)
    tifffile.imwrite(tmp_path / "b.tif", GREY, photometric="miniswhite")
    check(tmp_path / "b.tif", 255 - GREY)
    tifffile.imwrite(
        tmp_path / "c.tif", RGB.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate"
    )
    check(tmp_path / "c.tif", RGB)
    tifffile.imwrite(tmp_path / "d.tif", GREY.astype(np.complex64))
    refused(tmp_path / "d.tif", "complex64")
    big = (np.arange(64)[:, None] + np.zeros(64)).astype(np.float32)
    tifffile.imwrite(tmp_path / "e.tif", big, bigtiff=True, byteorder=">", tile=(16, 16))
    check(tmp_path / "e.tif", big)


def test_several_pages_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GREY, GREY, GREY]), photometric="minisblack")
    refused(tmp_path / "a.tif", "3 pages")
    frames = [Image.fromarray(GREY), Image.fromarray(GREY[::-1].copy())]
    frames[0].save(tmp_path / "b.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "b.png", "animated")


def test_a_turned_jpeg_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    refused(save(tmp_path / "a.jpg", GREY, exif=exif), "stored turned")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("array", [GREY, RGB], ids=["grey", "rgb"])
def test_a_turned_tiff_is_refused(tmp_path: Path, array: np.ndarray, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    for turned in range(2, 9):
        save(path, array, compression=compression, tiffinfo={274: turned})
        refused(path, rf"stored turned \(TIFF orientation {turned}\)\. Save it upright")
        with pytest.raises(InputError, match="stored turned"):
            read_header(path)
        with pytest.raises(InputError, match="stored turned"):
            read_mask(path)
    check(save(path, array, compression=compression, tiffinfo={274: 1}), array)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.95])
def test_cut_pictures(tmp_path: Path, format: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    data = encoded(format, noise)
    (tmp_path / "a.png").write_bytes(data[: int(len(data) * part)])
    refused(tmp_path / "a.png", "damaged|ends early|none of")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_cut_in_its_last_strip(tmp_path: Path, compression: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", noise, compression=compression, rowsperstrip=16, metadata=None)
    check(tmp_path / "a.tif", noise)
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-40])
    refused(tmp_path / "a.tif", "ends early")


def test_a_wrong_checksum(tmp_path: Path) -> None:
    data = bytearray(encoded("PNG"))
    data[data.index(b"IDAT") + 6] ^= 1
    (tmp_path / "a.png").write_bytes(data)
    refused(tmp_path / "a.png", "damaged")
    data = bytearray(encoded("PNG"))
    data[data.index(b"IEND") - 5] ^= 1  # in the checksum of the data before it
    (tmp_path / "b.png").write_bytes(data)
    refused(tmp_path / "b.png", "damaged")


def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    for size in ((65500, 65500), (9000, 9000)):
        (tmp_path / "a.png").write_bytes(png_bytes(GREY, colour=0, depth=8, size=size))
        refused(tmp_path / "a.png", "pixels", ResourceError)
    tifffile.imwrite(tmp_path / "b.tif", GREY)
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as file:
        for tag in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[tag].overwrite(65000, dtype="I")  # type: ignore[union-attr]
    refused(tmp_path / "b.tif", "65,000 x 65,000 pixels", ResourceError)


def test_a_deflated_tiff_is_not_inflated_beyond_its_picture(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), compression="zlib")
    check(tmp_path / "a.tif", np.zeros((64, 64)))
    bomb = zlib.compress(bytes(100_000_000))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        end = file.filehandle.size
        page: Any = file.pages[0]
        page.tags["StripOffsets"].overwrite(end)
        page.tags["StripByteCounts"].overwrite(len(bomb))
    with open(tmp_path / "a.tif", "ab") as raw:
        raw.write(bomb)
    refused(tmp_path / "a.tif", "more than the picture", ResourceError)


def test_the_limit_of_pixels_is_a_constant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", GREY)
    monkeypatch.setattr(guards, "MAX_PIXELS", 47)
    refused(path, "8 x 6 pixels, more than the 47", ResourceError)


def test_masks(tmp_path: Path) -> None:
    mask = GREY > 100
    for high in (1, 3, 255):
        found = read_mask(save(tmp_path / "m.png", np.where(mask, high, 0).astype(np.uint8)))
        np.testing.assert_array_equal(found.array[..., 0], mask)
        assert found.array.dtype == bool and found.affine is None
    np.testing.assert_array_equal(
        read_mask(save(tmp_path / "m.png", np.dstack([mask.astype(np.uint8)] * 3))).array[..., 0], mask
    )
    with pytest.raises(InputError, match="colour"):
        read_mask(save(tmp_path / "m.png", RGB))
    with pytest.raises(InputError, match="JPEG does not keep labels"):
        read_mask(save(tmp_path / "m.jpg", GREY))


def test_masks_and_scores_come_back(tmp_path: Path) -> None:
    study = read_study(save(tmp_path / "a.b.png", RGB), id="a.b")
    scores = np.random.default_rng(0).normal(size=study.shape).astype(np.float32)
    mask_file, score_file = (
        write_mask(tmp_path / "m" / "a.b", scores > 0, study),
        write_scores(tmp_path / "a.b", scores, study),
    )
    assert (mask_file.name, score_file.name) == ("a.b.png", "a.b.tif")
    np.testing.assert_array_equal(read_mask(mask_file).array, scores > 0)
    np.testing.assert_array_equal(np.unique(read_study(mask_file, id="m").image), [0, 255])
    np.testing.assert_array_equal(read_scores(score_file), scores)
    with pytest.raises(InputError, match="colours"):
        read_scores(tmp_path / "a.b.png")
    with pytest.raises(InputError, match="overwrite its own input"):
        write_mask(tmp_path / "a.b", scores > 0, study)


def test_write_png(tmp_path: Path) -> None:
    for array in (GREY, RGB):
        write_png(tmp_path / "a.png", array)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), array)
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "b.png", DEEP)
    assert os.listdir(tmp_path) == ["a.png"]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_mutants_are_read_or_refused(tmp_path: Path, format: str) -> None:
    generator = random.Random(format)
    original = encoded(format)
    for _ in range(60):
        data = bytearray(original)
        for _ in range(generator.choice((1, 3))):
            data[generator.randrange(len(data))] = generator.randrange(256)
        (tmp_path / "a.png").write_bytes(data)
        try:
            assert np.isfinite(read_study(tmp_path / "a.png", id="a").image).all()
        except TagmaskError as error:
            assert "a.png" in str(error)
