"""Make a cell of a benchmark: segment and evaluate, with one walk through the networks for all cells that it serves."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from tagmask.benchmarking.cells import Cell
from tagmask.benchmarking.memory import PeakMemory
from tagmask.errors import InputError
from tagmask.jobs.evaluate import evaluate
from tagmask.jobs.segment import SegmentResult, segment
from tagmask.scoring.results import open_results
from tagmask.segmenting.prediction_cache import PredictionCache, Variant
from tagmask.types import Batch, Prediction

__all__ = ["CellMaker"]


class CellMaker:
    """Makes cells one after the other. Those whose walk through the networks is one (`Cell.walk`) share it.

    Parameters
    ----------
    cells
        All that may be made, in order. Predictions are kept on disk until the last cell that needs them is made.
    device, batch
        As of `segment`.
    """

    def __init__(self, cells: Sequence[Cell], device: str, batch: int | None) -> None:
        self._device, self._batch = device, batch
        self._waiting, self._variants = Counter[str](), dict[str, list[Any]]()
        for cell in (cell for cell in cells if cell.segmented is None):
            self._waiting[cell.walk] += 1
            if cell.settings not in (variants := self._variants.setdefault(cell.walk, [])):
                variants.append(cell.settings)
        self._caches = dict[str, PredictionCache]()
        self._peaks = dict[str, dict[str, Any]]()

    def make(self, cell: Cell) -> None:
        """Segment, unless that is finished, and evaluate. What an interrupted call left is removed first."""
        if cell.segmented is None:
            shutil.rmtree(cell.folder, ignore_errors=True)
            cell.close_segmentation(self._segment(cell))
        _evaluate(cell)

    def _segment(self, cell: Cell) -> dict[str, object]:
        """Segment once for each source of tags, and say what it would have taken by itself."""
        run = replace(cell.run)  # its networks go with it when the cell is finished
        self._waiting[cell.walk] -= 1
        peak, took, using, began = PeakMemory(self._device), list[SegmentResult](), None, 0.0
        if (len(cell.modes) > 1 or self._waiting[cell.walk]) and cell.walk not in self._caches:
            self._caches[cell.walk] = PredictionCache(_nothing, cell.home)
        if (cache := self._caches.get(cell.walk)) is not None:
            method, variants = run.method(cell.row.method, device=self._device), self._variants[cell.walk]
            cache.predict, began = partial(_predict, method, variants), cache.spared
            using = Variant(cache, variants.index(cell.settings), cell.settings)
        try:
            for mode in cell.modes:
                took.append(
                    segment(
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
                )
                _refuse_failures(took[-1].failed, "segmented")
                if mode == cell.modes[0]:  # later modes only repeat what the first has computed
                    spared = 0.0 if cache is None else cache.spared - began
        finally:
            self._let_go(cell.walk)
        seconds, slices = took[0].seconds + spared, took[0].slices
        return {
            **{"seconds": seconds, "slices": slices, "seconds_per_image": seconds / max(slices, 1)},
            **{"device": self._device, "parameters": run.networks.size(run.needs(cell.row.method))},
            **self._memory(cell.walk, peak),
        }

    def _let_go(self, walk: str) -> None:
        """Forget the networks, and the predictions too unless another cell waits for them."""
        if (cache := self._caches.get(walk)) is not None:
            cache.predict = _nothing
            if not self._waiting[walk]:
                self._caches.pop(walk).close()

    def _memory(self, walk: str, peak: PeakMemory) -> dict[str, Any]:
        """Give the largest memory of this cell, or of an earlier one of its walk."""
        record, before = peak.record(), self._peaks.get(walk, {})
        for key in (key for key in before if key.endswith("_bytes")):
            record[key] = max(record[key], before[key])
        self._peaks[walk] = record
        return record


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


def _predict(method: Any, variants: Sequence[Any], batch: Batch, seed: int) -> Sequence[Prediction]:
    """Give what the method says under each of these settings."""
    return [method.predict(batch, seed)] if len(variants) == 1 else method.predict_all(batch, seed, variants)


def _nothing(*_: object) -> Sequence[Any]:
    """Stand for the networks of a walk between two cells."""
    raise RuntimeError("a prediction was asked for between two cells")
