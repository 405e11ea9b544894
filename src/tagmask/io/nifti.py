"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz), read by content.

The bytes are read here and not by nibabel's image classes, since a header may lie: about the size of the
grid, about the length of the data, about its own orientation. Nothing is allocated or decompressed beyond
what a checked header declares. nibabel parses the header and computes the affines.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from tagmask.errors import GeometryError, InputError
from tagmask.io.guards import check_file, check_finite, check_voxels
from tagmask.io.nifti_affine import affine_of

__all__ = ["NiftiFile", "is_nifti", "open_nifti", "read_image"]

_SIZES: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_OTHER_TYPES = {1: "binary", 32: "complex64", 128: "RGB", 1536: "float128", 1792: "complex128", 2304: "RGBA"}
_MAX_EXTENSIONS = 1 << 24
_CHUNK = 1 << 20
_MAX_RATIO = 1100  # deflate cannot shrink more than 1032-fold
_AGAIN = "Copy or export it again."


@dataclass(frozen=True)
class NiftiFile:
    """A header that has been checked.

    Parameters
    ----------
    header
        As in the file, in the byte order of the file.
    shape
        (I, J, K); a 2-D file has K = 1.
    affine : (4, 4) float64
        From the sform where its code is above 0, else the qform, else the voxel edges alone.
    dtype
        Of the voxels on disk, with byte order.
    offset
        Where the voxels begin, in bytes.
    slope, intercept
        Stored value to grey value; 1 and 0 where the header has none.
    """

    path: Path
    header: Any
    shape: tuple[int, int, int]
    affine: np.ndarray
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float


def is_nifti(head: bytes) -> bool:
    """Tell from its first four bytes whether a file may be NIfTI: gzip, or the length of such a header."""
    return head[:2] == b"\x1f\x8b" or _header_kind(head) is not None


def _header_kind(head: bytes) -> tuple[int, str] | None:
    """Give the length and byte order of the header, which its first number tells; None for anything else."""
    sizes = {"<": int.from_bytes(head[:4], "little"), ">": int.from_bytes(head[:4], "big")}
    return next(((size, order) for order, size in sizes.items() if size in _SIZES), None)


