"""The few slices that an evaluation keeps as pictures for its report."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from tagmask.errors import InputError
from tagmask.grids import Plane, plan
from tagmask.io import atomic_write
from tagmask.slices import SliceSettings, split, split_map
from tagmask.types import Study

__all__ = [
    "Kind",
    "Loaded",
    "Panel",
    "PanelSlice",
    "choose",
    "cut",
    "keep_panels",
    "read_panels",
    "write_panels",
]

Kind = Literal["best", "median", "worst", "negative"]
_MAX_SIDE = 256
_MAX_PANELS = 64
# What numpy, zip, JSON and our own checks raise for a file that was cut short, swapped or made up.
_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
_NAMES = ("image", "truth", "mask", "score")


@dataclass(frozen=True)
class PanelSlice:
    """A slice that the report shows.

    Parameters
    ----------
    kind
        Why it was chosen.
    case, slice
        The case, and the index along the slice axis of its file (0 for pictures).
    dice
        Its Dice as evaluated; None where undefined.
    truth_pixels, mask_pixels
        As evaluated, in pixels.
    """

    kind: Kind
    case: str
    slice: int
    dice: float | None
    truth_pixels: int
    mask_pixels: int


@dataclass(frozen=True)
class Panel:
    """One slice in display orientation, pixels square, without padding.

    Parameters
    ----------
    choice
        Which slice, and why.
    image : (H, W) or (H, W, 3) uint8, optional
        None where the image was not found.
    truth, mask : (H, W) bool
    score : (H, W) float32, optional
        In the method's own unit; None where there is no score map.
    """

    choice: PanelSlice
    image: np.ndarray | None
    truth: np.ndarray
    mask: np.ndarray
    score: np.ndarray | None


def choose(rows: Iterable[Mapping[str, Any]], each: int = 3) -> list[PanelSlice]:
    """Choose best, median and worst positive slices, and negative ones, from the slices of one method.

    A kind prefers different patients (or cases, where no patient is named), since neighbouring slices look
    alike. Ties of Dice show the larger target. Negatives go from the largest false mask to the smallest.

    Parameters
    ----------
    rows
        Mappings with case, slice, positive, dice, truth_pixels, mask_pixels and, where known, patient; values
        as numbers or as text from a CSV.
    each
        The most slices of one kind.

    Returns
    -------
    list of PanelSlice
        Best first, then median, worst, negative; no slice twice.
    """
    positives: list[tuple[str, PanelSlice]] = []
    negatives: list[tuple[str, PanelSlice]] = []
    for row in rows:
        positive = _number(row.get("positive")) == 1
        choice = PanelSlice(
            "best" if positive else "negative",
            str(row["case"]),
            int(_number(row.get("slice")) or 0),
            _number(row.get("dice")),
            int(_number(row.get("truth_pixels")) or 0),
            int(_number(row.get("mask_pixels")) or 0),
        )
        if not positive or choice.dice is not None:
            (positives if positive else negatives).append((str(row.get("patient") or choice.case), choice))
    positives.sort(key=lambda p: (-cast(float, p[1].dice), -p[1].truth_pixels, p[1].case, p[1].slice))
    worst = sorted(positives, key=lambda p: (p[1].dice, -p[1].truth_pixels, p[1].case, p[1].slice))
    middle = sorted(enumerate(positives), key=lambda p: (abs(2 * p[0] - len(positives) + 1), p[0]))
    negatives.sort(key=lambda p: (-p[1].mask_pixels, p[1].case, p[1].slice))
    spread = [negatives[round(i)] for i in np.linspace(0, len(negatives) - 1, min(each, len(negatives)))]
    taken: set[tuple[str, int]] = set()
    share = max(1, min(each, len(positives) // 3))
    # With few slices the extremes tell more than the middle, so they choose first.
    best = _take(positives, "best", share, taken)
    low = _take(worst, "worst", share, taken)
    median = _take([p for _, p in middle], "median", share, taken)
    return [*best, *median, *low, *_take(spread, "negative", each, taken)]


def _take(
    candidates: Sequence[tuple[str, PanelSlice]], kind: Kind, most: int, taken: set[tuple[str, int]]
) -> list[PanelSlice]:
    """Take the first candidates not taken yet, one per patient where that is possible."""
    firsts: list[PanelSlice] = []
    others: list[PanelSlice] = []
    seen: set[str] = set()
    for patient, choice in candidates:
        if (choice.case, choice.slice) not in taken:
            (others if patient in seen else firsts).append(choice)
            seen.add(patient)
    chosen = [replace(choice, kind=kind) for choice in [*firsts, *others][:most]]
    taken.update((choice.case, choice.slice) for choice in chosen)
    return chosen


def _number(value: object) -> float | None:
    """Give a finite number, or None for an empty cell, NaN, or what is no number."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    try:
        number = float(cast(Any, value))
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def cut(
    choice: PanelSlice,
    study: Study,
    plane: Plane,
    *,
    truth: np.ndarray,
    mask: np.ndarray,
    scores: np.ndarray | None = None,
) -> Panel:
    """Cut the chosen slice out of a case, turned and scaled for display.

    Parameters
    ----------
    choice
        From :func:`choose`.
    study
        The image; with `sources = ()` it stands for an image that was not found, and only its grid is used.
    plane
        The plane the case was cut in.
    truth, mask : (I, J, K) bool
    scores : (I, J, K) float, optional

    Raises
    ------
    InputError
        A slice that the study does not have.
    ValueError
        Arrays that are not on the study's grid.
    """
    whole = plan(study, plane, 1)
    size = min(_MAX_SIDE, max(whole.shape[whole.rows], whole.shape[whole.cols]))
    colour = study.kind == "picture" and len(study.image) >= 3
    low, high = float(study.image.min()), float(study.image.max())
    settings = SliceSettings(
        plane=plane,
        size=size,
        # One window for all channels keeps the hue of a colour picture; percentiles suit a scan.
        normalise="window" if colour and low < high else "volume",
        window=(low, high) if colour and low < high else None,
        channels=(0, 1, 2) if colour else (0,),
    )
    pieces = split(study, settings, only=[choice.slice])
    grid, only = pieces.grid, [choice.slice]
    picture = np.rint((pieces.image[0][:, *grid.window] + 1) * 127.5).astype(np.uint8)
    picture = np.ascontiguousarray(picture.transpose(1, 2, 0)) if colour else picture[0]

    def plane_of(volume: np.ndarray) -> np.ndarray:
        return split_map(np.asarray(volume, np.float32), grid, only)[0][grid.window]

    return Panel(
        choice,
        picture if study.sources else None,
        plane_of(truth) >= 0.5,
        plane_of(mask) >= 0.5,
        None if scores is None else plane_of(scores),
    )


