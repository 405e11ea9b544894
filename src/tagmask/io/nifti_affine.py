"""Where a NIfTI header says its voxels lie, and when it contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from tagmask.errors import GeometryError
from tagmask.io.guards import check_affine, corner_distance

__all__ = ["affine_of", "contradiction"]

_axes: Any = nib.aff2axcodes  # nibabel is not typed


def affine_of(path: Path, header: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """Choose the affine (4, 4) float64 of a volume in mm, check it, and refuse two that contradict each other.

    Raises
    ------
    GeometryError
        Another unit, no affine that can be one, or two that cannot both be true.
    """
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    unit = int(header["xyzt_units"]) & 7
    if unit in (1, 3):
        raise GeometryError(
            f"The header measures in {'metres' if unit == 1 else 'microns'}.",
            where=path,
            repair="Write the spacing in mm and set the unit to mm.",
        )
    if sform > 0:
        affine = np.asarray(header.get_sform(), dtype=np.float64)
        check_affine(affine, path)
        if qform > 0:
            check_affine(_qform(path, header), path)
            if what := contradiction(path, header, shape):
                raise GeometryError(what, where=path, repair="Delete the wrong one (set its code to 0).")
        return affine
    edges = np.asarray(header["pixdim"][1:4], dtype=np.float64)
    if not (np.isfinite(edges).all() and (edges > 0).all()):
        raise GeometryError(
            f"The voxel edges are {', '.join(f'{edge:g}' for edge in edges)} mm.",
            where=path,
            repair="Write the true spacing, in mm, into the header.",
        )
    affine = _qform(path, header) if qform > 0 else np.asarray(header.get_base_affine(), dtype=np.float64)
    check_affine(affine, path)
    return affine


def _qform(path: Path, header: Any) -> np.ndarray:
    copy = header.copy()
    if copy["pixdim"][0] == 0:
        # The standard: 0 should not occur, and means 1.
        copy["pixdim"][0] = 1
    try:
        return np.asarray(copy.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError) as error:
        raise GeometryError(
            f"The qform is not a rotation ({error}).", where=path, repair="Write a valid sform or qform."
        ) from None


def contradiction(path: Path, header: Any, shape: tuple[int, int, int]) -> str:
    """Say how an sform and a qform cannot both be true; "" where they can.

    With one code they claim one space, and may differ by the rounding of a quaternion: a quarter of a voxel
    is allowed. With two codes they may differ (a scanner's space and an atlas's), but not about which axis is
    which.

    Parameters
    ----------
    path
        Of the file, for messages.
    header
        Of NIfTI, with both codes above 0.
    shape
        (I, J, K).

    Raises
    ------
    GeometryError
        The qform is not a rotation.
    """
    sform, qform = np.asarray(header.get_sform(), dtype=np.float64), _qform(path, header)
    allowed = float(np.linalg.norm(sform[:3, :3], axis=0).min()) / 4
    i, j, k = (max(2, n) for n in shape)  # the step from a single slice to the next counts too
    if corner_distance(sform, qform, (i, j, k)) <= allowed:
        return ""  # Halfway between two axes, rounding alone would choose their names.
    if _axes(sform) != _axes(qform):
        return f"The sform says {''.join(_axes(sform))}, the qform {''.join(_axes(qform))}."
    distance = corner_distance(sform, qform, shape)
    if int(header["sform_code"]) == int(header["qform_code"]) and not distance <= allowed:
        return f"The sform and the qform disagree by {distance:.3g} mm."
    return ""
