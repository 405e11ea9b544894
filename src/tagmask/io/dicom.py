"""DICOM: a folder with one series, or one file, by pydicom."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from tagmask.errors import GeometryError, InputError, TagmaskError
from tagmask.io.dicom_geometry import geometry
from tagmask.io.guards import check_affine, check_file, check_finite, check_voxels

__all__ = ["DicomSeries", "is_dicom", "open_dicom", "read_series"]

# As in tiff.py.
logging.getLogger("pydicom").addHandler(logging.NullHandler())

_DEFLATED = "1.2.840.10008.1.2.1.99"
_SUFFIXES = {".dcm", ".dicom", ".ima", ""}
_NO_IMAGE = {"DICOMDIR", "LICENSE", "README", "VERSION"}
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_AGAIN = "Copy or export it again."


@dataclass(frozen=True)
class DicomSeries:
    """A series whose headers have been checked, in the order of its slices.

    Parameters
    ----------
    files
        One per slice, along the normal of the plane.
    shape
        (columns, rows, slices) for a volume; (rows, columns, 1) for an image without a position, which is a
        picture.
    affine : (4, 4) float64, optional
        Voxel index to mm, RAS+.
    """

    path: Path
    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray | None


def is_dicom(path: Path) -> bool:
    """Tell a DICOM file by its content."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Turn whatever damage leads pydicom to into an InputError."""
    try:
        with warnings.catch_warnings():
            # Of odd value lengths and the like, of which no slice ever comes.
            warnings.simplefilter("ignore")
            yield
    except TagmaskError:
        raise
    except InvalidDicomError:
        raise InputError(
            "The content is not DICOM.",
            where=path,
            repair="Remove it from the folder if it is no part of the series.",
        ) from None
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"The DICOM file is damaged ({text}).", where=path, repair=_AGAIN) from None


def _header(path: Path) -> Any:
    """Read all of a file but its pixels."""
    check_file(path)
    with _guarded(path):
        syntax = str(read_file_meta_info(path).get("TransferSyntaxUID", ""))
        if syntax == _DEFLATED:
            # pydicom inflates the whole file at once, however large that gets.
            raise InputError(
                "The file is deflated.",
                where=path,
                repair="Save it uncompressed (dcmconv --write-xfer-little).",
            )
        header = pydicom.dcmread(path, stop_before_pixels=True)
        _check_kind(path, header)
    return header


def _check_kind(path: Path, header: Any) -> None:
    """Refuse what is no single grey image."""
    name = str(getattr(header.get("SOPClassUID", ""), "name", "")) or "unknown kind"
    if not header.get("Rows") or not header.get("Columns"):
        raise InputError(
            f"This is no image ({name}).", where=path, repair="Remove it from the folder of the series."
        )
    frames = int(header.get("NumberOfFrames") or 1)
    if frames > 1:
        raise InputError(
            f"The file holds {frames} frames.",
            where=path,
            repair="Convert it to NIfTI (dcm2niix) or to one file a slice.",
        )
    if any(key in header for key in _GROUPS):
        raise InputError(
            f"The image is enhanced ({name}): its place and grey values are given by functional groups.",
            where=path,
            repair="Convert it to NIfTI (dcm2niix) or to one file a slice.",
        )
    grey = str(header.get("PhotometricInterpretation", "")) in ("MONOCHROME1", "MONOCHROME2")
    if int(header.get("SamplesPerPixel") or 1) != 1 or not grey:
        raise InputError(
            f"The image is not grey ({header.get('PhotometricInterpretation', 'unknown')}).",
            where=path,
            repair="Export it as a grey image, or as a picture (PNG).",
        )
    if header.get("ModalityLUTSequence"):
        raise InputError(
            "Grey values go by a look-up table.", where=path, repair="Export it with a rescale slope."
        )


def open_dicom(path: Path) -> DicomSeries:
    """Read and check the headers of a folder's one series, or of one file; no pixel is read.

    Files that are not DICOM by name (.txt, .xml and others with a suffix of their own) are left alone.

    Raises
    ------
    InputError
        No image, several series, a damaged file, a file with several frames, functional groups or colours.
    GeometryError
        Slices that miss, coincide, or do not form a grid.
    ResourceError
        More voxels than allowed.
    """
    # Values are parsed when they are first asked for, so damage may show anywhere in here.
    with _guarded(path):
        series = _checked(path, _members(path) if path.is_dir() else [path])
    if series.affine is not None:
        check_affine(series.affine, path)
    return series


