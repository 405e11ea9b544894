"""Which files are cases, and what they are called."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from tagmask.errors import InputError
from tagmask.io import dicom

__all__ = ["PathLike", "case_files", "each_path", "stem"]

log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
_DICOM = (".dcm", ".dicom", ".ima")
_SUFFIXES = (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".tif", ".tiff", *_DICOM)
_UNREAD = (
    *(".mha", ".mhd", ".nrrd", ".mgz", ".mgh", ".hdr", ".bmp", ".gif", ".webp", ".jp2", ".svs"),
    *(".npy", ".zip"),
)
"""Suffixes of images, or of archives of them, that are not read."""


def stem(path: PathLike) -> str:
    """Give the name of a case from its file: without folder, suffix and leading dots, which would hide its results.

    "." and ".." are called as the folders they are.

    Examples
    --------
    >>> stem("scans/case.1.nii.gz"), stem("scans/series_7/"), stem(".b.PNG")
    ('case.1', 'series_7', 'b')
    """
    name = Path(path).name
    if name in ("", ".."):
        name = os.path.basename(os.path.realpath(path))
    name = name.lstrip(".")
    suffix = next((s for s in _SUFFIXES if name.lower().endswith(s) and len(name) > len(s)), "")
    return name[: len(name) - len(suffix)]


def each_path(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    """Give the paths of a list; one path by itself is a list of one, and not of its letters.

    Examples
    --------
    >>> each_path("scans") == each_path(["scans"]) == [Path("scans")]
    True
    """
    return [Path(paths)] if isinstance(paths, (str, os.PathLike)) else [Path(path) for path in paths]


def case_files(folder: PathLike) -> list[Path]:
    """List the inputs in a folder, sorted: NIfTI, picture and DICOM files, sub-folders with DICOM files.

    A folder that itself holds DICOM files is one input. Hidden files are skipped; links that lead nowhere are
    listed, so that the case is reported and not lost. Other folders are not entered: masks and results may lie in
    them. What is left out so, lies beside a DICOM series, or is of a format that is not read is named in a warning.

    Raises
    ------
    InputError
        No folder, or nothing in it.
    """
    folder = Path(folder)
    try:
        members = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as error:
        raise InputError(
            f"The folder cannot be read ({error.strerror}).", where=folder, repair="Check it."
        ) from None
    folders = [p for p in members if p.is_dir()]
    images = [p for p in members if p not in folders and p.name.lower().endswith(_SUFFIXES)]
    if _holds_dicom(folder):
        found = [folder]
        left = [p.name for p in images if not p.name.lower().endswith(_DICOM) and not dicom.is_dicom(p)]
        left += [p.name for p in folders if _holds_images(p)]
    else:
        found = sorted(images + [p for p in folders if _holds_dicom(p)])
        left = [p.name for p in folders if p not in found and _holds_images(p)]
    listed = _some(left)
    foreign = [p.name for p in members if p not in folders and p.name.lower().endswith(_UNREAD)]
    if not found:
        others = f", but folders with images: {listed}" if left else ""
        unread = f"; files of other formats: {_some(foreign)}" if foreign else ""
        raise InputError(
            f"The folder holds no image{others}{unread}.",
            where=folder,
            repair="Give these folders." if left else "Give a folder of NIfTI, DICOM, PNG, JPEG or TIFF.",
        )
    if left:
        kind = "beside the DICOM files" if found == [folder] else "in folders of their own"
        log.warning(
            "%s: images %s are not taken: %s. Give them as inputs of their own.", folder, kind, listed
        )
    if foreign:
        log.warning(
            "%s: files of other formats are not taken: %s. Convert them to NIfTI, PNG or TIFF.",
            folder,
            _some(foreign),
        )
    return found


def _some(names: list[str]) -> str:
    """Give the first few names."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _holds_dicom(folder: Path) -> bool:
    try:
        return any(
            dicom.is_dicom(p) for p in sorted(folder.iterdir()) if not p.name.startswith(".") and p.is_file()
        )
    except OSError:
        return False


def _holds_images(folder: Path) -> bool:
    """Whether a file below the folder is called like an image, or is DICOM where it lies right in it."""
    return _holds_dicom(folder) or any(
        name.lower().endswith(_SUFFIXES) and not name.startswith(".")
        for _, _, names in os.walk(folder)
        for name in names
    )
