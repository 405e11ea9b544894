"""Which images a run has learnt from, or was chosen by: those of the train and val splits of its prepared data."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from tagmask.data.prepared import Prepared
from tagmask.errors import RunError, TagmaskError
from tagmask.io import sha256
from tagmask.runs import Part, Run
from tagmask.scoring.results import Results

__all__ = ["LearntImage", "images_learnt", "images_of", "notes_of_reading"]

log = logging.getLogger(__name__)


class LearntImage(NamedTuple):
    """A file of prepared data, whose they are (a run's, or the folder's own), its split and its SHA-256."""

    run: Path
    path: str
    split: str
    sha256: str


def images_learnt(run: Run, method: str, **settings: Any) -> Iterator[LearntImage]:
    """Yield what the networks of a method were trained on or chosen by, as far as the prepared data are still there.

    What the backbone of a network saw, its network has seen.

    Parameters
    ----------
    run, method
        Whose they are; a combination may use those of other runs too.
    settings
        Of the method, where they are others than the run's.

    Raises
    ------
    RunError
        Data that were prepared before splits were written down.
    """
    own = (run.path, run.experiment.data.prepared)  # its val split chose, even where no network of it is used
    yield from _as_far_as_there(*own)
    others = dict.fromkeys(found for part in run.parts(method, **settings) for found in _lessons(part))
    for home, folder in others:
        if (home, folder) != own:
            yield from _as_far_as_there(home, folder)


def _as_far_as_there(home: Path, folder: Path) -> Iterator[LearntImage]:
    if (folder / "settings.json").is_file():
        yield from images_of(folder, ("train", "val"), home)


def images_of(folder: Path, splits: Sequence[str], home: Path | None = None) -> Iterator[LearntImage]:
    """Yield the files of some splits of prepared data, as of the run that learnt from them (or of the folder itself).

    Raises
    ------
    RunError
        Data that were prepared before splits were written down.
    """
    record = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
    if "splits" not in record:
        raise RunError(
            "was prepared by an earlier Tagmask, which did not write down which files are of which split.",
            where=folder,
            repair="Prepare it again with --overwrite: its fingerprint stays, and so do its runs.",
        )
    for path, sha in record["sources"].items():
        if (split := record["splits"][path]) in splits:
            yield LearntImage(home or folder, path, split, sha)


def _lessons(part: Part) -> Iterator[tuple[Path, Path]]:
    """Give the prepared folder that a run learnt from, and those of the runs whose features it reads."""
    run = part.run
    yield run.path, run.experiment.data.prepared
    for need in part.needs:
        features = getattr(getattr(run.experiment, need), "features", None)
        home = None if features is None else features.weights.resolve().parent.parent
        if home is not None and (home / "experiment.toml").is_file():
            yield home, Run.open(home, tuned=False).experiment.data.prepared


def notes_of_reading(
    results: Results, images: Mapping[str, Sequence[Path]], prepared: Prepared | None
) -> list[str]:
    """Say, in notes for the table and in warnings, what has read more of the cases judged than it should.

    Parameters
    ----------
    results
        Masks with their manifest.
    images
        Source files by case.
    prepared
        The data whose train masks are averaged for a row, if there is one.
    """
    notes = _note_of_learnt(results, images) + _note_of_altered(results, images)
    return notes + (_note_of_mean(prepared, images) if prepared is not None and prepared.supervised else [])


def _note_of_learnt(results: Results, images: Mapping[str, Sequence[Path]]) -> list[str]:
    """How many cases the run has learnt from or was chosen by; nothing where it cannot be known.

    That is: masks without a manifest, a run or prepared data that are gone.
    """
    try:
        run, used = Run.open(Path(str(results.manifest.get("run") or "")), tuned=False), results.manifest
        settings = (used.get("settings") or {}).get("method") or {}
        seen = set()
        with suppress(TagmaskError):  # a member's run that is gone: what the others learnt from still counts
            for image in images_learnt(run, str(used.get("method")), **settings):
                seen.add(image.sha256)
        found = _among(images, seen)
    except (TagmaskError, OSError, ValueError, KeyError, TypeError):
        return []
    return _noted(
        found,
        images,
        f"are of the train or val split of the data that {run.path} learnt from: their numbers say little of other "
        "patients.",
    )


def _note_of_mean(prepared: Prepared, images: Mapping[str, Sequence[Path]]) -> list[str]:
    """Of how many cases the mean of the train masks has read the truth."""
    try:
        train = {image.sha256 for image in images_of(prepared.path, ("train",))}
        found = _among(images, train)
    except (TagmaskError, OSError, ValueError, KeyError, TypeError):
        return []
    return _noted(
        found,
        images,
        f"are of the train split of {prepared.path}: the rows of the mean of the train masks have read their truth.",
    )


def _note_of_altered(results: Results, cases: Sized) -> list[str]:
    """How many masks are not those that the manifest speaks of."""
    return _noted(
        results.altered,
        cases,
        "have a mask that tagmask segment did not write as it is: what it has read is unknown.",
    )


def _among(images: Mapping[str, Sequence[Path]], hashes: set[str]) -> list[str]:
    """Give the cases that have a file of one of these hashes."""
    return [case for case, paths in images.items() if any(sha256(path) in hashes for path in paths)]


def _noted(found: Sequence[str], cases: Sized, what: str) -> list[str]:
    """Make the note of these cases, if there are any, and warn of it."""
    if not found:
        return []
    note = f"{len(found)} of {len(cases)} cases, {found[0]} for instance, {what}"
    log.warning("%s", note)
    return [note]
