"""Which result belongs to which truth: paths, tags, patients and positions. It opens no image and no mask."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.data.table import Case, by_study, read_table
from tagmask.errors import ConfigError, InputError, TableError
from tagmask.io import case_files, stem
from tagmask.scoring.baselines import relative_positions

__all__ = [
    "TOLD",
    "Results",
    "SliceInfo",
    "TruthCase",
    "open_results",
    "picture_positions",
    "slice_info",
    "truth_cases",
]


TOLD = "tags of these slices"
"""Stamp of what was handed the tags of the slices that it is judged on."""


@dataclass(frozen=True)
class TruthCase:
    """One case of the truth.

    Parameters
    ----------
    id
        The stem of its image, which names the result too.
    mask
        The file of its mask.
    images
        The source image, one file per channel; empty where it is not known.
    rows
        Its rows of the table, one a slice or one for all.
    """

    id: str
    mask: Path
    images: tuple[Path, ...] = ()
    rows: tuple[Case, ...] = ()


@dataclass(frozen=True)
class SliceInfo:
    """What tables say of a slice: the tag is never a predicted one."""

    patient: str
    tag: int | None
    tag_source: str
    score: float


@dataclass(frozen=True)
class Results:
    """A folder of results: that of `segment`, or masks (and scores) alone.

    Parameters
    ----------
    folder
        Where it lies.
    masks, scores
        Files by case; scores may be missing.
    manifest
        Of `segment`; empty otherwise.
    slices
        Lines of slices.csv by case.
    """

    folder: Path
    masks: dict[str, Path]
    scores: dict[str, Path]
    manifest: dict[str, Any]
    slices: dict[str, list[dict[str, str]]]

    @property
    def told(self) -> bool:
        """Whether the method was handed tags of these slices."""
        return any(line.get("tag_source") == "given" for lines in self.slices.values() for line in lines)

    @property
    def reads(self) -> str:
        """What the method was allowed to see: its training, and tags of these slices if it was handed any.

        "unknown" for masks that come without a manifest.
        """
        return str(self.manifest.get("reads", "unknown")) + (f", {TOLD}" if self.told else "")

    @property
    def title(self) -> str:
        """Name of the method for the table."""
        return str(self.manifest.get("method") or self.folder.resolve().name)

    def files(self, case: str) -> dict[str, Path | None]:
        """Give the mask and score map of a case."""
        return {"mask": self.masks[case], "scores": self.scores.get(case)}

    def score_source(self, cases: Iterable[str]) -> str:
        """Say where image-level scores of all these cases can be had.

        "slices.csv", else "maximum of the score map", else "area of the mask".
        """
        names = list(cases)
        if all(self.slices.get(c) and all(line.get("score") for line in self.slices[c]) for c in names):
            return "slices.csv"
        return "maximum of the score map" if all(c in self.scores for c in names) else "area of the mask"

    def images(self, case: str) -> tuple[Path, ...]:
        """Give the source files of a case that the manifest names, as far as they are still there."""
        named = self.manifest.get("inputs", {})
        paths = [self.folder / p for p in named.get(case, [])] if isinstance(named, dict) else []
        return tuple(paths) if all(p.exists() for p in paths) else ()


def open_results(folder: Path) -> Results:
    """List a folder of results.

    Parameters
    ----------
    folder
        With masks/ (and scores/, slices.csv, manifest.json), or holding the mask files themselves.

    Raises
    ------
    InputError
        No folder, no masks in it, or a manifest that is no JSON.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            "there is no such folder.", where=folder, repair="Give the output folder of `tagmask segment`."
        )
    inner = folder / "masks"
    masks = _by_stem(inner if inner.is_dir() else folder)
    scores = _by_stem(folder / "scores") if (folder / "scores").is_dir() else {}
    if not masks:
        raise InputError(
            "it holds no masks.", where=folder, repair="Give the output folder of `tagmask segment`."
        )
    manifest: dict[str, Any] = {}
    if (folder / "manifest.json").is_file():
        try:
            manifest = dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        except (ValueError, TypeError, OSError) as error:
            raise InputError(
                f"it cannot be read: {error}.", where=folder / "manifest.json", repair="Segment again."
            ) from error
    return Results(folder, masks, scores, manifest, _slices(folder / "slices.csv"))


def _by_stem(folder: Path) -> dict[str, Path]:
    """Files of a folder by the name of the case.

    Raises
    ------
    InputError
        Two files of one case.
    """
    found: dict[str, Path] = {}
    for path in case_files(folder):
        if stem(path) in found:
            raise InputError(
                f"{path.name} and {found[stem(path)].name} are both of case {stem(path)}.",
                where=folder,
                repair="Keep one file per case.",
            )
        found[stem(path)] = path
    return found


