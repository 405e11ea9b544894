"""The tables of a benchmark: one number a line for programs, Markdown in the form of the papers' for people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tagmask.benchmarking.numbers import UNTESTED, Number, PairedTest
from tagmask.benchmarking.protocol import METRIC_NAMES, Protocol
from tagmask.benchmarking.published import Printed, published_table
from tagmask.benchmarking.rows import Value
from tagmask.io import write_json, write_text
from tagmask.scoring.scoreboard import to_json, write_numbers

__all__ = ["CSV_COLUMNS", "DataTable", "Line", "show_number", "show_printed", "write_tables"]

CSV_COLUMNS = (
    *("data", "row", "source", "method", "reads", "setup", "per", "metric", "mean", "sd", "repeats"),
    *("low", "high", "p", "against", "patients"),
)
"""Columns of table.csv; those of varied settings stand before the setup."""
_HERE = "here"
_NAN = float("nan")


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Parameters
    ----------
    title, method, reads
        The method is empty for rows that know next to nothing.
    numbers
        (setup, metric) -> number.
    repeats, of
        Finished cells, and how many there should be.
    costs
        "seconds_per_image" and "peak_memory_mb", "peak_gpu_mb" where they were measured, "parameters" in millions.
    line, vary
        Its line in a figure, and the values of its varied settings.
    tests
        Setup -> paired test; None for the best row.
    """

    title: str
    method: str
    reads: str
    numbers: Mapping[tuple[str, str], Number]
    repeats: int
    of: int
    costs: Mapping[str, float] = field(default_factory=dict)
    line: str = ""
    vary: Mapping[str, Value] = field(default_factory=dict)
    tests: Mapping[str, PairedTest | None] = field(default_factory=dict)


@dataclass(frozen=True)
class DataTable:
    """The rows of one data set.

    Parameters
    ----------
    data
        Its name.
    facts
        What was evaluated, in words.
    hd95_unit
        "mm" or "px".
    lines
        Ours.
    published
        Names of the papers' tables that are shown below.
    has_draws
        Whether there are draws of the training pictures.
    """

    data: str
    facts: str
    hd95_unit: str
    lines: Sequence[Line]
    published: Sequence[str]
    has_draws: bool = False


def write_tables(
    out: Path, tables: Sequence[DataTable], protocol: Protocol, record: Mapping[str, Any]
) -> str:
    """Write table.csv, table.md and, last, table.json.

    Parameters
    ----------
    record
        What table.json and the notes say besides: "failed" cells, "trained" networks, "memory_measured",
        environment.

    Returns
    -------
    str
        The Markdown.
    """
    csv_lines = [line for table in tables for line in _csv(table, protocol)]
    varied = dict.fromkeys(name for table in tables for line in table.lines for name in line.vary)
    place = CSV_COLUMNS.index("setup")
    write_numbers(out / "table.csv", (*CSV_COLUMNS[:place], *varied, *CSV_COLUMNS[place:]), csv_lines)
    text = _markdown(tables, protocol, record)
    write_text(out / "table.md", text)
    content = {
        "format": "tagmask-benchmark",
        "version": 1,
        **record,
        "sets": {t.data: {"evaluated": t.facts, "hd95_unit": t.hd95_unit} for t in tables},
        "numbers": csv_lines,
    }
    write_json(out / "table.json", to_json(content), ascii=False)
    return text


def _csv(table: DataTable, protocol: Protocol) -> Iterator[dict[str, object]]:
    for line in table.lines:
        head: dict[str, object] = {"data": table.data, "row": line.title, "source": _HERE}
        head |= {"method": line.method, "reads": line.reads, **line.vary}
        for (setup, metric), number in line.numbers.items():
            test = line.tests.get(setup) if metric == "dice" else None
            yield {
                **{**head, "setup": setup, "per": protocol.per(metric), "metric": metric},
                **number._asdict(),
                **(test._asdict() if test is not None and test is not UNTESTED else {}),
            }
        for metric, cost in line.costs.items():
            yield {**head, "metric": metric, "mean": cost, "repeats": line.repeats}
    for printed in (p for name in table.published for p in published_table(name)):
        mean, sd = printed.number
        yield {
            **{"data": table.data, "row": printed.row, "source": _source(printed), "reads": printed.reads},
            **{"setup": printed.setup, "metric": printed.metric, "mean": mean, "sd": sd},
        }


def _source(printed: Printed) -> str:
    data = f" ({printed.data})" if printed.data else ""
    return f"printed in {printed.source}{data}, other data"


def _markdown(tables: Sequence[DataTable], protocol: Protocol, record: Mapping[str, Any]) -> str:
    out = ["# Benchmark"]
    for table in tables:
        out += ["", f"## {table.data}", "", table.facts, "", *_rows(table, protocol)]
    if not tables:
        out += ["", "No cell is finished."]
    return (
        "\n".join(
            [
                *out,
                "",
                *(
                    f"* {note}"
                    for note in _notes(protocol, record, has_draws=any(t.has_draws for t in tables))
                ),
            ]
        )
        + "\n"
    )


