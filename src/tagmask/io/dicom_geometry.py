"""Where the slices of a DICOM series lie: their order, and the affine that their positions make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tagmask.errors import GeometryError

__all__ = ["geometry"]

_ANGLE = 1e-3
"""How far direction cosines may differ within a series, and be off two unit vectors at right angles."""
_UNEVEN = 0.01
"""How far one gap between slices may be off the median gap, as a part of it ..."""
_ROUNDING = 0.01
"""... or in mm, for positions that were written with two decimals."""


def geometry(path: Path, files: list[Path], headers: list[Any]) -> tuple[list[int], np.ndarray]:
    """Give the order of the files along the normal, and the affine, from headers of one series and one size.

    Returns
    -------
    order
        Indices of `files`.
    affine : (4, 4) float64
        Voxel index (column, row, slice) to mm, RAS+.

    Raises
    ------
    GeometryError
        Headers without a place or with impossible directions, other planes among them, slices that miss or coincide.
    """
    cosines = np.stack(
        [_numbers(f, h, "ImageOrientationPatient", 6) for f, h in zip(files, headers, strict=True)]
    )
    _check_directions(files, headers, cosines)
    spacings = np.stack([_numbers(f, h, "PixelSpacing", 2) for f, h in zip(files, headers, strict=True)])
    if np.ptp(cosines, axis=0).max() > _ANGLE or np.ptp(spacings, axis=0).max() > _ANGLE * spacings.min():
        raise GeometryError(
            "The slices differ in orientation or pixel spacing.",
            where=path,
            repair="Remove localisers and other planes.",
        )
    along_row, along_column = cosines[0, :3], cosines[0, 3:]
    normal = np.cross(along_row, along_column)
    positions = np.stack(
        [_numbers(f, h, "ImagePositionPatient", 3) for f, h in zip(files, headers, strict=True)]
    )
    order = [int(n) for n in np.argsort(positions @ normal, kind="stable")]
    positions = positions[order]
    if len(files) == 1:
        thickness = headers[0].get("SpacingBetweenSlices") or headers[0].get("SliceThickness") or 1
        step = normal * abs(float(thickness))
    else:
        _check_gaps(path, positions @ normal, [files[n] for n in order])
        step = (positions[-1] - positions[0]) / (len(files) - 1)
        drift = positions - positions[0] - np.arange(len(files))[:, None] * step
        if np.abs(drift).max() > max(_UNEVEN * float(np.linalg.norm(step)), _ROUNDING) * 2:
            raise GeometryError(
                "The slices do not lie on one line.", where=path, repair="Export the series again."
            )
    affine = np.eye(4)
    affine[:3, 0] = along_row * spacings[0, 1]
    affine[:3, 1] = along_column * spacings[0, 0]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    # DICOM's x and y run to the patient's left and back, NIfTI's to right and front.
    affine[:2] *= -1
    return order, affine


def _numbers(path: Path, header: Any, key: str, count: int) -> np.ndarray:
    """Give a header's list of `count` finite numbers."""
    value = header.get(key)
    try:
        array = np.array([float(v) for v in value], dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise GeometryError(
            f"{key} is {value}.", where=path, repair="Export the series again, with its geometry."
        )
    return array


def _check_directions(files: list[Path], headers: list[Any], cosines: np.ndarray) -> None:
    """Refuse (files, 6) direction cosines that are no two unit vectors at right angles."""
    pairs = cosines.reshape(-1, 2, 3)
    lengths = np.abs(np.linalg.norm(pairs, axis=2) - 1).max(axis=1)
    angles = np.abs((pairs[:, 0] * pairs[:, 1]).sum(axis=1))
    worst = int(np.maximum(lengths, angles).argmax())
    if max(lengths[worst], angles[worst]) > _ANGLE:
        raise GeometryError(
            f"ImageOrientationPatient is {headers[worst].get('ImageOrientationPatient')}: "
            "these are no two directions of length 1 at right angles.",
            where=files[worst],
            repair="Export the series again, with its geometry.",
        )


def _check_gaps(path: Path, heights: np.ndarray, files: list[Path]) -> None:
    """Refuse a series with two slices in one place, or one missing."""
    gaps = np.diff(heights)
    median = float(np.median(gaps))
    least = int(gaps.argmin())
    if gaps[least] < max(1e-3, 0.05 * median):
        raise GeometryError(
            f"{files[least].name} and {files[least + 1].name} lie in the same place.",
            where=path,
            repair="Keep one image for each position (one phase, one echo) in the folder.",
        )
    worst = int(np.abs(gaps - median).argmax())
    if abs(gaps[worst] - median) > max(_UNEVEN * median, _ROUNDING):
        raise GeometryError(
            f"The gap between {files[worst].name} and {files[worst + 1].name} is {gaps[worst]:.4g} mm, "
            f"elsewhere {median:.4g} mm: slices are missing or uneven.",
            where=path,
            repair="Export the whole series again.",
        )
