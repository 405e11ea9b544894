"""Reading studies, masks and score maps, whatever the format they are kept in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tagmask.errors import GeometryError, InputError
from tagmask.io import dicom, nifti, pictures, stacks
from tagmask.io.folders import PathLike, stem
from tagmask.io.guards import check_file, check_finite, check_voxels, corner_distance, same_grid
from tagmask.types import Study

__all__ = [
    "Mask",
    "StudyHeader",
    "mask_labels",
    "read_header",
    "read_mask",
    "read_scores",
    "read_study",
]

Kind = Literal["volume", "picture"]


@dataclass(frozen=True)
class StudyHeader:
    """What a file says of its image before a pixel is read.

    Parameters
    ----------
    shape
        (I, J, K).
    channels
        Of this file.
    affine : (4, 4) float64, optional
        Voxel index to mm, RAS+; None for pictures.
    kind
        "volume" or "picture".
    """

    shape: tuple[int, int, int]
    channels: int
    affine: np.ndarray | None
    kind: Kind


@dataclass(frozen=True)
class Mask:
    """A mask as it lies on disk.

    Parameters
    ----------
    array : (I, J, K) bool
    affine : (4, 4) float64, optional
        None for pictures.
    """

    array: np.ndarray
    affine: np.ndarray | None


@dataclass(frozen=True)
class _Source:
    """A file whose header has been checked."""

    header: StudyHeader
    nifti: nifti.NiftiFile | None = None
    series: dicom.DicomSeries | None = None
    jpeg: bool = False


def _open(path: Path) -> _Source:
    """Tell what a path holds by its content, and check its header."""
    if os.path.isdir(path):
        return _dicom_source(path)
    check_file(path)
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        raise InputError(
            f"The file cannot be read ({error.strerror}).", where=path, repair="Copy it again."
        ) from None
    if pictures.is_picture(head):
        channels, rows, columns = pictures.picture_shape(path)
        return _Source(
            StudyHeader((rows, columns, 1), channels, None, "picture"), jpeg=pictures.is_jpeg(head)
        )
    if nifti.is_nifti(head):
        file_ = nifti.open_nifti(path)
        return _Source(StudyHeader(file_.shape, 1, file_.affine, "volume"), nifti=file_)
    if head[128:] == b"DICM":
        return _dicom_source(path)
    what = (
        "This is a zip archive."
        if head[:2] == b"PK"
        else "The content is none of NIfTI, DICOM, PNG, JPEG, TIFF."
    )
    raise InputError(what, where=path, repair="Unpack or export the image to one of these formats.")


def _dicom_source(path: Path) -> _Source:
    series = dicom.open_dicom(path)
    kind: Kind = "picture" if series.affine is None else "volume"
    return _Source(StudyHeader(series.shape, 1, series.affine, kind), series=series)


def _pixels(path: Path, source: _Source, palette: bool = False) -> np.ndarray:
    """Give the (C, I, J, K) image of a checked file; finite."""
    if source.nifti is not None:
        return nifti.read_image(source.nifti)[None]
    if source.series is not None:
        return dicom.read_series(source.series)[None]
    image = pictures.read_picture(path, palette)[..., None]
    check_finite(image, path)
    return image


def read_header(path: PathLike) -> StudyHeader:
    """Read shape, channels, affine and kind of a file or DICOM folder; no pixel is read.

    Raises
    ------
    InputError, GeometryError, ResourceError
        As :func:`read_study`, as far as headers tell.
    """
    return _open(Path(path)).header


def read_study(path: PathLike | Sequence[PathLike], *, id: str) -> Study:
    """Read an image: NIfTI, DICOM series (folder or file), PNG, JPEG or TIFF; several files are its channels.

    Formats are told by content, so a wrong suffix does no harm. Grey values are those of the file, with its
    own scaling applied. Nothing is allocated before headers have been checked, and nothing is unpickled.

    Parameters
    ----------
    path
        One file or DICOM folder, or one for each channel, on one grid (within 1e-3 mm).
    id
        Name of the case.

    Returns
    -------
    Study
        Its image is finite. In memory the file's first axis is the fastest.

    Raises
    ------
    InputError
        Missing, damaged, of another format, or with voxels that are not finite.
    GeometryError
        An affine that cannot be used, more than one volume, slices that miss, channels on different grids.
    ResourceError
        More voxels than allowed.
    """
    paths = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(p) for p in path]
    if not paths:
        raise InputError("No file is given.", where=id, repair="Give one file for each channel.")
    sources = [_open(p) for p in paths]
    first = sources[0].header
    for p, source in zip(paths[1:], sources[1:], strict=True):
        _check_channel(paths[0], first, p, source.header)
    channels = sum(source.header.channels for source in sources)
    check_voxels((channels, *first.shape), paths[0])
    if len(paths) == 1:
        image = _pixels(paths[0], sources[0]).astype(np.float32, copy=False)
    else:
        i, j, k = first.shape
        image = np.empty((channels, k, j, i), dtype=np.float32).transpose(0, 3, 2, 1)
        done = 0
        for p, source in zip(paths, sources, strict=True):
            image[done : done + source.header.channels] = _pixels(p, source)
            done += source.header.channels
    return Study(id, image, first.affine, first.kind, tuple(paths))


def _check_channel(first_path: Path, first: StudyHeader, path: Path, header: StudyHeader) -> None:
    """Refuse a channel that does not lie on the grid of the first."""
    repair = "Resample it to the grid of the first channel."
    if header.kind != first.kind or header.shape != first.shape:
        text = " x ".join(map(str, header.shape)), " x ".join(map(str, first.shape))
        raise GeometryError(
            f"The {header.kind} is {text[0]}, {first_path.name} is a {first.kind} of {text[1]}.",
            where=path,
            repair=repair,
        )
    if (
        header.affine is not None
        and first.affine is not None
        and not same_grid(header.affine, first.affine, first.shape)
    ):
        distance = corner_distance(header.affine, first.affine, first.shape)
        raise GeometryError(
            f"It lies {distance:.3g} mm off the grid of {first_path.name}.", where=path, repair=repair
        )


def read_mask(
    path: PathLike, *, labels: tuple[int, ...] | None = None, image: PathLike | None = None
) -> Mask:
    """Read a mask.

    Parameters
    ----------
    path
        NIfTI, PNG or TIFF (JPEG changes labels and is refused). A palette picture gives its indices. Or a
        folder with a PNG for each slice of a DICOM folder, see :func:`tagmask.io.stacks.stack_labels`.
    labels
        Values that count as foreground; None is every value above 0.
    image
        The DICOM folder whose slices the pictures of a folder are of.

    Raises
    ------
    InputError
        Damaged; values that are not finite; a soft mask (fractions, other than 0 and one value); colours;
        values below 0 where no labels are named.
    GeometryError
        Pictures that do not fit their DICOM slices.
    """
    path = Path(path)
    if image is not None and path.is_dir() and (slices := stacks.label_pictures(path)):
        found: tuple[np.ndarray, np.ndarray | None] = stacks.stack_labels(slices, Path(image))
    else:
        found = _mask_values(path, labels)
    values, affine = found
    return Mask(values > 0 if labels is None else np.isin(values, labels), affine)


def mask_labels(path: PathLike) -> list[int]:
    """Give the values that a mask of one file has, rising.

    Raises
    ------
    InputError
        As :func:`read_mask`, and fractions.
    """
    return [int(value) for value in np.unique(_mask_values(Path(path), ())[0])]


def _mask_values(path: Path, labels: tuple[int, ...] | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the (I, J, K) labels of a single file or series, and its affine."""
    source = _open(path)
    if source.jpeg:
        raise InputError("JPEG does not keep labels.", where=path, repair="Save the mask as PNG.")
    image = _pixels(path, source, palette=True)
    if len(image) > 1 and not (image == image[:1]).all():
        raise InputError(
            "The mask is in colour.", where=path, repair="Save it as one grey channel of labels."
        )
    if image.dtype.kind == "f":
        _check_hard(path, image[0], labels)
    if labels is None and (low := image[0].min()) < 0:
        raise InputError(
            f"The mask holds values below 0, down to {low:g}.",
            where=path,
            repair="Give a mask, or name the values that are the target (--mask-labels).",
        )
    return image[0], source.header.affine


def _check_hard(path: Path, values: np.ndarray, labels: tuple[int, ...] | None) -> None:
    """Refuse fractions, but for a mask of 0 and one other value."""
    if not (values != np.rint(values)).any():
        return
    if labels is not None:
        raise InputError(
            "Labels are asked for, but the mask holds fractions.",
            where=path,
            repair="Save it as whole numbers.",
        )
    distinct = np.unique(values)
    if len(distinct) != 2 or distinct[0] != 0:
        raise InputError(
            f"The mask is soft: it holds {len(distinct)} different values, some of them fractions.",
            where=path,
            repair="Threshold it (usually at 0.5) and save it again.",
        )


def read_scores(path: PathLike) -> np.ndarray:
    """Read a score map as :func:`tagmask.io.write_scores` wrote it: (I, J, K) float32.

    Raises
    ------
    InputError
        Not a NIfTI or TIFF of one channel.
    """
    study = read_study(path, id=stem(path))
    if len(study.image) != 1:
        raise InputError("The score map has colours.", where=path, repair="Give a file of scores/.")
    return study.image[0]