def _rows(table: DataTable, protocol: Protocol) -> Iterator[str]:
    columns = [(setup, metric) for setup in protocol.setups for metric in protocol.metrics]
    costs = [c for c in _COSTS if any(c in line.costs for line in table.lines)]
    unit = f" [{table.hd95_unit}]"
    heads = [f"{METRIC_NAMES[m]}{unit if m == 'hd95' else ''}, {setup}" for setup, m in columns]
    tests = [f"p (Dice, {setup})" for setup in protocol.setups]
    head = ["row", "source", "reads", "repeats", *heads, *tests, *(_COSTS[c][0] for c in costs)]
    yield _line(head)
    yield "|" + "---|" * len(head)
    for line in table.lines:
        repeats = str(line.of) if line.repeats == line.of else f"{line.repeats} of {line.of}"
        cells = [show_number(line.numbers[column], column[1]) for column in columns]
        cells += [_test(line.tests[setup]) for setup in protocol.setups]
        cells += [f"{line.costs[c]:{_COSTS[c][1]}}" if c in line.costs else "-" for c in costs]
        yield _line([line.title, _HERE, line.reads, repeats, *cells])
    printed: dict[tuple[str, str, str], dict[tuple[str, str], Printed]] = {}
    sizes: dict[str, Printed] = {}
    for p in (p for name in table.published for p in published_table(name)):
        if p.setup:
            printed.setdefault((p.row, _source(p), p.reads), {})[p.setup, p.metric] = p
        else:
            sizes[p.row] = p
    for (row, source, reads), numbers in printed.items():
        cells = [show_printed(numbers.get(c) or numbers.get(("all", c[1]))) for c in columns]
        seconds = next((p for (_, m), p in numbers.items() if m == "seconds_per_image"), None)
        shown = {"seconds_per_image": show_printed(seconds), "parameters": show_printed(sizes.get(row))}
        cells += ["-"] * len(tests) + [shown.get(c, "-") for c in costs]
        yield _line([row, source, reads, "-", *cells])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


_COSTS = {
    "seconds_per_image": ("s / image", ".3g"),
    "peak_memory_mb": ("peak MB", ",.0f"),
    "peak_gpu_mb": ("peak MB of the GPU", ",.0f"),
    "parameters": ("parameters [M]", ".2f"),
}
"""Head and format of what a row cost."""


def show_number(number: Number, metric: str) -> str:
    """Show mean ± sd [low, high]."""
    digits = 1 if metric == "hd95" else 3
    if not math.isfinite(number.mean):
        return "-"
    spread = f" ± {number.sd:.{digits}f}" if math.isfinite(number.sd) else ""
    bounds = f" [{number.low:.{digits}f}, {number.high:.{digits}f}]" if math.isfinite(number.low) else ""
    return f"{number.mean:.{digits}f}{spread}{bounds}"


def show_printed(printed: Printed | None) -> str:
    """Show a printed number with the digits it was printed with."""
    if printed is None:
        return "-"
    digits = len(printed.value.partition(".")[2]) + (2 if printed.unit == "%" else 0)
    mean, sd = printed.number
    spread = f" ± {sd:.{digits}f}" if math.isfinite(sd) else ""
    return f"{mean:.{digits}f}{spread}{' px' if printed.unit == 'px' else ''}"


def _test(test: PairedTest | None) -> str:
    if test is None:
        return "best"
    return "-" if math.isnan(test.p) else f"{test.p:.2g} (n = {test.patients})"


def _notes(protocol: Protocol, record: Mapping[str, Any], *, has_draws: bool) -> Iterator[str]:
    """Say the conventions, and what is missing."""
    over = {"image": "slices", "patient": "patients", "pooled": "all pixels, pooled"}
    yield (
        f"Numbers here: mean ± standard deviation over noise seeds, folds and draws of the training pictures "
        f"[95 % bootstrap interval over patients]. Dice, mIoU and HD95 are means over {over[protocol.averaging]}, "
        f"AUPRC over {over[protocol.auprc_over]}. Two empty masks count 1 in Dice and mIoU; HD95 with one mask empty: "
        f"{protocol.empty_hd}."
    )
    yield (
        "p: Wilcoxon's signed-rank test, two-sided, over the patients' Dice against the row marked best, which is "
        "the best of the rows that read no mask, or of the methods where all of them read masks; not corrected for the "
        "number of rows; a row of fewer repeats than planned is not tested (-), nor another against it. On mixed "
        "slices a row that is told the tags has those without target for nothing: such rows are compared with each "
        "other alone."
    )
    if has_draws:
        yield (
            "Interval and p are conditional on these draws: they hold for the training pictures that were drawn, and "
            "say how patients differ, not what other pictures would have taught."
        )
    if "memory_measured" in record:
        yield (
            "s / image: wall time of `tagmask segment`, reading and writing included, by the number of slices. "
            f"Peak: {record['memory_measured']}. Parameters: of what is trained, without a frozen backbone or text "
            "encoder."
        )
    yield "Printed rows are the papers' own numbers, on other data and by other conventions: read them as a scale."
    for title, problem in record.get("failed", {}).items():
        yield f"Failed: {title}: {problem}"
