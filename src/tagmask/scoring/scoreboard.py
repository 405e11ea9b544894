"""The table: one number a line for programs, Markdown for people, several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tagmask.errors import InputError
from tagmask.io import write_csv
from tagmask.scoring.slice_records import cell
from tagmask.scoring.summaries import damaged, read_summary

__all__ = [
    "FLAT",
    "Evaluation",
    "combine",
    "combined_markdown",
    "flat",
    "markdown",
    "to_json",
    "write_numbers",
]

FLAT = (
    *("row", "title", "reads", "subset", "per", "metric", "value", "low", "high"),
    *("n", "excluded", "penalised", "unit"),
)
"""Columns of summary.csv."""
_NAN = float("nan")


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Parameters
    ----------
    out
        The folder written: per_slice.csv, per_patient.csv, pr_curve.csv, summary.csv, summary.json,
        summary.md.
    summary
        The content of summary.json, undefined numbers as None.
    failed
        Cases left out, with the reason.
    """

    out: Path
    summary: dict[str, Any] = field(repr=False)
    failed: tuple[tuple[str, str], ...]

    def value(
        self, metric: str, *, row: str = "method", subset: str = "positives", per: str = "image"
    ) -> float | None:
        """Give one number of the table, such as the method's mean "dice"."""
        found = next(r for r in self.summary["rows"] if r["row"] == row)
        return found[subset][per][metric]["value"]


def flat(summary: Mapping[str, Any]) -> list[dict[str, object]]:
    """Give the lines of summary.csv: one number a line."""
    lines: list[dict[str, object]] = []

    def line(row: Mapping[str, Any], subset: str, per: str, metric: str, number: Mapping[str, Any]) -> None:
        unit = summary["hd95"]["unit"] if metric == "hd95" else ""
        head = {"row": row["row"], "title": row["title"], "reads": row["reads"], "subset": subset, "per": per}
        numbers = {key: number.get(key, "") for key in ("value", "low", "high", "n", "excluded", "penalised")}
        lines.append({**head, "metric": metric, **{k: cell(v) for k, v in numbers.items()}, "unit": unit})

    for row in summary["rows"]:
        for subset in ("positives", "mixed"):
            for per, cells in row[subset].items():
                for metric, number in cells.items():
                    line(row, subset, per, metric, number)
    level, rows = summary["image_level"], {r["row"]: r for r in summary["rows"]}
    n = {"n": level["n"]}
    line(
        rows["method"],
        "image_level",
        "image",
        "auc",
        {**level["method"], **n, "value": level["method"]["auc"]},
    )
    place = {"row": "position", "title": "slice position alone", "reads": level["position"]["fit"]}
    line(place, "image_level", "image", "auc", {**level["position"], **n, "value": level["position"]["auc"]})
    for found in level["detection"]:
        for metric in ("sensitivity", "false_positive_rate"):
            line(rows[found["row"]], "image_level", "image", metric, {**n, "value": found[metric]})
    return lines


def combine(summaries: Sequence[Mapping[str, Any] | Path]) -> list[dict[str, object]]:
    """Average each number over several evaluations of one set, such as noise seeds.

    Parameters
    ----------
    summaries
        Summaries, or paths of summary.json files.

    Returns
    -------
    list of dict
        row, title, reads, subset, per, metric, mean, sd (n - 1), runs, unit; undefined numbers are NaN and
        left out of the mean.

    Raises
    ------
    InputError
        Nothing to combine, the evaluations are not of the same slices, or a file is damaged.
    """
    read = [_whole(s) if isinstance(s, Path) else s for s in summaries]
    if not read:
        raise InputError("there is no summary to combine.", repair="Give at least one evaluation.")
    for other in read[1:]:
        if (other["slices"], other["truth"]) != (read[0]["slices"], read[0]["truth"]):
            raise InputError(
                f"{_of(other)}, but {_of(read[0])}.",
                repair="Combine evaluations of the same slices with the same settings only.",
            )
    keys = ("row", "subset", "per", "metric")
    found: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for summary in read:
        for line in flat(summary):
            found.setdefault(tuple(line[k] for k in keys), []).append(line)
    lines = []
    for group in found.values():
        values = np.array([float(str(g["value"])) for g in group if g["value"] != ""])
        mean = float(values.mean()) if len(values) else _NAN
        sd = float(values.std(ddof=1)) if len(values) > 1 else _NAN
        head = {k: group[0][k] for k in ("row", "title", "reads", "subset", "per", "metric")}
        lines.append({**head, "mean": mean, "sd": sd, "runs": len(values), "unit": group[0]["unit"]})
    return lines


