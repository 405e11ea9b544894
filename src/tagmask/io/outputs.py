"""Writing masks and score maps on a study's own grid."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.errors import GeometryError, InputError
from tagmask.io import nifti, nifti_out, pictures
from tagmask.io.guards import check_finite
from tagmask.io.tiff import write_tiff
from tagmask.types import Study

__all__ = ["write_mask", "write_scores"]

PathLike = str | os.PathLike[str]


def write_mask(path_without_suffix: PathLike, mask: np.ndarray, like: Study) -> Path:
    """Write a mask on a study's grid, atomically: .nii.gz (0, 1) for volumes, .png (0, 255) for pictures.

    Parameters
    ----------
    path_without_suffix
        The suffix is added, also to a name with a dot in it.
    mask : (I, J, K) bool
    like
        The study, whose affines and codes the file gets bit for bit.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    GeometryError
        A mask of another shape than the study.
    InputError, ResourceError
        The place cannot be written to, is a source of the study, or is full.
    """
    if mask.dtype != np.bool_:
        raise ValueError(f"Expected a bool mask, got {mask.dtype}.")
    path = _target(path_without_suffix, ".nii.gz" if like.kind == "volume" else ".png", mask, like)
    if like.kind == "picture":
        pictures.write_png(path, mask[..., 0].astype(np.uint8) * np.uint8(255))
    else:
        _write_volume(path, mask.view(np.uint8), like, level=6)
    return path


def write_scores(path_without_suffix: PathLike, scores: np.ndarray, like: Study) -> Path:
    """Write a score map on a study's grid, atomically: .nii.gz float32 for volumes, 32-bit .tif for pictures.

    Parameters
    ----------
    path_without_suffix
        As in :func:`write_mask`.
    scores : (I, J, K) float32
        Finite.
    like
        The study.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    GeometryError, InputError, ResourceError
        As :func:`write_mask`; also InputError for scores that are not finite.
    """
    path = _target(path_without_suffix, ".nii.gz" if like.kind == "volume" else ".tif", scores, like)
    check_finite(scores, path)
    scores = scores.astype(np.float32, copy=False)
    if like.kind == "picture":
        write_tiff(path, np.ascontiguousarray(scores[..., 0]))
    else:
        _write_volume(path, scores, like, level=1)
    return path


def _target(path: PathLike, suffix: str, array: np.ndarray, like: Study) -> Path:
    """Give the path with its suffix, having checked that it is no source and that the array fits."""
    target = Path(path).with_name(Path(path).name + suffix)
    if array.shape != like.shape:
        raise GeometryError(
            f"A map of {array.shape} is not on the grid {like.shape} of {like.id}.", where=target
        )
    if target.exists() and any(source.exists() and target.samefile(source) for source in like.sources):
        raise InputError(
            "The output would overwrite its own input.", where=target, repair="Choose another folder."
        )
    return target


def _write_volume(path: Path, image: np.ndarray, like: Study, level: int) -> None:
    header, flat = _header_of(like)
    nifti_out.write_image(path, image[..., 0] if flat else image, header, level)


def _header_of(study: Study) -> tuple[Any, bool]:
    """Give the NIfTI header that says where a study lies, and whether its file has two axes only."""
    source = study.sources[0] if study.sources else None
    if source is not None and source.is_file():
        with open(source, "rb") as file:
            is_nifti = nifti.is_nifti(file.read(4))
        if is_nifti:
            header = nifti.open_nifti(source)
            # The study may have been changed since it was read; then its own affine counts.
            if (
                header.shape == study.shape
                and study.affine is not None
                and (header.affine == study.affine).all()
            ):
                return header.header, int(header.header["dim"][0]) == 2
    return nifti_out.blank_header(np.eye(4) if study.affine is None else study.affine), False
