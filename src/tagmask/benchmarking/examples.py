"""Examples: the same slices by several rows of a benchmark, side by side, as the papers show them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np

from tagmask.benchmarking.names import check_file_name, known, stem_of
from tagmask.benchmarking.rows import RowPlan
from tagmask.drawing import tiles
from tagmask.drawing.charts import panel
from tagmask.errors import InputError
from tagmask.io import write_bytes
from tagmask.scoring.panels import Panel, read_panels, shared, shared_by_all

__all__ = ["ExamplesPlan", "draw_examples"]

log = logging.getLogger(__name__)

_WIDE = 24  # letters of a title in a column


@dataclass(frozen=True)
class ExamplesPlan:
    """Slices of each data set as rows of the file segment them.

    Which slices, the truth alone says (`tagmask.scoring.panels`): small to large targets, never the best of a method.

    Parameters
    ----------
    name
        Of its files: NAME-DATA.png and .svg.
    rows
        Names of rows, left to right; by default all. Each shows its first seed and draw, on the first fold that
        most of them have, as positive slices are scored.
    """

    name: str = "examples"
    rows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_file_name(self.name)

    def check(self, rows: Sequence[RowPlan]) -> None:
        """Refuse a row that the file does not have.

        Raises
        ------
        ConfigError
            With the nearest of them.
        """
        for name in self.rows:
            known(name, [row.name for row in rows], "row", f"[[examples]] {self.name}")


def draw_examples(
    plan: ExamplesPlan, evaluations: Mapping[str, Mapping[str, Mapping[str, Path]]], out: Path
) -> tuple[Path, ...]:
    """Draw the examples of every data set: a line of masks and a line of score maps for each slice.

    Parameters
    ----------
    evaluations
        Data set -> fold -> row -> folder of its evaluation, rows in the order of the file.
    out
        Folder for NAME-DATA.png and .svg.

    Returns
    -------
    tuple of Path
        What was written: nothing while no row is finished. A row whose evaluation kept none of these slices is named
        in the log and left out.
    """
    files = []
    for data, folds in evaluations.items():
        wanted = [{name: fold[name] for name in plan.rows or fold if name in fold} for fold in folds.values()]
        kept = dict[str, list[Panel]]()
        for name, folder in max(wanted, key=len).items():
            try:
                kept[name] = shared(read_panels(folder / "panels.npz"))
            except InputError as error:
                log.info("%s", error)
            if not kept.get(name):
                kept.pop(name, None)
                log.warning(
                    "%s is not among the %s: %s holds no shared slices. To have it evaluated again, delete the folder.",
                    *(name, plan.name, folder.parent),
                )
        slices = shared_by_all(list(kept.values()))
        if kept and not slices:
            log.warning("there are no %s of %s: its rows have no slice in common.", plan.name, data)
        lines = [line for panels in slices for line in _lines(list(kept), panels)]
        stem = stem_of(plan.name, data)
        for suffix, content in panel(lines).items() if lines else ():
            files.append(out / f"{stem}.{suffix}")
            write_bytes(files[-1], content)
    return tuple(files)


def _lines(names: Sequence[str], panels: Sequence[Panel]) -> list[tuple[str, list[tuple[str, np.ndarray]]]]:
    """Give two lines of tiles: the image and every mask, the truth and every score map."""
    first = panels[0]
    image = first.shown()
    masks, maps = [("image", tiles.overlay(image))], [("truth", tiles.overlay(image, truth=first.truth))]
    for name, one in zip(names, panels, strict=True):
        dice = "" if one.choice.dice is None else f"\nDice {one.choice.dice:.2f}"
        title = fill(name, _WIDE, break_long_words=False, break_on_hyphens=False)
        masks.append((f"{title}{dice}", tiles.overlay(image, mask=one.mask, truth=one.truth)))
        limits = one.score_limits()
        empty = np.full((*one.truth.shape, 3), 255, np.uint8)
        shown = empty if one.score is None or limits is None else tiles.coloured(one.score, limits)
        maps.append(("score map" if limits else "no score map", shown))
    where = f"{first.choice.case}\n{first.choice.truth_pixels:,} px"
    return [(where, masks), ("", maps)]
