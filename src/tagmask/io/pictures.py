"""Pictures, read by content: PNG and JPEG by Pillow here, TIFF in :mod:`tagmask.io.tiff`."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tagmask.errors import InputError, ResourceError
from tagmask.io.atomic import atomic_write
from tagmask.io.guards import check_file, check_pixels, without_alpha
from tagmask.io.tiff import is_tiff, read_tiff, tiff_shape

__all__ = ["is_jpeg", "is_picture", "picture_shape", "read_picture", "write_png"]

_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_CHANNELS = {"1": 1, "L": 1, "I;16": 1, "I;16B": 1, "I;16L": 1, "I": 1, "P": 1, "RGB": 3, "LA": 1, "RGBA": 3}
_ORIENTATION = 0x0112
_GREY, _RGB, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 4, 6  # colour types of PNG


def is_jpeg(head: bytes) -> bool:
    """Tell a JPEG by its first bytes."""
    return head.startswith(_JPEG)


def is_picture(head: bytes) -> bool:
    """Tell a PNG, JPEG or TIFF by its first bytes."""
    return head.startswith(_PNG) or is_jpeg(head) or is_tiff(head)


def picture_shape(path: Path) -> tuple[int, int, int]:
    """Give (channels, rows, columns) without decoding a pixel.

    Raises
    ------
    InputError
        Damaged, or of a kind that :func:`read_picture` refuses by its header alone.
    ResourceError
        More than guards.MAX_PIXELS pixels.
    """
    if _is_tiff_file(path):
        return tiff_shape(path)
    with _open(path) as image:
        channels = 3 if image.mode == "P" and not _grey_palette(image) else _CHANNELS[image.mode]
        return channels, image.height, image.width


def read_picture(path: Path, palette: bool = False) -> np.ndarray:
    """Read a grey or RGB picture of 8 or 16 bit, or a float TIFF.

    An opaque alpha channel is dropped, another refused; a palette becomes grey or RGB; grey of 1, 2 or 4 bit is
    stretched to 0 ... 255; CMYK and others are refused, and so are animations, several pages, and a picture that
    is stored turned (EXIF or TIFF orientation).

    Parameters
    ----------
    palette
        Give the indices of a palette picture instead of its colours, and grey of less than 8 bit as stored: how
        label masks are kept.

    Returns
    -------
    ndarray : (C, rows, columns), uint8, uint16, int32 or float32; C is 1 or 3

    Raises
    ------
    InputError
        Damaged, cut, or of a kind that is not read.
    ResourceError
        More than guards.MAX_PIXELS pixels.
    """
    array = read_tiff(path) if _is_tiff_file(path) else _read_pillow(path, palette)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _is_tiff_file(path: Path) -> bool:
    check_file(path)
    with open(path, "rb") as file:
        return is_tiff(file.read(4))


def _bad(path: Path, what: str, repair: str = "Copy or export it again.") -> InputError:
    return InputError(what, where=path, repair=repair)


def _open(path: Path) -> Image.Image:
    """Open a PNG or JPEG and check all that its header says."""
    check_file(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns of many pixels before their number can be read; ours is the limit that counts.
            warnings.simplefilter("ignore")
            image = Image.open(path, formats=("PNG", "JPEG"))
    except Image.DecompressionBombError as error:
        raise ResourceError(f"{error}", where=path, repair="Crop the picture or make it smaller.") from None
    except Exception as error:  # Pillow's decoders raise whatever the damage leads to.
        raise _bad(path, f"The picture is damaged ({_first_line(error)}).") from None
    try:
        check_pixels(path, image.height, image.width)
        _check_kind(path, image)
    except BaseException:
        image.close()
        raise
    return image


def _check_kind(path: Path, image: Image.Image) -> None:
    if image.mode not in _CHANNELS:
        raise _bad(path, f"The picture is of kind {image.mode}.", "Save it as grey or RGB, 8 or 16 bit.")
    if getattr(image, "n_frames", 1) > 1:
        raise _bad(path, "The picture is animated or has several frames.", "Save the frame that is meant.")
    turned = _turned(image) if image.format != "PNG" else 1
    if turned not in (0, 1):
        raise _bad(
            path,
            f"The picture is stored turned (EXIF orientation {turned}).",
            "Save it upright, without EXIF.",
        )


def _turned(image: Image.Image) -> int:
    """Give the EXIF orientation, 1 where there is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # Damage in the EXIF block is no damage to the picture.
        return 1


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _read_pillow(path: Path, palette: bool) -> np.ndarray:
    with _open(path) as image:
        try:
            depth, colour = _png_kind(path)
            deep = depth == 16
            if deep and colour == _GREY_ALPHA:
                raise _bad(path, "The picture is 16-bit grey with alpha.", "Save it without alpha.")
            if image.mode == "P" and not palette:
                if "transparency" in image.info:
                    raise _bad(path, "The palette has transparent colours.", "Save it as grey or RGB.")
                array = np.asarray(image.convert("L" if _grey_palette(image) else "RGB"))
            else:
                array = np.asarray(image)
            if deep and colour in (_RGB, _RGB_ALPHA):
                array = array.astype(np.uint16) * 256 + _low_bytes(path)
            if image.format == "PNG":
                with Image.open(path, formats=("PNG",)) as again:
                    again.verify()  # the checksums, which decoding skips
        except InputError:
            raise
        except Exception as error:  # as in _open
            raise _bad(path, f"The picture is damaged ({_first_line(error)}).") from None
        if image.mode == "1":
            array = array.astype(np.uint8) * 255
        if palette and depth < 8 and colour == _GREY:
            return array // (255 // (2**depth - 1))
        return without_alpha(path, array) if image.mode in ("LA", "RGBA") else array


def _png_kind(path: Path) -> tuple[int, int]:
    """Give the bits of a sample and the colour type of a PNG, for Pillow tells neither; (8, -1) for JPEG."""
    with open(path, "rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if head.startswith(_PNG) else (8, -1)


def _low_bytes(path: Path) -> np.ndarray:
    """Decode a 16-bit colour PNG once more, for the low bytes: by itself, Pillow keeps the high ones."""
    with Image.open(path, formats=("PNG",)) as image:
        _decode_low(image)
        return np.asarray(image)


def _decode_low(image: Any) -> None:
    """Have the decoder take the other byte; Pillow's types do not know of tiles."""
    image.tile = [tile._replace(args=str(tile.args).replace("16B", "16L")) for tile in image.tile]


def _grey_palette(image: Image.Image) -> bool:
    colours = np.asarray(image.getpalette("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def write_png(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write a picture, atomically.

    Parameters
    ----------
    path
        Ends in .png.
    image : (H, W) or (H, W, 3) uint8

    Raises
    ------
    ValueError
        Another type or shape.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"Expected (H, W) or (H, W, 3) uint8, got {image.shape} {image.dtype}.")
    with atomic_write(path) as temporary:
        Image.fromarray(np.ascontiguousarray(image)).save(temporary, format="PNG")
