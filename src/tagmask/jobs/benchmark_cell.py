"""Make a cell of a benchmark: segment and evaluate, with one walk through the networks for all cells that it serves."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from tagmask.benchmarking.cells import Cell
from tagmask.benchmarking.memory import PeakMemory
from tagmask.errors import InputError, TagmaskError
from tagmask.jobs.evaluate import evaluate
from tagmask.jobs.segment import segment
from tagmask.machine import free_memory
from tagmask.scoring.results import open_results
from tagmask.segmenting.prediction_cache import PredictionCache, Variant
from tagmask.types import Batch, Prediction

__all__ = ["CellMaker"]

log = logging.getLogger(__name__)


@dataclass
class _Walk:
    """A walk through the networks, and the cells that still wait for what it says under each of these settings."""

    waiting: list[Cell] = field(default_factory=list)
    settings: list[Any] = field(default_factory=list)
    together: bool = True
    cache: PredictionCache | None = None
    peak: dict[str, Any] = field(default_factory=dict)

    def forget(self) -> None:
        """Let go of the predictions."""
        if self.cache is not None:
            self.cache.close()
        self.cache, self.peak = None, {}


class CellMaker:
    """Makes cells one after the other. Those whose walk through the networks is one (`Cell.walk`) share it.

    Parameters
    ----------
    cells
        All that may be made. Predictions are kept on disk until the last cell that needs them is made.
    device, batch
        As of `segment`.
    """

    def __init__(self, cells: Sequence[Cell], device: str, batch: int | None) -> None:
        self._device, self._batch, self._walks = device, batch, dict[str, _Walk]()
        for cell in (cell for cell in cells if cell.segmented is None):
            walk = self._walks.setdefault(cell.walk, _Walk())
            walk.waiting.append(cell)
            if cell.settings not in walk.settings:
                walk.settings.append(cell.settings)

    def ordered(self, cells: Sequence[Cell]) -> list[Cell]:
        """Put cells of one walk one after the other, so that no more than one is kept at a time."""
        first = dict[str, int]()
        for place, cell in enumerate(cells):
            first.setdefault(cell.walk, place)
        return sorted(cells, key=lambda cell: first[cell.walk])

    def make(self, cell: Cell) -> None:
        """Segment, unless that is finished, and evaluate. What an interrupted call left is removed first."""
        walk = self._walks.get(cell.walk, _Walk())
        walk.waiting = [other for other in walk.waiting if other is not cell]
        try:
            if cell.segmented is None:
                cell.close_segmentation(self._segment_together(cell, walk))
        finally:
            if not (walk.waiting and walk.together):
                walk.forget()
        _evaluate(cell)

    def _segment_together(self, cell: Cell, walk: _Walk) -> dict[str, Any]:
        """Segment with the others of its walk; by itself once that failed, since the fault may be another's."""
        settings = walk.settings if walk.together else [cell.settings]
        if walk.cache is None and (len(cell.modes) > 1 or (walk.waiting and walk.together)):
            walk.cache = PredictionCache(_nothing, cell.home)
        try:
            return self._segment(cell, walk, settings)
        except (TagmaskError, torch.OutOfMemoryError) as error:
            if len(settings) == 1:
                raise
            log.info(
                "the rows of %s's walk are made one by one, since together they failed: %s", cell.title, error
            )
            walk.together = False
            walk.forget()
        free_memory()
        return self._segment_together(cell, walk)

    def _segment(self, cell: Cell, walk: _Walk, settings: Sequence[Any]) -> dict[str, Any]:
        """Segment once for each source of tags, and say what the whole walk took, though others may share it."""
        shutil.rmtree(cell.folder, ignore_errors=True)
        run = replace(cell.run)  # its networks go with it when the cell is finished
        peak, seconds, slices, using = PeakMemory(self._device), 0.0, 0, None
        try:
            if walk.cache is not None:
                began = time.perf_counter()
                method = run.method(cell.row.method, device=self._device)
                walk.cache.start(partial(_predict, method, settings))
                using = Variant(walk.cache, settings.index(cell.settings), cell.settings)
                seconds = time.perf_counter() - began
            for mode in cell.modes:
                found = segment(
                    run,
                    [cell.fold.inputs],
                    out=cell.folder / mode,
                    method=cell.row.method,
                    using=using,
                    seed=cell.seed,
                    tags=mode,
                    device=self._device,
                    batch=self._batch,
                )
                _refuse_failures(found.failed, "segmented")
                if mode == cell.modes[0]:  # later modes only repeat what the first has computed
                    seconds += found.seconds + (0.0 if walk.cache is None else walk.cache.spared)
                    slices = found.slices
        finally:
            if walk.cache is not None:
                walk.cache.predict = _nothing  # the networks may go
            record = peak.record()
            for key in (key for key in walk.peak if key.endswith("_bytes")):
                record[key] = max(record[key], walk.peak[key])
            walk.peak = record
        return {
            **{"seconds": seconds, "slices": slices, "seconds_per_image": seconds / max(slices, 1)},
            **{"device": self._device, "parameters": run.size(cell.row.method)},
            **record,
        }


def _evaluate(cell: Cell) -> None:
    """Evaluate the masks of every source of tags."""
    shutil.rmtree(cell.evaluations, ignore_errors=True)
    for mode in cell.modes:
        found = evaluate(
            cell.folder / mode,
            cell.fold.truth,
            out=cell.evaluations / mode,
            table=cell.fold.table,
            val=cell.fold.val,
            train=cell.fold.train,
            name=cell.row.name,
            settings=cell.fold.settings,
        )
        _refuse_failures(dict(found.failed), "evaluated")
        inputs = open_results(cell.folder / mode).manifest.get("inputs", {})
        lost = dict.fromkeys(
            sorted(set(inputs) & set(found.summary["cases"]["missing"])), "its mask is gone."
        )
        _refuse_failures(lost, "evaluated")
        if not found.summary["slices"]["positives"]:
            raise InputError(
                f"none of the {found.summary['slices']['evaluated']} slices of {cell.fold.title} is positive.",
                where=cell.fold.truth,
                repair="Draw the folds anew, or lower min_area_frac.",
            )
    cell.close_evaluation()


def _refuse_failures(failed: Mapping[str, str], what: str) -> None:
    """A cell of fewer images than its neighbours must not stand beside them."""
    if failed:
        name, problem = next(iter(failed.items()))
        raise InputError(f"{len(failed)} cases could not be {what}; the first: {name}: {problem}")


def _predict(method: Any, settings: Sequence[Any], batch: Batch, seed: int) -> Sequence[Prediction]:
    """Give what the method says under each of these settings."""
    return [method.predict(batch, seed)] if len(settings) == 1 else method.predict_all(batch, seed, settings)


def _nothing(*_: object) -> Sequence[Any]:
    """Stand for the networks of a walk between two cells."""
    raise RuntimeError("a prediction was asked for between two cells")