@contextmanager
def _stream(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """Open the bytes of a file, through gzip where the content is gzip, whatever the name says."""
    try:
        with open(path, "rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not compressed:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield unpacked
    except EOFError:
        raise InputError(
            "The compressed data ends early: the file is cut.", where=path, repair=_AGAIN
        ) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"The compressed data is damaged ({error}).", where=path, repair=_AGAIN) from None
    except OSError as error:
        raise InputError(
            f"The file cannot be read ({error.strerror or error}).", where=path, repair=_AGAIN
        ) from None


def open_nifti(path: Path) -> NiftiFile:
    """Read and check a header; no voxel is read.

    Raises
    ------
    InputError
        Not NIfTI, damaged, or of a voxel type that is no grey value.
    GeometryError
        More than three axes, or an affine that cannot be used.
    ResourceError
        A grid above the limit.
    """
    check_file(path)
    with _stream(path) as stream:
        head = _read(stream, 4, path)
        kind = _header_kind(head)
        if kind is None:
            raise InputError(
                "The content is not NIfTI.",
                where=path,
                repair="Give a NIfTI-1 or NIfTI-2 file (.nii, .nii.gz).",
            )
        size, order = kind
        block = head + _read(stream, size - 4, path)
    with np.errstate(all="ignore"):
        try:
            # No check by nibabel, which mends some faults in silence.
            header = _SIZES[size](binaryblock=block, endianness=order, check=False)
            return _checked(path, header, size)
        except HeaderDataError as error:
            raise InputError(f"The header is damaged ({error}).", where=path, repair=_AGAIN) from None


def _read(stream: BinaryIO | gzip.GzipFile, count: int, path: Path) -> bytes:
    block = stream.read(count)
    if len(block) < count:
        raise InputError("The file ends inside its header.", where=path, repair=_AGAIN)
    return block


def _checked(path: Path, header: Any, size: int) -> NiftiFile:
    magic = header["magic"].item()
    if magic not in (b"n+1", b"n+2", b"n+2\0\r\n\x1a\n"):
        pair = magic in (b"ni1", b"ni2", b"ni2\0\r\n\x1a\n")
        what = (
            "This is one half of a .hdr/.img pair." if pair else f"The magic number {magic!r} is not NIfTI's."
        )
        raise InputError(what, where=path, repair="Save it as a single .nii or .nii.gz file.")
    shape = _shape(path, header)
    dtype = _dtype(path, header)
    slope, intercept = _scaling(path, header)
    offset = float(header["vox_offset"])
    least = size + 4
    if offset == 0:
        offset = least
    if not (least <= offset <= _MAX_EXTENSIONS and offset == int(offset)):
        raise InputError(f"The header says that voxels begin at byte {offset:g}.", where=path, repair=_AGAIN)
    affine = affine_of(path, header, shape)
    return NiftiFile(path, header, shape, affine, dtype, int(offset), slope, intercept)


def _shape(path: Path, header: Any) -> tuple[int, int, int]:
    """Give (I, J, K): two axes become three, a fourth may only have length 1."""
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise InputError(f"The header claims {dim[0]} axes.", where=path, repair=_AGAIN)
    shape = dim[1 : dim[0] + 1]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    text = " x ".join(str(n) for n in shape)
    if len(shape) == 1:
        raise GeometryError(
            f"The image has one axis ({text}).", where=path, repair="Give a 2-D or 3-D image."
        )
    check_voxels(tuple(shape[:3]), path)
    if len(shape) == 4:
        raise GeometryError(
            f"The image has {shape[3]} volumes ({text}).",
            where=path,
            repair="Save the volume that is meant as a 3-D file; channels are given as several files.",
        )
    if len(shape) > 4:
        raise GeometryError(
            f"The image has {len(shape)} axes ({text}).", where=path, repair="Give a 3-D image."
        )
    i, j, k = (*shape, 1)[:3]
    return i, j, k


def _dtype(path: Path, header: Any) -> np.dtype[Any]:
    code = int(header["datatype"])
    if code not in _TYPES:
        raise InputError(
            f"The voxels are of type {_OTHER_TYPES.get(code, f'number {code}')}, which is no grey value.",
            where=path,
            repair="Save it as an integer or float image (of a complex one, the magnitude).",
        )
    return np.dtype(_TYPES[code]).newbyteorder(header.endianness)


def _scaling(path: Path, header: Any) -> tuple[float, float]:
    """Give slope and intercept; a slope of 0 or NaN means none, as the format and its writers have it."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not np.isfinite((slope, intercept)).all():
        raise InputError(
            f"The scaling of grey values is {slope:g} x + {intercept:g}.",
            where=path,
            repair="Set scl_slope and scl_inter to finite numbers.",
        )
    return slope, intercept


def read_image(file: NiftiFile) -> np.ndarray:
    """Read the voxels of a checked file.

    Returns
    -------
    ndarray : (I, J, K) float32, first axis fastest, scaled, all finite

    Raises
    ------
    InputError
        Less or more data than the header declares, damage, or voxels that are not finite.
    """
    stored = np.frombuffer(_voxels(file), dtype=file.dtype)
    image = np.empty(stored.shape, dtype=np.float32)
    plain = (file.slope, file.intercept) == (1.0, 0.0)
    with np.errstate(all="ignore"):
        # By parts, so that the float64 of the scaling is never the size of the image.
        for start in range(0, len(stored), _CHUNK):
            part = slice(start, start + _CHUNK)
            image[part] = (
                stored[part] if plain else stored[part].astype(np.float64) * file.slope + file.intercept
            )
    check_finite(image, file.path)
    return image.reshape(file.shape, order="F")


def _voxels(file: NiftiFile) -> np.ndarray:
    """Give the bytes of all voxels, having made sure that the data ends where the header says."""
    count = file.shape[0] * file.shape[1] * file.shape[2] * file.dtype.itemsize
    size = check_file(file.path)
    with _stream(file.path) as stream:
        possible = size * _MAX_RATIO if isinstance(stream, gzip.GzipFile) else size - file.offset
        if possible < count:
            raise _short(file, max(0, possible), count, at_most=isinstance(stream, gzip.GzipFile))
        _read(stream, file.offset, file.path)
        data = np.empty(count, dtype=np.uint8)
        done = 0
        while done < count:
            part = stream.read(min(_CHUNK, count - done))
            if not part:
                raise _short(file, done, count)
            data[done : done + len(part)] = np.frombuffer(part, dtype=np.uint8)
            done += len(part)
        # One byte more: enough to see a tail, or to reach the checksum at the end of the gzip data.
        if stream.read(1):
            raise InputError(
                f"More data follows than the {count:,} bytes that the header declares.",
                where=file.path,
                repair="The header or the data is wrong: export it again.",
            )
    return data


def _short(file: NiftiFile, found: int, count: int, at_most: bool = False) -> InputError:
    most = "at most " if at_most else ""
    return InputError(
        f"The header declares {count:,} bytes of voxels, the file holds {most}{found:,}.",
        where=file.path,
        repair=_AGAIN,
    )
