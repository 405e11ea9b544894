"""Writing NIfTI: .nii.gz, atomically, with the geometry of the file it came from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tagmask.io.atomic import atomic_write
from tagmask.io.nifti_affine import contradiction

__all__ = ["blank_header", "write_image"]

_HEADER: Any = nib.Nifti1Header  # nibabel is not typed


def blank_header(affine: np.ndarray) -> Any:
    """Give a NIfTI-1 header whose sform and qform both say `affine`, in the scanner's space (code 1)."""
    header = _HEADER()
    header.set_sform(affine, code=1)
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm")
    return header


def write_image(path: Path, image: np.ndarray, like: Any, level: int = 6) -> None:
    """Write a .nii.gz, atomically, with the geometry of another header.

    Affines, codes, voxel edges and unit are copied bit for bit; but no qform is written (code 0) where the grid is
    sheared by more than a qform can hold, and it would contradict the sform.

    Parameters
    ----------
    path
        Ends in .nii.gz.
    image : (I, J, K) or (I, J), uint8 or float32
    like
        A NIfTI header.
    level
        Of compression, 1 to 9.
    """
    header = type(like)()
    header.set_data_dtype(image.dtype)
    header.set_data_shape(image.shape)
    for key in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "xyzt_units"):
        header[key] = like[key]
    for letter in "bcd":
        header[f"quatern_{letter}"] = like[f"quatern_{letter}"]
    for letter in "xyz":
        header[f"qoffset_{letter}"] = like[f"qoffset_{letter}"]
    header["pixdim"][: image.ndim + 1] = like["pixdim"][: image.ndim + 1]
    i, j, k = (*image.shape, 1)[:3]
    if header["sform_code"] > 0 and header["qform_code"] > 0 and contradiction(path, header, (i, j, k)):
        header["qform_code"] = 0
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    header["scl_slope"], header["scl_inter"] = 1, 0
    # No name and no time in the archive: the same image gives the same bytes.
    with (
        atomic_write(path) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=level, mtime=0) as packed,
    ):
        packed.write(header.binaryblock + bytes(4))
        for k in range(image.shape[-1] if image.ndim == 3 else 1):
            packed.write((image[..., k] if image.ndim == 3 else image).tobytes(order="F"))
