"""TIFF by tifffile: one page, grey or RGB, 8 or 16 bit, or float, as score maps of pictures are kept."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tagmask.errors import InputError, ResourceError, TagmaskError
from tagmask.io.atomic import atomic_write
from tagmask.io.guards import check_file, check_pixels, without_alpha

__all__ = ["is_tiff", "read_tiff", "tiff_shape", "write_tiff"]

# What it finds wrong comes as an error of ours; its log would say it a second time, on the screen.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_NONE, _DEFLATE, _OTHER_CODECS = 1, (8, 32946), (5, 7, 32773)  # the others: LZW, JPEG, PackBits
_TILE = 1 << 24
_DEFLATE_IT = "Save it uncompressed or with deflate."
_ORIENTATION = 274
_TYPES = ("uint8", "uint16", "float32")


def is_tiff(head: bytes) -> bool:
    """Tell a TIFF by its first four bytes."""
    return head.startswith(_MAGIC)


def tiff_shape(path: Path) -> tuple[int, int, int]:
    """Give (channels, rows, columns) without decoding a pixel; raises as :func:`read_tiff`."""
    with _page(path) as page:
        return (1 if page.samplesperpixel <= 2 else 3), page.imagelength, page.imagewidth


def read_tiff(path: Path) -> np.ndarray:
    """Read a TIFF of one page.

    An alpha channel is dropped where it is opaque; "white is zero" is turned into "black is zero".

    Returns
    -------
    ndarray : (rows, columns) or (rows, columns, 3), uint8, uint16 or float32

    Raises
    ------
    InputError
        Damaged, cut, several pages, stored turned (orientation tag), or of a kind that is not read.
    ResourceError
        Too many pixels.
    """
    with _page(path) as page:
        array = _decoded(path, page)
        samples = page.samplesperpixel
        if samples > 1 and page.planarconfig == 2:
            array = array.transpose(1, 2, 0)
        shape = (page.imagelength, page.imagewidth) + ((samples,) if samples > 1 else ())
        if array.shape != shape:
            raise ValueError(f"{array.shape} instead of {shape}")
        if page.photometric == _WHITE_IS_ZERO:
            array = np.iinfo(array.dtype).max - array
    return without_alpha(path, array) if samples in (2, 4) else array


@contextmanager
def _page(path: Path) -> Iterator[Any]:
    """Open the only page of a TIFF and check all that its header says."""
    size = check_file(path)
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                raise InputError(
                    f"The TIFF has {len(file.pages)} pages.",
                    where=path,
                    repair="Save each page as its own file.",
                )
            page: Any = file.pages[0]
            _check_page(path, page, size)
            yield page
    except TagmaskError:
        raise
    except Exception as error:  # The parser raises whatever the damage leads to.
        raise InputError(
            f"The TIFF is damaged ({error}).", where=path, repair="Copy or export it again."
        ) from None


def _check_page(path: Path, page: Any, size: int) -> None:
    check_pixels(path, page.imagelength, page.imagewidth)
    kind = page.samplesperpixel, int(page.photometric)
    allowed = {(1, _WHITE_IS_ZERO), (1, _BLACK_IS_ZERO), (2, _BLACK_IS_ZERO), (3, _RGB), (4, _RGB)}
    # Less than 8 bit come as uint8, and Pillow stretches them.
    packed = page.dtype is not None and page.bitspersample != 8 * page.dtype.itemsize
    whole = page.dtype is not None and page.dtype.name in _TYPES and not packed
    if kind not in allowed or not whole or (page.dtype.kind == "f" and kind != (1, _BLACK_IS_ZERO)):
        raise InputError(
            f"The TIFF holds {page.samplesperpixel} samples of "
            f"{f'{page.bitspersample} bit' if packed else page.dtype} ({page.photometric!s}).",
            where=path,
            repair="Save it as grey or RGB, 8 or 16 bit without sign.",
        )
    turned = int(page.tags.valueof(_ORIENTATION, default=1))
    if turned not in (0, 1):
        raise InputError(
            f"The picture is stored turned (TIFF orientation {turned}).",
            where=path,
            repair="Save it upright, without the orientation tag.",
        )
    if page.imagedepth != 1 or page.ndim not in (2, 3):
        raise InputError(
            "The TIFF is a volume.", where=path, repair="Save it as NIfTI, or each slice as a picture."
        )
    if int(page.compression) not in (_NONE, *_DEFLATE, *_OTHER_CODECS):
        raise InputError(
            f"There is no decoder for this TIFF ({page.compression!s}).", where=path, repair=_DEFLATE_IT
        )
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if not pieces or any(count < 1 or start + count > size for start, count in pieces):
        raise InputError(
            "The TIFF ends early: the file is cut.", where=path, repair="Copy or export it again."
        )
    if int(page.compression) in _DEFLATE:
        _check_deflated(path, page)


def _check_deflated(path: Path, page: Any) -> None:
    """Refuse a deflated piece that is larger than the whole picture, before tifffile inflates it."""
    limit = page.imagelength * page.imagewidth * page.samplesperpixel * page.dtype.itemsize
    with open(path, "rb") as file:
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(start)
            # A tile may be larger than a small picture: its edge is padded.
            if len(zlib.decompressobj().decompress(file.read(count), limit + _TILE)) >= limit + _TILE:
                raise ResourceError(
                    "The compressed data holds more than the picture.", where=path, repair="Export it again."
                )


def _decoded(path: Path, page: Any) -> np.ndarray:
    """Decode by tifffile, or by Pillow where tifffile lacks a codec (LZW, JPEG)."""
    try:
        return np.asarray(page.asarray())
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        with Image.open(path, formats=("TIFF",)) as image:
            array = np.asarray(image)
        shape = (page.imagelength, page.imagewidth) + (
            (page.samplesperpixel,) if page.samplesperpixel > 1 else ()
        )
        if array.dtype == page.dtype and array.shape == shape and page.photometric != _WHITE_IS_ZERO:
            return array if page.planarconfig == 1 or array.ndim == 2 else array.transpose(2, 0, 1)
        raise InputError(
            f"There is no decoder for this TIFF ({page.compression!s}).",
            where=path,
            repair=_DEFLATE_IT,
        ) from None


def write_tiff(path: Path, image: np.ndarray) -> None:
    """Write a (rows, columns) float32 array as a 32-bit TIFF, atomically."""
    with atomic_write(path) as temporary:
        tifffile.imwrite(temporary, image, photometric="minisblack", metadata=None)
