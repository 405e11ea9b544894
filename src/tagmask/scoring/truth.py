"""Cases of the truth, and what tables say of their slices: paths, tags, patients and positions. It opens no mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagmask.data.sources import mask_paths
from tagmask.data.table import Case, by_study, read_table
from tagmask.errors import ConfigError, InputError
from tagmask.io import sha256
from tagmask.scoring.baselines import relative_positions
from tagmask.scoring.results import Results, files_by_case

__all__ = [
    "SliceInfo",
    "TruthCase",
    "picture_positions",
    "refuse_image",
    "refuse_shared",
    "slice_info",
    "truth_cases",
]


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
    """What tables say of a slice: the tag is never a predicted one; `given` is the one that the method was handed."""

    patient: str
    tag: int | None
    tag_source: str
    score: float
    given: int | None = None


def truth_cases(truth: Path, table: Path | None = None, *, tag: str = "label") -> dict[str, TruthCase]:
    """List the cases of the truth with their masks, images and tags.

    Parameters
    ----------
    truth
        A CSV with a column mask; a data folder with labels.csv (or one per split) and the masks where `prepare`
        looks for them: in the folder masks/<split> beside it, or in its own folder masks, by split or not; or a
        plain folder of masks.
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
        found = {i: _case(i, path, rows.get(i, [])) for i, path in files_by_case(truth).items()}
    if not found:
        raise InputError(
            "no masks were found.",
            where=truth,
            repair="Give masks, a CSV with a column mask, or a data folder.",
        )
    return found


def refuse_image(mask: Path, images: Sequence[Path]) -> None:
    """Refuse the image itself in the place of its mask: all that is not black would be the target.

    Raises
    ------
    InputError
        The file of the mask has the bytes of one of the images.
    """
    files = [image for image in images if mask.is_file() and image.is_file()]
    alike = (image for image in files if mask.stat().st_size == image.stat().st_size)
    if any(sha256(mask) == sha256(image) for image in alike):
        raise InputError("The mask is the image itself.", where=mask, repair="Give the folder of the masks.")


def refuse_shared(val: Mapping[str, TruthCase], test: Mapping[str, TruthCase], where: Path) -> None:
    """Refuse a val set with masks of the set that is judged: a rule chosen on it would have read the test masks.

    Raises
    ------
    InputError
        Naming the first file that both have.
    """
    judged = {case.mask.resolve() for case in test.values()}
    shared = [case for case in val.values() if case.mask.resolve() in judged]
    if shared:
        raise InputError(
            f"{len(shared)} of its {len(val)} masks are of the truth itself, {shared[0].mask.name} for instance.",
            where=where,
            repair="Give a val set of other patients.",
        )


def _case(name: str, mask: Path, rows: Sequence[Case]) -> TruthCase:
    return TruthCase(name, mask, rows[0].images if rows else (), tuple(rows))


def _from_table(cases: Sequence[Case]) -> dict[str, TruthCase]:
    """Cases of a table whose mask is named in it, or lies where `prepare` looks for it."""
    roots: dict[Path, dict[str, Path]] = {}
    masks: dict[str, Path | None] = {}
    studies = by_study(cases)
    for study, rows in studies.items():
        masks[study] = rows[0].mask
        if masks[study] is None:
            home = rows[0].source.resolve().parent
            root = home.parent / "masks" / home.name
            if root not in roots:
                roots[root] = files_by_case(root) if root.is_dir() else {}
            masks[study] = roots[root].get(study)
    elsewhere = mask_paths({i: rows for i, rows in studies.items() if masks[i] is None}, None)
    masks |= {i: path for i, path in elsewhere.items() if isinstance(path, Path)}
    return {i: _case(i, mask, rows) for i, rows in studies.items() if (mask := masks[i]) is not None}


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
    given = int(float(line["tag"])) if line.get("tag_source") == "given" and line.get("tag") else None
    if row is not None and row.label is not None:
        return SliceInfo(patient, row.label, "table", score, given)
    return SliceInfo(patient, given, "none" if given is None else "slices.csv", score, given)


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
