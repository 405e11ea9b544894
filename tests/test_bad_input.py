"""The battery of bad input, end to end: corrupted files, bombs, geometry, grey values, cohorts.

Whatever is wrong with a file: the others are done, the message names case, file, fault and repair, nothing is
written by half, and nobody sees a traceback.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import logging
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from tagmask.cli import main
from tagmask.io import read_mask, read_scores, read_study
from tests.io.files import AFFINE, nifti_bytes, png_bytes, save_nifti, save_series, slice_dataset
from tests.random_run import write_run

nib: Any = nibabel
SIDE = 16


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def tagmask(*arguments: object) -> Outcome:
    """Run the command line in this process."""
    log = logging.getLogger("tagmask")
    before = log.handlers[:], log.level
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as leaving,
        ):
            main([str(argument) for argument in arguments])
    finally:
        log.handlers[:], log.level = before
    assert isinstance(leaving.value.code, int)
    return Outcome(leaving.value.code, out.getvalue(), err.getvalue())


def files(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too: a temporary file that is left would be seen."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def noise(seed: int, shape: tuple[int, ...] = (SIDE, SIDE)) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 255, shape).astype(np.uint8)


def picture(path: Path, array: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# files that cannot be used: name -> (how it is made, what must be said)

Maker = Callable[[Path], object]
BAD: dict[str, tuple[Maker, str]] = {}
FINE: dict[str, Maker] = {}


def bad(name: str, says: str) -> Callable[[Maker], Maker]:
    def enter(make: Maker) -> Maker:
        BAD[name] = make, says
        return make

    return enter


def fine(name: str) -> Callable[[Maker], Maker]:
    def enter(make: Maker) -> Maker:
        FINE[name] = make
        return make

    return enter


def nifti(seed: int = 0, shape: tuple[int, ...] = (6, 7, 3), **fields: Any) -> bytes:
    return nifti_bytes(noise(seed, shape).astype(np.int16), **fields)


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def header(path: Path, **fields: Any) -> None:
    path.write_bytes(nifti(**fields))


def grey(path: Path, values: np.ndarray, **fields: Any) -> None:
    path.write_bytes(nifti_bytes(values, **fields))


# F1, corrupted

for empty in ("empty.nii", "empty.nii.gz", "empty.png", "empty.jpg", "empty.tif", "empty.dcm"):
    bad(empty, r"0 bytes")(lambda path: path.write_bytes(b""))
for part in (10, 50, 99):
    bad(f"gz-cut-{part}.nii.gz", r"cut|ends early|damaged")(
        lambda path, part=part: path.write_bytes(  # type: ignore[misc]
            (lambda data: data[: len(data) * part // 100])(gzip.compress(nifti(part)))
        )
    )
bad("gz-checksum.nii.gz", r"damaged")(
    lambda path: path.write_bytes((lambda data: flipped(data, len(data) - 6))(gzip.compress(nifti())))
)
bad("gz-stream.nii.gz", r"damaged|cut")(
    lambda path: path.write_bytes((lambda data: flipped(data, len(data) // 2))(gzip.compress(nifti())))
)
bad("gz-of-text.nii.gz", r"not NIfTI")(lambda path: path.write_bytes(gzip.compress(b"hello" * 100)))
bad("short.nii", r"declares 252 bytes.*holds")(lambda path: path.write_bytes(nifti()[:-50]))
bad("header-only.nii", r"ends inside its header")(lambda path: path.write_bytes(nifti()[:200]))
bad("garbage-tail.nii", r"More data follows")(lambda path: path.write_bytes(nifti() + b"garbage" * 9))
bad("magic.nii", r"magic number")(lambda path: header(path, magic=b"abc"))
bad("pair.nii", r"half of a \.hdr/\.img pair")(lambda path: header(path, magic=b"ni1"))
bad("text.nii", r"none of NIfTI")(lambda path: path.write_text("These are not the voxels you look for." * 20))
bad("zip.nii", r"zip archive")(lambda path: zipped(path))
bad("offset.nii", r"voxels begin at byte")(lambda path: header(path, vox_offset=1e9))
bad("cut.png", r"damaged")(lambda path: path.write_bytes(encoded("PNG", 3)[:-60]))
bad("cut.jpg", r"damaged")(lambda path: path.write_bytes(encoded("JPEG", 4)[:-200]))
bad("cut.tif", r"cut|damaged")(lambda path: path.write_bytes(encoded("TIFF", 5)[:60]))
bad("checksum.png", r"damaged")(lambda path: path.write_bytes(flipped(encoded("PNG", 6), 60)))
bad("signature-only.png", r"damaged")(lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"))
bad("nowhere.png", r"link leads nowhere")(lambda path: path.symlink_to("gone.png"))
bad("loop.png", r"cannot be reached")(lambda path: path.symlink_to(path.name))
bad("folder.png", r"no DICOM")(lambda path: path.mkdir())
bad("gap-series", r"slices are missing")(lambda path: save_series(path, noise(7, (4, 8, 8)), [0, 3, 6, 12]))
bad("twice-series", r"lie in the same place")(lambda path: save_series(path, noise(8, (3, 8, 8)), [0, 3, 3]))
bad("two-series", r"2 series")(lambda path: two_series(path))
bad("cut-series", r"damaged|pixels")(lambda path: cut_series(path))


def encoded(format: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(seed)).save(buffer, format=format)
    return buffer.getvalue()


def zipped(path: Path) -> None:
    """A zip within a zip, which unpacks to a thousand times its size."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10**6))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.zip", inner.getvalue())


