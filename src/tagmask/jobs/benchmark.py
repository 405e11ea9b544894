"""Methods x data sets x folds x draws x noise seeds: train, segment and evaluate, then the tables and figures.

Weights, masks and numbers are those of `train`, `segment` and `evaluate`; the tables add means over repeats,
intervals and tests. A network that is trained is not trained again, nor is a finished cell made again; see
`tagmask.benchmarking.trainings` and `tagmask.benchmarking.cells`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from tagmask.benchmarking.bench import Bench, load_bench
from tagmask.benchmarking.cells import Cell, plan_cell
from tagmask.benchmarking.dependencies import asked, title_at, title_of
from tagmask.benchmarking.examples import draw_examples
from tagmask.benchmarking.figures import draw_figure
from tagmask.benchmarking.folds import Folds, open_folds
from tagmask.benchmarking.gather import gather
from tagmask.benchmarking.tables import write_tables
from tagmask.benchmarking.trainings import Training, training_of
from tagmask.config import plain
from tagmask.errors import ConfigError, InputError, RunError, TagmaskError
from tagmask.io import alone_in
from tagmask.jobs.benchmark_cell import CellMaker
from tagmask.jobs.train import Progress, train
from tagmask.machine import device_of, environment, free_memory
from tagmask.training.kept_features import shared_features

__all__ = ["BenchmarkResult", "benchmark"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BenchmarkResult:
    """What became of the cells.

    Parameters
    ----------
    out
        The folder: table.md, table.csv, table.json, cells/.
    table
        The Markdown.
    done, skipped
        Cells made now, and those that were there already.
    failed
        What could not be made, with the reason.
    trained, figures
        Networks trained now, with the run of each, and files drawn.
    """

    out: Path
    table: str = field(repr=False)
    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]
    trained: tuple[str, ...] = ()
    figures: tuple[Path, ...] = ()

    @property
    def exit_code(self) -> int:
        """0, or 2 where a cell failed."""
        return InputError.exit_code if self.failed else 0

    def __str__(self) -> str:
        counts = f"{len(self.done)} cells made, {len(self.skipped)} there already, {len(self.failed)} failed"
        lines = [f"trained {name}" for name in self.trained] + [f"-> {file}" for file in self.figures]
        return "\n".join([self.table, *lines, f"{counts} -> {self.out}"])


def benchmark(
    bench: Path | str,
    *,
    out: Path | str,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    device: str = "auto",
    batch: int | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
    training: Callable[[Progress], None] = lambda _: None,
) -> BenchmarkResult:
    """Train what is missing, make every cell of a benchmark that is not there yet, and write tables and figures.

    Parameters
    ----------
    bench
        A benchmark file; see `tagmask.benchmarking.bench`.
    out
        Folder for table.md, table.csv, table.json, figures and cells/. Call again to go on, or after a change of the
        file: only what changed is made anew.
    overrides
        `a.b=c` assignments on the file's protocol and data, for instance "protocol.seeds=[0]".
    only
        Train and make the cells of these rows alone, by name or by `line`; the tables hold all that is finished.
    device, batch
        As of `segment`. Trainings use the CPU where it is named, and otherwise what there is.
    report
        Called with (cells seen to, all cells).
    training
        Called with each line of the log of a training.

    Returns
    -------
    BenchmarkResult
        A cell or training that fails is named there, in the log and in the tables; the others are made all the
        same.

    Raises
    ------
    ConfigError
        The benchmark file, a row of `only`, or the device.
    RunError
        Another benchmark is at work in the folder.
    """
    out, file = Path(out), Path(bench)
    plan, device = load_bench(file, overrides), device_of(device)
    names = {row.name: row for row in plan.rows}
    for name in only:
        if name not in names and name not in {row.line for row in plan.rows}:
            raise ConfigError(f"there is no row {name!r}.", where=file, repair=f"Rows: {', '.join(names)}.")
    wanted = {name for name, row in names.items() if not only or {name, row.line} & set(only)}
    failed, done, skipped = dict[str, str](), list[str](), list[str]()
    with alone_in(out):
        folds = open_folds(plan, partial(_fail, failed))
        with shared_features():
            trained = _train(plan, wanted, folds, failed, device, training)
        cells = list(_plan(plan, wanted, folds, out / "cells", failed))
        maker = CellMaker([cell for cell in cells if cell.row.name in wanted], device, batch)
        for count, cell in enumerate(maker.ordered(cells), 1):
            if cell.evaluated and cell.segmented:
                skipped.append(cell.title)
            elif cell.row.name in wanted:
                try:
                    maker.make(cell)
                    done.append(cell.title)
                except Exception as error:
                    _fail(failed, cell.title, error)
            report(count, len(cells))
    finished = [cell for cell in cells if cell.evaluated and cell.segmented]
    tables = [table for name in plan.data if (table := gather(plan, name, finished)) is not None]
    record: dict[str, Any] = {
        "bench": file,
        "protocol": plain(plan.protocol),
        "failed": failed,
        "trained": trained,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
        "memory_measured": (finished[0].segmented or {}).get("memory_measured", "") if finished else "",
    }
    text = write_tables(out, tables, plan.protocol, record)
    figures = [file for figure in plan.figures for one in tables for file in draw_figure(figure, one, out)]
    figures += [file for one in plan.examples for file in draw_examples(one, _evaluations(finished), out)]
    return BenchmarkResult(out, text, tuple(done), tuple(skipped), failed, tuple(trained), tuple(figures))


def _evaluations(finished: Sequence[Cell]) -> dict[str, dict[str, dict[str, Path]]]:
    """Give data set -> fold -> row -> evaluation of its first cell there, as positives are scored."""
    found = dict[str, dict[str, dict[str, Path]]]()
    for cell in finished:
        positives = cell.row.tags_of("positives")
        folder = cell.evaluations / (positives if positives in cell.modes else cell.modes[0])
        found.setdefault(cell.at.data, {}).setdefault(cell.at.fold, {}).setdefault(cell.row.name, folder)
    return found


def _fail(failed: dict[str, str], title: str, error: Exception) -> None:
    known = isinstance(error, (TagmaskError, OSError))
    failed[title] = str(error) if known else f"{type(error).__name__}: {error}"
    log.warning("%s failed: %s", title, failed[title])
    log.debug("%s failed", title, exc_info=error)


def _train(
    plan: Bench,
    wanted: set[str],
    folds: Folds,
    failed: dict[str, str],
    device: str,
    report: Callable[[Progress], None],
) -> list[str]:
    """Train what the runs of the wanted rows lack, each once, and say which networks that were.

    What builds on a run whose training failed fails too, and learns nothing from the file that is there.
    """
    trained, broken = list[str](), dict[Training, str]()
    for title, ask, dependencies in asked(plan, wanted, folds):
        training = None
        try:
            for dependency in dependencies():
                if (problem := failed.get(title_of(dependency))) is not None:
                    raise RunError(f"it builds on {dependency.run}, whose training failed: {problem}")
            if (training := ask()) is None:
                continue
            if training in broken:
                raise TagmaskError(broken[training])
            experiment = training.load()
            for network in training.lacking(experiment):
                log.info("%s: the %s is trained in %s", title, network, training.run)
                where = "cpu" if device == "cpu" else "auto"
                train(experiment, out=training.run, only=network, device=where, report=report)
                trained.append(f"{network} -> {training.run}")
        except Exception as error:
            _fail(failed, title, error)
            if training is not None:
                broken[training] = failed[title]
        if title in failed:  # the error is gone by now, and with it what held the tensors of its training
            free_memory()
    return trained


def _plan(plan: Bench, wanted: set[str], folds: Folds, home: Path, failed: dict[str, str]) -> Iterator[Cell]:
    """Give every cell that can be made, and note what cannot; of rows that were not asked for, leave it out."""
    for row in plan.rows:
        for at in plan.places(row):
            if at not in folds or (title := title_at(row, at)) in failed:
                continue
            seeds = plan.protocol.seeds if row.seeds is None else row.seeds
            try:
                training = None if row.name in wanted else training_of(row, at)
                if training is not None and training.lacking(training.load()):
                    continue
                yield from [plan_cell(plan, row, folds[at], at, seed, home) for seed in seeds]
            except (TagmaskError, OSError) as error:
                if row.name in wanted:
                    _fail(failed, title, error)
                else:
                    log.info("%s is left out: %s", title, error)