Loaded = tuple[Study, np.ndarray, np.ndarray, np.ndarray | None]
"""A case as the evaluation has it: image, truth, mask and scores, each on one grid; see :func:`cut`."""


def keep_panels(
    path: Path, rows: Iterable[Mapping[str, Any]], plane: Plane, load: Callable[[str], Loaded]
) -> None:
    """Choose slices, read their cases once more, and write the panels: an evaluation's part in its report.

    Parameters
    ----------
    path
        The .npz to write.
    rows
        As for :func:`choose`.
    plane
        The plane the cases were cut in.
    load
        Case to what :func:`cut` takes. A case that it cannot give any more (InputError) has no panel.
    """
    panels = []
    for choice in choose(rows):
        try:
            study, truth, mask, scores = load(choice.case)
        except InputError:
            continue
        panels.append(cut(choice, study, plane, truth=truth, mask=mask, scores=scores))
    write_panels(path, panels)


def write_panels(path: Path, panels: Sequence[Panel]) -> None:
    """Write panels to one .npz without pickle: "meta" (JSON) and image_N, truth_N, mask_N, score_N."""
    arrays: dict[str, np.ndarray] = {}
    for n, panel in enumerate(panels):
        named = {"image": panel.image, "truth": panel.truth, "mask": panel.mask, "score": panel.score}
        arrays.update({f"{name}_{n}": array for name, array in named.items() if array is not None})
    meta = np.frombuffer(json.dumps([vars(panel.choice) for panel in panels]).encode(), dtype=np.uint8)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, meta=meta, **cast(Any, arrays))


def read_panels(path: Path) -> list[Panel]:
    """Read what :func:`write_panels` wrote.

    Raises
    ------
    InputError
        A file that is damaged or was not written by Tagmask.
    """
    try:
        # Opened here, since numpy leaves a damaged file open.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes().decode())[:_MAX_PANELS]
            return [
                _panel(PanelSlice(**entry), {k: file[f"{k}_{n}"] for k in _NAMES if f"{k}_{n}" in file})
                for n, entry in enumerate(meta)
            ]
    except _DAMAGE as error:
        raise InputError(
            f"The pictures for the report cannot be read ({type(error).__name__}).",
            where=path,
            repair="Evaluate again, or delete the file to have a report without pictures.",
        ) from error


def _panel(choice: PanelSlice, arrays: Mapping[str, np.ndarray]) -> Panel:
    """Make a panel of arrays of one shape; KeyError or ValueError where they are not."""
    truth, mask, image, score = arrays["truth"], arrays["mask"], arrays.get("image"), arrays.get("score")
    for array in (truth, mask, *(a for a in (image, score) if a is not None)):
        if array.shape[:2] != truth.shape or max(array.shape) > 4096 or truth.ndim != 2:
            raise ValueError(f"shape {array.shape}")
    if choice.kind not in get_args(Kind):
        raise ValueError(f"kind {choice.kind}")
    return Panel(choice, image, truth.astype(bool), mask.astype(bool), score)