def two_series(folder: Path) -> None:
    save_series(folder, noise(9, (2, 8, 8)), [0, 3])
    other = slice_dataset(noise(10, (8, 8)), 0, series="1.2.3.5")
    other.save_as(folder / "other.dcm", enforce_file_format=True)


def cut_series(folder: Path) -> None:
    save_series(folder, noise(11, (3, 8, 8)), [0, 3, 6])
    member = sorted(folder.iterdir())[1]
    member.write_bytes(member.read_bytes()[:-60])


# F2, bombs

bad("bomb.nii.gz", r"More data follows")(
    lambda path: path.write_bytes(gzip.compress(nifti() + bytes(30 * 2**20)))
)
bad("claims-much.nii.gz", r"declares .*at most")(
    lambda path: path.write_bytes(gzip.compress(nifti_bytes(noise(1, (2, 2, 2)), dim=[3, 512, 512, 1024, 1, 1, 1, 1])))
)
bad("claims-all.nii", r"more than the .* voxels")(lambda path: header(path, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]))
bad("bomb.png", r"65,000 x 65,000|65000|exceeds")(
    lambda path: path.write_bytes(png_bytes(noise(1), colour=0, depth=8, size=(65000, 65000)))
)
bad("text-bomb.png", r"damaged|large")(lambda path: path.write_bytes(with_text_bomb(encoded("PNG", 12))))


def with_text_bomb(data: bytes) -> bytes:
    """Put a compressed comment of 100 MB before the pixels."""
    body = b"zTXt" + b"Comment\0\0" + zlib.compress(bytes(100 * 2**20))
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    return data[:33] + chunk + data[33:]


# F3, geometry

