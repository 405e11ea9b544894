"""Which slices of an evaluation are shown: the best, median and worst of a method, and those that all methods share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

__all__ = ["Kind", "PanelSlice", "choose"]

Kind = Literal["best", "median", "worst", "negative", "shared"]
_SHARED = 4


@dataclass(frozen=True)
class PanelSlice:
    """A slice that reports and benchmarks show.

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


def choose(rows: Iterable[Mapping[str, Any]], each: int = 3) -> list[PanelSlice]:
    """Choose best, median and worst positive slices, and negative ones, from the slices of one method.

    A kind prefers different patients (or cases, where no patient is named), since neighbouring slices look
    alike. Ties of Dice show the larger target. Negatives go from the largest false mask to the smallest.
    Shared slices, small to large targets, are chosen by the truth alone: every method on one truth has the same.

    Parameters
    ----------
    rows
        Mappings with case, slice, positive, dice, truth_pixels, mask_pixels and, where known, patient; values
        as numbers or as text from a CSV.
    each
        The most slices of one kind; of shared ones there are up to four.

    Returns
    -------
    list of PanelSlice
        Best first, then median, worst, negative, no slice twice; then shared, which may be among those.
    """
    positives: list[tuple[str, PanelSlice]] = []
    negatives: list[tuple[str, PanelSlice]] = []
    targets: list[tuple[str, PanelSlice]] = []
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
        patient = str(row.get("patient") or choice.case)
        if positive and choice.truth_pixels:
            targets.append((patient, choice))
        if not positive or choice.dice is not None:
            (positives if positive else negatives).append((patient, choice))
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
    return [*best, *median, *low, *_take(spread, "negative", each, taken), *_shared(targets)]


def _shared(targets: list[tuple[str, PanelSlice]]) -> list[PanelSlice]:
    """Take the middle slice of each quarter of the target sizes, of a patient not seen yet where there is one."""
    targets.sort(key=lambda p: (p[1].truth_pixels, p[1].case, p[1].slice))
    chosen, seen = list[PanelSlice](), set[str]()
    for part in np.array_split(np.arange(len(targets)), min(_SHARED, len(targets)) or 1):
        order = sorted(part, key=lambda i: (targets[i][0] in seen, abs(2 * i - part[0] - part[-1]), i))
        for i in order[:1]:
            seen.add(targets[i][0])
            chosen.append(replace(targets[i][1], kind="shared"))
    return chosen


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
