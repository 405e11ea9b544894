"""Small files for the tests of io: made here, so that each fault is known."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AFFINE = np.array([[-2.0, 0, 0, 10], [0, 1.5, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


def volume(shape: tuple[int, ...] = (5, 6, 4), dtype: Any = np.int16) -> np.ndarray:
    """Give rising numbers, so that no two voxels are alike."""
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape, order="F").astype(dtype)


def nifti_bytes(array: np.ndarray | None = None, affine: np.ndarray = AFFINE, **fields: Any) -> bytes:
    """Give an uncompressed NIfTI-1 file with header fields overwritten."""
    array = volume() if array is None else array
    library: Any = nib  # which is not typed
    header = library.Nifti1Header()
    header.set_data_dtype(array.dtype)
    header.set_data_shape(array.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["scl_slope"], header["scl_inter"] = np.nan, np.nan
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + bytes(4) + array.tobytes(order="F")


def save_nifti(
    path: Path, array: np.ndarray | None = None, affine: np.ndarray = AFFINE, **fields: Any
) -> Path:
    """Write such a file, compressed where the name ends in .gz."""
    data = nifti_bytes(array, affine, **fields)
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)
    return path


def png_bytes(array: np.ndarray, colour: int, depth: int, size: tuple[int, int] | None = None) -> bytes:
    """Give a PNG of any depth, or one whose header claims another size (width, height)."""
    height, width = array.shape[:2]
    width, height = size or (width, height)
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in array)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def slice_dataset(pixels: np.ndarray, height: float, series: str = "1.2.3.4", **fields: Any) -> FileDataset:
    """Give one CT slice, axial, at `height` mm."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.SeriesInstanceUID, data.SeriesDescription, data.Modality = series, f"series {series[-1]}", "CT"
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.PixelSpacing, data.SliceThickness = [0.8, 0.5], 3
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-30, -40, height]
    data.RescaleSlope, data.RescaleIntercept = 2, -1000
    data.PixelData = pixels.astype("<i2").tobytes()
    for name, value in fields.items():
        setattr(data, name, value)
    return data


def save_series(folder: Path, pixels: np.ndarray, heights: list[float], **fields: Any) -> Path:
    """Write (slices, rows, columns) pixels, named so that the order of names is not the order of slices."""
    folder.mkdir(exist_ok=True)
    for n, height in enumerate(heights):
        save_dicom(folder / f"im{(7 * n) % 100:03d}.dcm", slice_dataset(pixels[n], height, **fields))
    return folder


def save_dicom(path: Path, data: FileDataset) -> Path:
    """Write one DICOM file."""
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path
