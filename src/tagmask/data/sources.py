"""The files behind a table: where masks lie, and what a file's content hashes to."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tagmask.data.table import Case
from tagmask.errors import InputError
from tagmask.io import sha256, stem

__all__ = ["TRAIN_MASKS", "altered", "mask_paths", "masks_read"]

log = logging.getLogger(__name__)

TRAIN_MASKS = "train masks"

_MASK_SUFFIXES = (".nii.gz", ".nii", ".png", ".tif", ".tiff")


def mask_paths(studies: Mapping[str, list[Case]], root: Path | None) -> dict[str, Path | InputError | None]:
    """Find the mask of each study: that of the table, else one under the image's name. Nothing is opened.

    Parameters
    ----------
    studies
        Rows by study, as `by_study` gives them.
    root
        The folder with <split>/<name>, or <name>, whatever the table names. None takes what the table names, or
        looks for the folder `masks` beside the table or its split folder.

    Returns
    -------
    dict
        The path by study; None where there is no mask and none is needed, since every row is tagged 0; or what is
        wrong: no mask, or one that would serve two images.
    """
    found: dict[str, Path | InputError | None] = {}
    used: dict[Path, str] = {}
    for study, rows in studies.items():
        path = (rows[0].mask if root is None else None) or _beside(rows[0], root)
        if path is None and all(row.label == 0 for row in rows):
            found[study] = None
        elif path is None:
            found[study] = InputError(
                "No mask was found.",
                where=rows[0].where,
                repair="Name it in the column mask, or put it into masks/<split> under the image's name.",
            )
        elif used.setdefault(path, study) != study:
            found[study] = InputError(
                f"It would be the mask of both {used[path]} and {study}.",
                where=path,
                repair="Name the masks in the column mask.",
            )
        else:
            found[study] = path
    return found


def _beside(case: Case, root: Path | None) -> Path | None:
    """Look for a mask under the image's name, with its suffix or another."""
    home = case.source.parent if case.row else case.source
    part = case.split or ""
    folders = [home.parent / "masks" / home.name, home / "masks" / part, home / "masks"]
    if root is not None:
        folders = [root / part, root]
    image = case.images[0]
    names = (image.name, *(stem(image) + suffix for suffix in _MASK_SUFFIXES))
    return next((f / name for f in folders for name in names if (f / name).is_file()), None)


def masks_read(paths: Iterable[Path]) -> str:
    """Say what masks were made from: a person's "train masks", or what the methods that made them read.

    Parameters
    ----------
    paths
        The files. Those of a `tagmask segment` lie in OUT/masks beside OUT/manifest.json, as it wrote them; any
        other file among them is a person's.

    Raises
    ------
    InputError
        A segmentation that was not finished, or whose manifest does not say what it wrote.
    """
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path)
    found = {_folder_reads(folder, files) for folder, files in folders.items()}
    if TRAIN_MASKS in found or not found:
        return TRAIN_MASKS
    return ", ".join(dict.fromkeys(one for read in sorted(found) for one in read.split(", ")))


def _folder_reads(folder: Path, files: list[Path]) -> str:
    manifest = folder.parent / "manifest.json"
    try:
        made = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return TRAIN_MASKS
    if folder.name != "masks" or not isinstance(made, dict) or made.get("format") != "tagmask-segmentation":
        return TRAIN_MASKS
    if made.get("status") != "finished":
        raise InputError(
            "The segmentation that these masks come from is not finished.",
            where=manifest,
            repair="Run tagmask segment again, with --overwrite.",
        )
    others = altered(made, files)
    if others is None:
        raise InputError(
            "It was written by an earlier Tagmask, and does not say by SHA-256 which masks it made.",
            where=manifest,
            repair="Run tagmask segment again, with --overwrite.",
        )
    if others:
        log.warning(
            "%d of %d masks, %s for instance, are not as tagmask segment wrote them: all count as a person's.",
            len(others),
            len(files),
            others[0],
        )
        return TRAIN_MASKS
    return str(made["reads"])


def altered(manifest: Mapping[str, Any], files: Iterable[Path]) -> list[Path] | None:
    """List the masks that are not, byte for byte, what `tagmask segment` wrote under their names.

    Parameters
    ----------
    manifest
        As `segment` wrote it.
    files
        Of OUT/masks.

    Returns
    -------
    list or None
        None for a manifest that names no masks by SHA-256.
    """
    cases = manifest.get("cases")
    made = [case for case in (cases if isinstance(cases, list) else ()) if isinstance(case, dict)]
    done = {case.get("case"): case.get("mask_sha256") for case in made if case.get("status") == "done"}
    if None in done.values() or not isinstance(cases, list):
        return None
    return [path for path in files if done.get(stem(path)) != sha256(path)]