def _checked(path: Path, files: list[Path]) -> DicomSeries:
    headers = [_header(file) for file in files]
    _check_one_series(path, headers)
    shapes = sorted({(int(h.Rows), int(h.Columns)) for h in headers})
    if len(shapes) > 1:
        text = ", ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise GeometryError(
            f"The images differ in size ({text}).", where=path, repair="Keep one size in the folder."
        )
    rows, columns = shapes[0]
    check_voxels((columns, rows, len(files)), path)
    placed = all(headers[0].get(key) for key in ("ImagePositionPatient", "ImageOrientationPatient"))
    if len(files) == 1 and not placed:
        return DicomSeries(path, tuple(files), (rows, columns, 1), None)
    order, affine = geometry(path, files, headers)
    return DicomSeries(path, tuple(files[n] for n in order), (columns, rows, len(files)), affine)


def _members(folder: Path) -> list[Path]:
    """List the files of a folder that are, or should be, DICOM."""
    try:
        names = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(
            f"The folder cannot be read ({error.strerror or error}).",
            where=folder,
            repair="Change its permissions.",
        ) from None
    files = [
        path
        for path in names
        if not path.name.startswith(".")
        and path.name.upper() not in _NO_IMAGE
        and not path.is_dir()
        and (path.suffix.lower() in _SUFFIXES or path.suffix[1:].isdigit() or is_dicom(path))
    ]
    if not files:
        raise InputError(
            "The folder holds no DICOM file.", where=folder, repair="Give the folder of one series."
        )
    return files


def _check_one_series(path: Path, headers: list[Any]) -> None:
    found: dict[str, list[Any]] = {}
    for header in headers:
        found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
    if len(found) > 1:
        text = "; ".join(
            f"{group[0].get('SeriesDescription') or 'no description'} ({uid or 'no UID'}, {len(group)} files)"
            for uid, group in sorted(found.items())
        )
        raise InputError(
            f"The folder holds {len(found)} series: {text}.",
            where=path,
            repair="Put each series into its own folder.",
        )


def read_series(series: DicomSeries) -> np.ndarray:
    """Read the pixels of a checked series, rescaled to its unit; MONOCHROME1 is inverted.

    Returns
    -------
    ndarray : series.shape, float32, first axis fastest for volumes

    Raises
    ------
    InputError
        Damaged or compressed in a way that no installed decoder reads, or a scaling that is no pair of finite numbers.
    """
    if series.affine is None:
        image = _pixels(series.files[0], series.shape[:2]).astype(np.float32)[..., None]
    else:
        columns, rows, depth = series.shape
        stack = np.empty((depth, rows, columns), dtype=np.float32)
        for n, file in enumerate(series.files):
            stack[n] = _pixels(file, (rows, columns))
        image = stack.T
    check_finite(image, series.path)
    return image


def _pixels(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Decode one slice: (rows, columns) float64, rescaled."""
    with _guarded(path):
        data = pydicom.dcmread(path)
        if "PixelData" not in data:
            raise InputError("The file holds no pixels.", where=path, repair=_AGAIN)
        syntax = data.file_meta.TransferSyntaxUID
        try:
            stored = data.pixel_array
        except Exception as error:
            if not syntax.is_compressed:
                raise
            raise InputError(
                f"The pixels are compressed ({syntax.name}), and cannot be decoded here.",
                where=path,
                repair="Decompress the series (gdcmconv --raw, dcmdjpeg), or convert it to NIfTI (dcm2niix).",
            ) from error
        if stored.shape != shape:
            raise InputError(
                f"The pixels are {stored.shape}, the header says {shape}.", where=path, repair=_AGAIN
            )
        slope, intercept = (
            _one_number(path, data, "RescaleSlope", 1),
            _one_number(path, data, "RescaleIntercept", 0),
        )
        if slope == 0 or not np.isfinite((slope, intercept)).all():
            raise InputError(f"Grey values are {slope:g} x + {intercept:g}.", where=path, repair=_AGAIN)
        grey = stored.astype(np.float64)
        if data.PhotometricInterpretation == "MONOCHROME1":
            grey = (-1 if data.PixelRepresentation else 2 ** int(data.BitsStored) - 1) - grey
        return grey * slope + intercept


def _one_number(path: Path, data: Any, key: str, default: float) -> float:
    """Give the one number of a key, the default where the key is absent."""
    try:
        return float(data.get(key, default))
    except (TypeError, ValueError):
        stored = data.get_item(key).value
        raise InputError(
            f"{key} is {stored or 'empty'}, not one number.",
            where=path,
            repair="Export it again, or delete RescaleSlope and RescaleIntercept if grey values are as stored.",
        ) from None
