"""A folder of results: masks by case, and what `segment` wrote about them. It opens no image and no mask."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagmask.data.sources import altered
from tagmask.errors import InputError, TableError
from tagmask.io import case_files, stem

__all__ = ["TOLD", "Results", "files_by_case", "may_have_read_masks", "open_results"]

TOLD = "tags of these slices"
"""Stamp of what was handed the tags of the slices that it is judged on."""


def may_have_read_masks(reads: str) -> bool:
    """Whether a row with this stamp has read masks, or may have: nobody knows of "unknown"."""
    return "mask" in reads.lower() or "unknown" in reads.lower()


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
    altered
        Cases whose mask is not the file that the manifest speaks of.
    """

    folder: Path
    masks: dict[str, Path]
    scores: dict[str, Path]
    manifest: dict[str, Any]
    slices: dict[str, list[dict[str, str]]]
    altered: tuple[str, ...] = ()

    @property
    def told(self) -> bool:
        """Whether the method was handed tags of these slices."""
        return any(line.get("tag_source") == "given" for lines in self.slices.values() for line in lines)

    @property
    def reads(self) -> str:
        """What the method was allowed to see: its training, and tags of these slices if it was handed any.

        "unknown" for masks that come without a manifest, or of which one was changed afterwards.
        """
        read = "unknown" if self.altered else str(self.manifest.get("reads", "unknown"))
        return read + (f", {TOLD}" if self.told else "")

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
        No folder, no masks in it, a manifest that is no JSON, or a segmentation that is not finished.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            "there is no such folder.", where=folder, repair="Give the output folder of `tagmask segment`."
        )
    inner = folder / "masks"
    masks = files_by_case(inner if inner.is_dir() else folder)
    scores = files_by_case(folder / "scores") if (folder / "scores").is_dir() else {}
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
    if manifest.get("status", "finished") != "finished":
        raise InputError(
            "the segmentation is not finished: masks are missing, and what they read is not written down yet.",
            where=folder / "manifest.json",
            repair="Wait for it, or run tagmask segment again, with --overwrite.",
        )
    others = altered(manifest, masks.values()) or ()
    return Results(
        folder, masks, scores, manifest, _slices(folder / "slices.csv"), tuple(stem(path) for path in others)
    )


def files_by_case(folder: Path) -> dict[str, Path]:
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
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row, bad = data.count(b"\n", 0, error.start) + 1, data[error.start : error.end]
        raise TableError(
            f"this is no UTF-8 text: {bad!r}.", where=f"{path}, row {row}", repair=_REPAIR
        ) from None
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if not {"case", "slice"} <= set(reader.fieldnames or ()):
            raise TableError("it lacks the columns case and slice.", where=path, repair="Segment again.")
        for line in reader:
            _check_line(line, f"{path}, row {reader.line_num}")
            found.setdefault(line["case"], []).append(line)
    except csv.Error as error:
        where = f"{path}, row {reader.line_num + 1}"
        raise TableError(f"the row cannot be read: {error}.", where=where, repair=_REPAIR) from None
    return found


def _check_line(line: Mapping[Any, Any], where: str) -> None:
    """Refuse a line of slices.csv whose numbers are none."""
    if None in line or None in line.values():
        raise TableError("the row does not fit the header.", where=where, repair=_REPAIR)
    for column, (wanted, holds) in _NUMBERS.items():
        value = line.get(column)
        if value and not holds(value):
            what = f"the {column} is {value[:40]!r}, and not {wanted}."
            raise TableError(what, where=where, repair=_REPAIR)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_REPAIR = "Segment again, or correct the table."
_NUMBERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "slice": ("a whole number", re.compile("[0-9]{1,9}").fullmatch),
    "tag": ("0, 1 or empty", ("0", "1", "0.0", "1.0").__contains__),
    "score": ("a number or empty", _is_float),
}
"""Columns of slices.csv that hold numbers: what is wanted, and whether a text is that."""
