"""Which trainings a benchmark asks for, and what each builds on: `[[train]]` entries whose files it reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tagmask.benchmarking.bench import Bench
from tagmask.benchmarking.folds import Folds
from tagmask.benchmarking.names import Place
from tagmask.benchmarking.rows import RowPlan
from tagmask.benchmarking.trainings import Training, training_of
from tagmask.config import plain
from tagmask.errors import TagmaskError
from tagmask.experiment import load_experiment
from tagmask.networks.kinds import NETWORKS

__all__ = ["Asked", "asked", "dependencies_of", "dependencies_of_entry", "needed", "title_at", "title_of"]


class Asked(NamedTuple):
    """A training, by a title for messages; what it is and what it builds on are found out when it is its turn."""

    title: str
    training: Callable[[], Training | None]
    dependencies: Callable[[], list[Training]]


def title_of(entry: Training) -> str:
    """Name a training before all rows."""
    return f"training of {entry.run}"


def title_at(row: RowPlan, at: Place) -> str:
    """Name a row at a place."""
    return f"{row.name} on {at}"


def asked(plan: Bench, wanted: Collection[str], folds: Folds) -> list[Asked]:
    """Give the trainings of the wanted rows, and before them the `[[train]]` entries.

    Where not all rows are wanted, only those entries that the wanted ones build on.
    """
    rows = [row for row in plan.rows if row.name in wanted]
    places = {row.name: [at for at in plan.places(row) if at in folds] for row in rows}
    first = plan.train if len(rows) == len(plan.rows) else needed(plan, places)
    return [
        *(
            Asked(title_of(entry), partial(_as_it_is, entry), partial(dependencies_of_entry, plan, entry))
            for entry in first
        ),
        *(
            Asked(title_at(row, at), partial(training_of, row, at), partial(dependencies_of, plan, row, at))
            for row in rows
            for at in places[row.name]
        ),
    ]


def _as_it_is(entry: Training) -> Training:
    return entry


def dependencies_of(plan: Bench, row: RowPlan, at: Place) -> list[Training]:
    """Give the entries that a row builds on at a place: its run, or one whose file it names.

    A row that cannot be read builds on nothing: it fails by itself.
    """
    if not plan.train:
        return []
    run = row.folder(at)
    paths = [run, Path(at.fill(row.tuned))]
    try:
        if row.experiment is None and (begun := run / "experiment.toml").is_file():
            row = replace(row, experiment=str(begun))
        if (training := training_of(row, at)) is not None:
            paths += _named(training, row.set)
    except (TagmaskError, OSError):
        return []
    return [entry for entry in plan.train if _any_under(paths, entry)]


def dependencies_of_entry(plan: Bench, entry: Training) -> list[Training]:
    """Give the other entries that an entry builds on."""
    try:
        paths = list(_named(entry))
    except (TagmaskError, OSError):
        return []
    return [one for one in plan.train if one != entry and _any_under(paths, one)]


def needed(plan: Bench, places: Mapping[str, Sequence[Place]]) -> list[Training]:
    """Give the entries that rows build on, or what these build on, in the order of the file.

    Parameters
    ----------
    places
        Name of a row -> where it is made.
    """
    rows = {row.name: row for row in plan.rows}
    found: list[Training] = []
    new = [
        one for name, some in places.items() for at in some for one in dependencies_of(plan, rows[name], at)
    ]
    while new:
        found += (new := list(dict.fromkeys(one for one in new if one not in found)))
        new = [one for entry in new for one in dependencies_of_entry(plan, entry)]
    return [entry for entry in plan.train if entry in found]


def _named(training: Training, more: Sequence[str] = ()) -> Iterator[Path]:
    """Give the files that an experiment names for all networks, or for those that are trained."""
    table = plain(load_experiment(training.experiment, (*training.set, *more)))
    for name in set(NETWORKS) - set(training.networks) if training.networks else ():
        table.pop(name, None)
    yield from (Path(text) for text in _texts(table))


def _texts(value: Any) -> Iterator[str]:
    """Give the texts of a table, and of tables and lists in it."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for one in value.values() for text in _texts(one))
    elif isinstance(value, Sequence):
        yield from (text for one in value for text in _texts(one))


def _any_under(paths: Sequence[Path], entry: Training) -> bool:
    run = entry.run.resolve()
    return any(path.resolve().is_relative_to(run) for path in paths)
