"""The folder of a segmentation: its manifest and tables, and what an earlier job left in it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tagmask.data.table import Case
from tagmask.segmenting.cases import source_names

__all__ = ["clear"]


def clear(out: Path, studies: dict[str, list[Case]]) -> None:
    """Remove what an earlier job of this folder left, so that its results do not pass for those of this one."""
    try:
        before = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        before = {}
    inputs = {path for rows in studies.values() for path in source_names(rows)}
    cases = [case for case in before if Path(case).name == case] if isinstance(before, dict) else []
    maps = (".nii.gz", ".tif")
    kinds = {"masks": (".nii.gz", ".png"), "scores": maps, "uncertainty": maps}
    names = [f"{kind}/{case}{suffix}" for case in cases for kind in kinds for suffix in kinds[kind]]
    for name in ("slices.csv", "failed.csv", *names):
        if os.path.realpath(out / name) not in inputs:
            (out / name).unlink(missing_ok=True)