def _whole(path: Path) -> dict[str, Any]:
    """Read summary.json with all that tables are made of."""
    summary = read_summary(path)
    counts = ("slices", "evaluated"), ("slices", "positives"), ("slices", "below_min_area"), ("hd95", "unit")
    try:
        flat(summary)
        known = [summary["truth"], summary["slices"]]
        if "format" in summary:
            known += [summary["results"], summary["patients"], *(summary[k][n] for k, n in counts)]
    except (KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"a part of it is missing ({error})") from None
    if None in known:
        raise damaged(path, "a part of it is empty")
    return summary


def _of(summary: Mapping[str, Any]) -> str:
    """Say what was evaluated on what."""
    slices = summary["slices"].get("evaluated")
    return f"{summary.get('results')} has {slices} slices of {summary['truth']}"


_COLUMNS = (
    *(("image", "dice", "Dice"), ("patient", "dice", "Dice / patient"), ("pooled", "dice", "Dice pooled")),
    *(
        ("image", "iou", "IoU"),
        ("image", "hd95", "HD95"),
        ("image", "auprc", "AUPRC"),
        ("pooled", "auprc", "AUPRC pooled"),
    ),
    *(("image", "precision", "precision"), ("image", "recall", "recall")),
)


def markdown(summary: Mapping[str, Any]) -> str:
    """Give summary.md: two tables of masks and one of whole images, each number with its per-what."""
    slices, unit = summary["slices"], summary["hd95"]["unit"]
    out = ["# Evaluation", "", f"{summary['results']} against {summary['truth']}.", ""]
    out += [
        f"{slices['evaluated']} slices of {summary['patients']} patients, {slices['positives']} positive."
    ]
    cases = summary["cases"]
    if absent := len(cases["missing"]) + len(cases["failed"]):
        total = cases["matched"] + len(cases["missing"])
        out[-1] += f" **{absent} of {total} cases are not in these numbers**, see below."
    for subset in ("positives", "mixed"):
        out += ["", f"## {'Positive slices only' if subset == 'positives' else 'All slices (mixed)'}", ""]
        out += _table(["row", "reads", *(t if t != "HD95" else f"HD95 [{unit}]" for *_, t in _COLUMNS)])
        for row in summary["rows"]:
            cells = [_shown(row[subset][per].get(metric), metric) for per, metric, _ in _COLUMNS]
            out.append(f"| {' | '.join([row['title'], row['reads'], *cells])} |")
    out += ["", "## Whole images", "", *_image_tables(summary), "", *_footnotes(summary)]
    return "\n".join(out) + "\n"


def _image_tables(summary: Mapping[str, Any]) -> list[str]:
    """Give the tables of image-level scores and of detection by non-empty masks."""
    level, rows = summary["image_level"], {r["row"]: r for r in summary["rows"]}
    method, place = level["method"], level["position"]
    out = [f"ROC AUC against {level['against']}, {level['positives']} of {level['n']} positive.", ""]
    out += _table(["row", "score", "reads", "AUC"])
    out.append(
        f"| {rows['method']['title']} | {method['score']} | {rows['method']['reads']} | {_auc(method)} |"
    )
    out.append(f"| slice position alone | position in the volume | {place['fit']} | {_auc(place)} |")
    out += ["", *_table(["row", "sensitivity of a non-empty mask", "false-positive rate"])]
    for found in level["detection"]:
        rates = [_shown({"value": found[k]}, k) for k in ("sensitivity", "false_positive_rate")]
        out.append(f"| {' | '.join([rows[found['row']]['title'], *rates])} |")
    return out