SINGULAR = np.diag([1.0, 1, 0, 1])
SHEARED = np.array([[1.0, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
NO_AFFINE = {"sform_code": 0, "qform_code": 0}
bad("singular.nii", r"Voxel edges of|singular")(lambda path: header(path, affine=SINGULAR, **NO_QFORM))
bad("nan-affine.nii", r"NaN or infinity")(lambda path: header(path, srow_x=[np.nan] * 4, **NO_QFORM))
bad("sheared.nii", r"not at right angles")(lambda path: header(path, affine=SHEARED, **NO_QFORM))
bad("contradiction.nii", r"disagree by")(lambda path: header(path, qoffset_x=50.0))
bad("zero-spacing.nii", r"voxel edges are")(lambda path: header(path, pixdim=[1, 0, 1, 1, 0, 0, 0, 0], **NO_AFFINE))
bad("negative-spacing.nii", r"voxel edges are")(
    lambda path: header(path, pixdim=[1, 1, -1, 1, 0, 0, 0, 0], **NO_AFFINE)
)
bad("micro.nii", r"[Vv]oxel edges")(lambda path: header(path, affine=np.diag([1e-6, 1e-6, 1e-6, 1]), **NO_QFORM))
bad("mega.nii", r"[Vv]oxel edges")(lambda path: header(path, affine=np.diag([1e6, 1e6, 1e6, 1]), **NO_QFORM))
bad("metres.nii", r"measures in metres")(lambda path: header(path, xyzt_units=1))
bad("one-axis.nii", r"one axis")(lambda path: header(path, shape=(9,)))
bad("many-volumes.nii", r"4 volumes")(lambda path: header(path, shape=(5, 5, 2, 4)))
bad("five-axes.nii", r"5 axes")(lambda path: header(path, shape=(5, 5, 2, 1, 3)))
bad("no-edge.nii", r"is empty|0")(lambda path: header(path, dim=[3, 6, 0, 3, 1, 1, 1, 1]))
bad("eight-axes.nii", r"claims 9 axes")(lambda path: header(path, dim=[9, 6, 7, 3, 1, 1, 1, 1]))

# F4, grey values and types

FLOAT = noise(2, (6, 7, 3)).astype(np.float32)
bad("one-nan.nii", r"1 of 126 voxels are NaN")(lambda path: grey(path, np.where(FLOAT == FLOAT[0, 0, 0], FLOAT, FLOAT)))
bad("all-nan.nii", r"126 of 126 voxels")(lambda path: grey(path, np.full_like(FLOAT, np.nan)))
bad("infinite.nii", r"2 of 126 voxels")(lambda path: grey(path, with_values(np.inf, -np.inf)))
bad("beyond-float.nii", r"1 of 126 voxels.*float32")(lambda path: grey(path, with_values(1e300, dtype=np.float64)))
bad("complex.nii", r"complex.*no grey value")(lambda path: grey(path, FLOAT.astype(np.complex64)))
bad("rgb.nii", r"no grey value")(lambda path: header(path, datatype=128, bitpix=24))
bad("scaling.nii", r"scaling of grey values")(lambda path: header(path, scl_slope=np.inf, scl_inter=0))
bad("colour.png", r"3 channels")(lambda path: picture(path, noise(13, (SIDE, SIDE, 3))))
bad("opaque-rgba.png", r"3 channels")(lambda path: picture(path, noise(14, (SIDE, SIDE, 3)), "RGBA"))
bad("transparent.png", r"partly transparent")(lambda path: picture(path, noise(15, (SIDE, SIDE, 4))))
bad("cmyk.jpg", r"kind CMYK")(lambda path: picture(path, noise(16, (SIDE, SIDE, 3)), "CMYK"))
bad("cmyk.tif", r"SEPARATED|CMYK|4 samples")(lambda path: picture(path, noise(17, (SIDE, SIDE, 3)), "CMYK"))
bad("pages.tif", r"2 pages")(
    lambda path: Image.fromarray(noise(18)).save(path, save_all=True, append_images=[Image.fromarray(noise(19))])
)
bad("turned.jpg", r"stored turned")(lambda path: turned(path))
bad("animated.png", r"several frames")(
    lambda path: Image.fromarray(noise(20)).save(path, save_all=True, append_images=[Image.fromarray(noise(21))])
)


def with_values(*values: float, dtype: Any = np.float32) -> np.ndarray:
    array = FLOAT.astype(dtype)
    array.ravel()[: len(values)] = values
    return array


def turned(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(22)).save(path, exif=exif)