def _slices(path: Path) -> dict[str, list[dict[str, str]]]:
    """Lines of slices.csv by case; empty where there is none."""
    found: dict[str, list[dict[str, str]]] = {}
    if not path.is_file():
        return found
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"case", "slice"} <= set(reader.fieldnames or ()):
            raise TableError("it lacks the columns case and slice.", where=path, repair="Segment again.")
        for line in reader:
            found.setdefault(line["case"], []).append(line)
    return found


def truth_cases(truth: Path, table: Path | None = None, *, tag: str = "label") -> dict[str, TruthCase]:
    """List the cases of the truth with their masks, images and tags.

    Parameters
    ----------
    truth
        A CSV with a column mask; a data folder with labels.csv (or one per split) and the masks in a folder
        masks/<split> beside it; or a plain folder of masks.
    table
        Tags, patients and slices for a plain folder of masks; a CSV or a data folder.
    tag
        The tag's column.

    Raises
    ------
    ConfigError
        A table beside a truth that has one.
    InputError
        Nothing there, or no masks found.
    """
    truth = Path(truth)
    if not truth.exists():
        raise InputError(
            "there is no such file or folder.", where=truth, repair="Give masks, a table, or a data folder."
        )
    listed = truth.is_file() or (truth / "labels.csv").is_file() or any(truth.glob("*/labels.csv"))
    if listed and table is not None:
        raise ConfigError(
            f"--table {table} would not be read: {truth} has tags of its own.",
            repair="Leave it out, or give the folder of masks alone as the truth.",
        )
    if listed:
        found = _from_table(read_table(truth, tag=tag))
    else:
        rows = by_study(read_table(table, tag=tag)) if table is not None else {}
        found = {i: _case(i, path, rows.get(i, [])) for i, path in _by_stem(truth).items()}
    if not found:
        raise InputError(
            "no masks were found.",
            where=truth,
            repair="Give masks, a CSV with a column mask, or a data folder.",
        )
    return found


def _case(name: str, mask: Path, rows: Sequence[Case]) -> TruthCase:
    return TruthCase(name, mask, rows[0].images if rows else (), tuple(rows))


def _from_table(cases: Sequence[Case]) -> dict[str, TruthCase]:
    """Cases of a table whose mask is named in it, or lies in masks/<split> beside the split's folder."""
    roots: dict[Path, dict[str, Path]] = {}
    found: dict[str, TruthCase] = {}
    for study, rows in by_study(cases).items():
        mask = rows[0].mask
        if mask is None:
            home = rows[0].source.resolve().parent
            root = home.parent / "masks" / home.name
            if root not in roots:
                roots[root] = _by_stem(root) if root.is_dir() else {}
            mask = roots[root].get(study)
        if mask is not None:
            found[study] = _case(study, mask, rows)
    return found


def slice_info(case: TruthCase, results: Results | None, depth: int) -> list[SliceInfo | None]:
    """Say for each slice of a case what is known of it.

    Returns
    -------
    list
        One entry per slice, 0 .. depth - 1; None where the table lists slices of this case, but not this one.
    """
    lines = results.slices.get(case.id, []) if results is not None else []
    return [_info(case, lines, index, depth) for index in range(depth)]


def _info(case: TruthCase, lines: list[dict[str, str]], index: int, depth: int) -> SliceInfo | None:
    listed = [r for r in case.rows if r.slice is not None and depth > 1]
    row = next((r for r in listed if r.slice == index), None) if listed else next(iter(case.rows), None)
    if listed and row is None:
        return None
    line = next((n for n in lines if depth == 1 or n["slice"] == str(index)), {})
    patient = row.patient if row is not None and row.patient else line.get("patient") or case.id
    score = float(line["score"]) if line.get("score") else float("nan")
    if row is not None and row.label is not None:
        return SliceInfo(patient, row.label, "table", score)
    if line.get("tag_source") == "given" and line.get("tag"):
        return SliceInfo(patient, int(line["tag"]), "slices.csv", score)
    return SliceInfo(patient, None, "none", score)


def picture_positions(cases: dict[str, TruthCase], results: Results | None) -> dict[str, float]:
    """Place each single picture among its patient's, by the slice number of the table, in 0 .. 1.

    Pictures without a number, and volumes, are left out.
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for case in cases.values():
        lines = [] if results is None else results.slices.get(case.id, [])
        if len(case.rows) == 1 and case.rows[0].slice is not None:
            groups.setdefault(case.rows[0].patient, []).append((case.id, case.rows[0].slice))
        elif not case.rows and len(lines) == 1 and lines[0]["slice"]:
            groups.setdefault(lines[0].get("patient") or case.id, []).append(
                (case.id, int(lines[0]["slice"]))
            )
    placed: dict[str, float] = {}
    for members in groups.values():
        where = relative_positions(np.array([number for _, number in members]))
        placed |= {name: float(p) for (name, _), p in zip(members, where, strict=True)}
    return placed