def _table(columns: Sequence[str]) -> list[str]:
    """Give the two head lines of a Markdown table."""
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def _shown(cell: Mapping[str, Any] | None, metric: str) -> str:
    """Show value [low, high], and for HD95 what was left out."""
    if cell is None or cell["value"] is None or not math.isfinite(cell["value"]):
        return "-" if metric != "hd95" or not cell else f"- ({cell['excluded']} excluded)"
    digits = 1 if metric == "hd95" else 3
    text = f"{cell['value']:.{digits}f}"
    if cell.get("low") is not None and math.isfinite(cell["low"]):
        text += f" [{cell['low']:.{digits}f}, {cell['high']:.{digits}f}]"
    if metric == "hd95":
        text += f" ({cell['excluded']} excluded, {cell['penalised']} penalised)"
    return text


def _auc(level: Mapping[str, Any]) -> str:
    """Show an AUC with its interval."""
    return _shown({**level, "value": level["auc"]}, "auc")


def _footnotes(summary: Mapping[str, Any]) -> list[str]:
    """Say the conventions, what was warned of, and what is missing."""
    notes = [
        "Numbers are means over slices unless the column says otherwise; brackets are 95 % bootstrap "
        "intervals over patients. An empty mask on an empty truth counts 1 in Dice and IoU.",
        f"HD95 pools both directed distances; with one mask empty: {summary['hd95']['empty']}.",
    ]
    cases = summary["cases"]
    notes += (
        [f"{len(cases['missing'])} cases have no result: {', '.join(cases['missing'][:10])}."]
        if cases["missing"]
        else []
    )
    notes += (
        [f"{len(cases['extra'])} results have no truth: {', '.join(cases['extra'][:10])}."]
        if cases["extra"]
        else []
    )
    notes += [f"{f['case']} was left out: {f['problem']}" for f in cases["failed"][:10]]
    notes += [f"Warning: {key.replace('_', ' ')}: {n} slices." for key, n in summary["warnings"].items() if n]
    return [f"* {n}" for n in [*notes, *summary["notes"]]]


def combined_markdown(lines: Sequence[Mapping[str, Any]]) -> str:
    """Give one table a subset of `combine`'s numbers: mean ± standard deviation over runs."""
    cells = {(c["row"], c["subset"], c["per"], c["metric"]): c for c in lines}
    out: list[str] = []
    for subset in ("positives", "mixed"):
        out += [
            "" if out else "# Several runs",
            f"## {subset}",
            "",
            *_table(["row", "reads", *(t for *_, t in _COLUMNS)]),
        ]
        for row in dict.fromkeys(c["row"] for c in lines if c["subset"] == subset):
            first = next(c for c in lines if c["row"] == row)
            found = [cells.get((row, subset, per, metric)) for per, metric, _ in _COLUMNS]
            shown = ["-" if c is None or not math.isfinite(c["mean"]) else _mean_sd(c) for c in found]
            out.append(f"| {' | '.join([first['title'], first['reads'], *shown])} |")
    return "\n".join(out) + "\n"


def _mean_sd(cell: Mapping[str, Any]) -> str:
    """Show mean ± sd, or the mean alone of a single run."""
    return f"{cell['mean']:.3f}" + (f" ± {cell['sd']:.3f}" if math.isfinite(cell["sd"]) else "")


def to_json(value: Any) -> Any:
    """Turn a summary into what JSON knows: paths are strings, undefined numbers are null."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def write_numbers(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> None:
    """Write a table of numbers, six digits each; undefined ones are empty cells."""
    cells = ({key: cell(value) for key, value in line.items()} for line in lines)
    write_csv(path, columns, cells, line_end="\n")
