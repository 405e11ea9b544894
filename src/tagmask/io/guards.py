"""What is checked before a file is believed: that it is there, how large it is, where its voxels lie."""

from __future__ import annotations

import itertools
import math
import os
import stat
from pathlib import Path

import numpy as np

from tagmask.errors import GeometryError, InputError, ResourceError

__all__ = [
    "MAX_PIXELS",
    "MAX_VOXELS",
    "check_affine",
    "check_file",
    "check_finite",
    "check_grid",
    "check_pixels",
    "check_voxels",
    "corner_distance",
    "same_grid",
    "without_alpha",
]

MAX_VOXELS = 512 * 512 * 2048
"""Largest study that is read, channels counted; 2 GiB as float32."""
MAX_PIXELS = 8192 * 8192
"""Largest picture that is decoded."""
SPACING_RANGE = (1e-4, 1e3)
"""Voxel edges in mm that are believed: a tenth of a micron to a metre."""
MAX_SHEAR = 0.02
"""Largest |cosine| between two voxel axes, about one degree: rounding passes, a tilted gantry does not."""


def check_file(path: Path) -> int:
    """Give the size in bytes of a readable, regular, non-empty file.

    Raises
    ------
    InputError
        Missing, a dangling or looping link, a folder or device, unreadable, or 0 bytes long.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        what = f"The file cannot be reached ({error.strerror or error})."
        if isinstance(error, FileNotFoundError):
            what = "The link leads nowhere." if path.is_symlink() else "There is no such file."
        raise InputError(what, where=path, repair="Check the path.") from None
    except ValueError as error:
        raise InputError(
            f"This is no path ({error}).", where=repr(str(path)), repair="Check the path."
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(
            "This is not a file.", where=path, repair="Give a NIfTI, DICOM, PNG, JPEG or TIFF file."
        )
    if status.st_size == 0:
        raise InputError("The file is empty (0 bytes).", where=path, repair="Copy or export it again.")
    if not os.access(path, os.R_OK):
        raise InputError("The file may not be read.", where=path, repair="Change its permissions.")
    return status.st_size


def check_voxels(shape: tuple[int, ...], where: object, limit: int | None = None) -> None:
    """Refuse a grid that is empty or larger than `limit` (default MAX_VOXELS), before anything is allocated.

    Raises
    ------
    GeometryError
        An edge is 0 or negative.
    ResourceError
        More voxels than the limit.
    """
    limit = MAX_VOXELS if limit is None else limit
    text = " x ".join(str(n) for n in shape)
    if min(shape) < 1:
        raise GeometryError(f"The grid {text} is empty.", where=where, repair="Export the image again.")
    if math.prod(shape) > limit:
        raise ResourceError(
            f"The grid {text} has more than the {limit:,} voxels that are allowed.",
            where=where,
            repair="Crop or resample the image, or export it again if its header is wrong.",
        )


def check_pixels(path: Path, height: int, width: int) -> None:
    """Refuse a picture of more than MAX_PIXELS pixels, before it is decoded.

    Raises
    ------
    ResourceError
        Names both edges.
    """
    if height * width > MAX_PIXELS:
        raise ResourceError(
            f"The picture has {width:,} x {height:,} pixels, more than the {MAX_PIXELS:,} that are allowed.",
            where=path,
            repair="Crop it or make it smaller.",
        )


def without_alpha(path: Path, array: np.ndarray) -> np.ndarray:
    """Drop the last channel of a (rows, columns, 2 or 4) picture where it is opaque everywhere.

    Raises
    ------
    InputError
        A pixel is transparent: what is behind it is not in the file.
    """
    if (array[..., -1] != np.iinfo(array.dtype).max).any():
        raise InputError(
            "The picture is partly transparent.", where=path, repair="Flatten it: save it without alpha."
        )
    return array[..., 0] if array.shape[-1] == 2 else array[..., :-1]


def check_finite(image: np.ndarray, where: object) -> None:
    """Refuse an image with a voxel that is NaN, infinite, or too large for float32.

    Raises
    ------
    InputError
        Names the number of such voxels.
    """
    bad = image.size - int(np.count_nonzero(np.isfinite(image)))
    if bad:
        raise InputError(
            f"{bad:,} of {image.size:,} voxels are NaN, infinite or beyond float32.",
            where=where,
            repair="Replace them (numpy.nan_to_num, or set the background to 0) and save the image again.",
        )


def check_affine(affine: np.ndarray, where: object) -> None:
    """Refuse an affine that does not say where the voxels lie. Oblique and flipped axes are fine.

    Parameters
    ----------
    affine : (4, 4) float64
        Voxel index to mm.

    Raises
    ------
    GeometryError
        Not finite, singular, sheared, or with voxel edges outside SPACING_RANGE.
    """
    if not np.isfinite(affine).all():
        raise GeometryError(
            "The affine holds NaN or infinity.", where=where, repair="Write a valid sform or qform."
        )
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE
    if not ((edges >= low) & (edges <= high)).all():
        raise GeometryError(
            f"Voxel edges of {', '.join(f'{edge:g}' for edge in edges)} mm are not in {low:g} to {high:g}.",
            where=where,
            repair="Write the true spacing, in mm, into the header.",
        )
    unit = affine[:3, :3] / edges
    cosines = np.abs(unit.T @ unit - np.eye(3))
    if abs(np.linalg.det(unit)) < 1e-3:
        raise GeometryError(
            "The affine is singular: two voxel axes coincide.",
            where=where,
            repair="Write a valid sform or qform.",
        )
    if cosines.max() > MAX_SHEAR:
        degrees = 90 - math.degrees(math.acos(min(1.0, float(cosines.max()))))
        raise GeometryError(
            f"The voxel axes are not at right angles (off by {degrees:.1f} degrees).",
            where=where,
            repair="Resample the image to an orthogonal grid (nibabel.processing.resample_to_output).",
        )


def corner_distance(a: np.ndarray, b: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Give the largest distance in mm between the corners of a grid under two affines."""
    corners = np.array([[*c, 1.0] for c in itertools.product(*((0, n - 1) for n in shape))])
    return float(np.linalg.norm(corners @ (a - b).T[:, :3], axis=1).max())


