"""The few slices that an evaluation keeps as pictures for its report."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from tagmask.errors import InputError
from tagmask.grids import Plane, plan
from tagmask.io import atomic_write
from tagmask.scoring.panel_slices import Kind, PanelSlice, choose
from tagmask.slices import SliceSettings, split, split_map
from tagmask.types import Study

__all__ = [
    "Loaded",
    "Panel",
    "cut",
    "keep_panels",
    "read_panels",
    "shared",
    "shared_by_all",
    "write_panels",
]

_MAX_SIDE = 256
_MAX_PANELS = 64
# What numpy, zip, JSON and our own checks raise for a file that was cut short, swapped or made up.
_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
_NAMES = ("image", "truth", "mask", "score")


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

    def shown(self) -> np.ndarray:
        """Give the image, black where it was not found."""
        return self.image if self.image is not None else np.zeros(self.truth.shape, np.uint8)

    def score_limits(self) -> tuple[float, float] | None:
        """Give the scores to show as darkest and brightest; None where no score is known."""
        known = self.score[np.isfinite(self.score)] if self.score is not None else np.zeros(0)
        if not known.size:
            return None
        low, high = np.percentile(known, (0.5, 99.8))  # one glowing pixel would leave everything else dark
        return float(low), float(high)

    def halved(self) -> Panel:
        """Give every other pixel."""
        image, score = (None if a is None else a[::2, ::2] for a in (self.image, self.score))
        return Panel(self.choice, image, self.truth[::2, ::2], self.mask[::2, ::2], score)


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
    panels, made = list[Panel](), dict[tuple[str, int], Panel]()
    for choice in choose(rows):
        key = choice.case, choice.slice
        if key not in made:  # a shared slice may be one of the others
            try:
                study, truth, mask, scores = load(choice.case)
            except InputError:
                continue
            made[key] = cut(choice, study, plane, truth=truth, mask=mask, scores=scores)
        panels.append(replace(made[key], choice=choice))
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


def shared(panels: Sequence[Panel]) -> list[Panel]:
    """Give the slices that the truth alone chose."""
    return [panel for panel in panels if panel.choice.kind == "shared"]


def shared_by_all(evaluations: Sequence[Sequence[Panel]]) -> list[list[Panel]]:
    """Give the shared slices that all evaluations have, each as a list of their panels; small targets first."""
    kept = [{(p.choice.case, p.choice.slice): p for p in shared(panels)} for panels in evaluations]
    if not kept:
        return []
    rows = [[one[key] for one in kept] for key in kept[0] if all(key in one for one in kept)]
    return [row for row in rows if all(np.array_equal(p.truth, row[0].truth) for p in row)]


def _panel(choice: PanelSlice, arrays: Mapping[str, np.ndarray]) -> Panel:
    """Make a panel of arrays of one shape; KeyError or ValueError where they are not."""
    truth, mask, image, score = arrays["truth"], arrays["mask"], arrays.get("image"), arrays.get("score")
    for array in (truth, mask, *(a for a in (image, score) if a is not None)):
        if array.shape[:2] != truth.shape or max(array.shape) > 4096 or truth.ndim != 2:
            raise ValueError(f"shape {array.shape}")
    if choice.kind not in get_args(Kind):
        raise ValueError(f"kind {choice.kind}")
    return Panel(choice, image, truth.astype(bool), mask.astype(bool), score)
