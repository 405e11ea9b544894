"""Whether what is judged was learnt from: images of the train or val split of the run that made the masks."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from tagmask.errors import TagmaskError
from tagmask.io import sha256
from tagmask.runs import Run
from tagmask.scoring.results import Results

__all__ = ["learnt_from"]

log = logging.getLogger(__name__)


def learnt_from(results: Results, images: Mapping[str, Sequence[Path]]) -> list[str]:
    """Say, in a note for the table and in a warning, how many cases the run has learnt from or was chosen by.

    Nothing is said where it cannot be known: masks without a manifest, a run or prepared data that are gone.

    Parameters
    ----------
    results
        Masks with their manifest.
    images
        Source files by case.
    """
    run = str(results.manifest.get("run") or "")
    try:
        folder = Run.open(Path(run), tuned=False).experiment.data.prepared
        record = json.loads((folder / "fingerprint.json").read_text(encoding="utf-8"))
        splits = record["splits"]
        seen = {sha for path, sha in record["sources"].items() if splits[path] in ("train", "val")}
        found = [case for case, paths in images.items() if any(sha256(path) in seen for path in paths)]
    except (TagmaskError, OSError, ValueError, KeyError, TypeError):
        return []
    if not found:
        return []
    note = (
        f"{len(found)} of {len(images)} cases, {found[0]} for instance, are of the train or val split of the data that "
        f"{run} learnt from: their numbers say little of other patients."
    )
    log.warning("%s", note)
    return [note]
