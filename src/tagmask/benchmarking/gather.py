"""From finished cells to the rows of a data set's table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from tagmask.benchmarking.bench import Bench
from tagmask.benchmarking.cells import Cell
from tagmask.benchmarking.numbers import Repeat, RowNumbers, paired_tests, read_row, rows_of
from tagmask.benchmarking.tables import DataTable, Line

__all__ = ["gather"]

_COSTS = {
    "seconds_per_image": ("seconds_per_image", 1.0),
    "peak_memory_mb": ("peak_memory_bytes", 1e6),
    "peak_gpu_mb": ("peak_gpu_bytes", 1e6),
    "parameters": ("parameters", 1e6),
}
"""Column -> what cells record, and how much of it is one."""


def gather(plan: Bench, data: str, finished: Sequence[Cell]) -> DataTable | None:
    """Make the table of a data set; None while none of its cells is finished."""
    mine = [cell for cell in finished if cell.at.data == data]
    if not mine:
        return None
    one = plan.data[data]
    rows = [
        _own(plan, cells)
        for row in plan.rows
        if (cells := [cell for cell in mine if cell.row.name == row.name])
    ]
    # What knows next to nothing is the same in every cell of a fold (of a fold's draw, if it learns) that has it.
    places = list(product(one.folds, one.trivial_draws))
    first = {(cell.fold.at.fold, cell.fold.at.draw): _repeat(plan, cell) for cell in reversed(mine)}
    repeats = [first[place] for place in places if place in first]
    for key, found in _trivial(plan, mine).items():
        of_key = [found[place] for place in places if place in found]
        if len(of_key) == len(repeats):
            whole = len(of_key) == len(places)
            numbers = read_row(of_key, key, plan.protocol, complete=whole)
            rows.append(
                (numbers, Line(numbers.title, "", numbers.reads, numbers.numbers, len(of_key), len(places)))
            )
    compared = [numbers for numbers, _ in rows]
    tests = {setup: paired_tests(compared, setup) for setup in plan.protocol.setups}
    lines = [
        replace(line, tests={setup: found[i] for setup, found in tests.items()})
        for i, (_, line) in enumerate(rows)
    ]
    # Every draw has the slices of its fold.
    once = list({repeat.fold: repeat for repeat in reversed(repeats)}.values())[::-1]
    return DataTable(data, *_facts(plan, once, len(one.folds)), lines, one.published, one.draws != ("",))


def _trivial(plan: Bench, cells: Sequence[Cell]) -> dict[str, dict[tuple[str, str], Repeat]]:
    """Give, of each trivial row, the first repeat that has it in every fold and draw; those of the first cell lead."""
    found: dict[str, dict[tuple[str, str], Repeat]] = {}
    for cell in cells:
        repeat = _repeat(plan, cell)
        own, *others = (rows_of(repeat.evaluations[setup]) for setup in plan.protocol.setups)
        for key in (key for key in own[1:] if all(key in other for other in others)):
            found.setdefault(key, {}).setdefault((cell.fold.at.fold, cell.fold.at.draw), repeat)
    return found


def _own(plan: Bench, cells: Sequence[Cell]) -> tuple[RowNumbers, Line]:
    """Gather one row of the benchmark file."""
    row, data = cells[0].row, cells[0].at.data
    seeds = plan.protocol.seeds if row.seeds is None else row.seeds
    records = [record for cell in cells if (record := cell.segmented) is not None]
    costs = {}
    for column, (key, unit) in _COSTS.items():
        values = [float(record[key]) for record in records if key in record]
        if values:
            typical = np.mean if column == "seconds_per_image" else np.max
            costs[column] = float(typical(values)) / unit
    of = len(plan.data[data].folds) * len(plan.draws(row, data)) * len(seeds)
    repeats = [_repeat(plan, cell) for cell in cells]
    numbers = read_row(repeats, "method", plan.protocol, complete=len(cells) == of)
    name = row.line or row.name
    return numbers, Line(
        numbers.title, row.method, numbers.reads, numbers.numbers, len(cells), of, costs, name, row.vary
    )


def _repeat(plan: Bench, cell: Cell) -> Repeat:
    setups = plan.protocol.setups
    return Repeat(cell.at.fold, {setup: cell.evaluations / cell.row.tags_of(setup) for setup in setups})


def _facts(plan: Bench, repeats: Sequence[Repeat], folds: int) -> tuple[str, str]:
    """Say what was evaluated, and in which unit distances are."""
    paths = [repeat.evaluations[plan.protocol.setups[0]] / "summary.json" for repeat in repeats]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    total = {
        key: sum(s["slices"][key] for s in found) for key in ("positives", "evaluated", "below_min_area")
    }
    text = (
        f"{total['positives']} positive of {total['evaluated']} slices of {sum(s['patients'] for s in found)} "
        "patients"
    )
    if folds > 1:
        text += f", {len(repeats)} of {folds} folds"
    if total["below_min_area"]:
        text += f"; {total['below_min_area']} slices with too little of the target are left out"
    return f"{text}.", " or ".join(sorted({s["hd95"]["unit"] for s in found}))