def same_grid(
    a: np.ndarray | None, b: np.ndarray | None, shape: tuple[int, int, int], tolerance: float = 1e-3
) -> bool:
    """Tell whether two affines put a grid in the same place, within `tolerance` mm at every corner.

    Parameters
    ----------
    a, b : (4, 4) float64 or None
        None (pictures) agrees with None alone.
    shape
        (I, J, K), which both have.
    """
    if a is None or b is None:
        return a is b
    return corner_distance(a, b, shape) <= tolerance


def check_grid(
    found: tuple[tuple[int, ...], np.ndarray | None],
    wanted: tuple[tuple[int, int, int], np.ndarray | None],
    where: object,
    name: object,
    *,
    what: str = "mask",
    of: str = "its image",
) -> None:
    """Refuse a mask that does not lie on the grid of its image, or the like; noise of 0.001 mm is none.

    Parameters
    ----------
    found, wanted
        (I, J, K) and affine of each.
    where, name
        The file of the one, and what the other is called.
    what, of
        What they are.

    Raises
    ------
    GeometryError
        Another shape, or another place.
    """
    repair = f"Resample it to the grid of {name}."
    if found[0] != wanted[0]:
        shapes = [" x ".join(map(str, shape)) for shape in (found[0], wanted[0])]
        raise GeometryError(f"The {what} is {shapes[0]}, {of} is {shapes[1]}.", where=where, repair=repair)
    if not same_grid(found[1], wanted[1], wanted[0]):
        raise GeometryError(f"The {what} lies elsewhere than {of} (affine).", where=where, repair=repair)
