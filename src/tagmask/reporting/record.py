"""The record of a report: what was evaluated, by which settings and commands, each case, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tagmask.io import command_line
from tagmask.reporting.evaluation import StoredEvaluation, by_case
from tagmask.reporting.numbers import number
from tagmask.reporting.page import Html, join, table, tag

__all__ = ["cases", "commands", "facts", "problems", "settings"]

_MOST = 100


def facts(evaluation: StoredEvaluation) -> Html:
    """Give method, data, dates and versions."""
    summary, manifest = evaluation.summary, evaluation.manifest
    slices, found = summary.get("slices") or {}, summary.get("cases") or {}
    versions = (manifest.get("environment") or manifest).get("versions") or {}
    size = (
        f"{found.get('matched', '–')} cases of {summary.get('patients', '–')} patients: "
        f"{slices.get('evaluated', '–')} slices, {slices.get('positives', '–')} of them positive"
    )
    seconds = manifest.get("seconds")
    pace = f"{float(seconds):,.0f} s for {len(manifest.get('cases') or [])} cases" if seconds else None
    pairs = {
        "Method": " ".join(
            filter(None, (manifest.get("method"), f"(seed {manifest['seed']})" if "seed" in manifest else ""))
        ),
        "Data": size,
        "Results": summary.get("results"),
        "Truth": summary.get("truth"),
        "Segmented": manifest.get("created"),
        "Time": " on ".join(filter(None, (pace, manifest.get("device")))),
        "Evaluated": summary.get("created"),
        "Versions": ", ".join(f"{k} {v}" for k, v in versions.items() if v) or summary.get("tagmask"),
    }
    lines = [piece for k, v in pairs.items() if v for piece in (tag("dt", k), tag("dd", v))]
    return tag("dl", *lines, class_="facts")


def problems(evaluation: StoredEvaluation) -> Html:
    """List what went wrong, what is missing, and what the reader should know."""
    summary = evaluation.summary
    found = summary.get("cases") or {}
    failed = {str(f.get("case")): str(f.get("problem")) for f in found.get("failed") or []}
    for case in evaluation.manifest.get("cases") or []:
        if case.get("error"):
            failed.setdefault(str(case.get("case")), f"not segmented: {case['error']}")
    pieces = [
        _list("Failed cases", [f"{case}: {problem}" for case, problem in failed.items()]),
        _list("Cases with a truth but without a result, not in the numbers", found.get("missing") or []),
        _list("Cases with a result but without a truth", found.get("extra") or []),
        _list(
            "Warnings",
            [f"{k.replace('_', ' ')}: {v}" for k, v in (summary.get("warnings") or {}).items() if v],
        ),
        _list("Notes", summary.get("notes") or []),
    ]
    if not any(pieces):
        pieces = [tag("p", "None: every case was segmented and evaluated.")]
    return join([tag("h3", "Problems"), *pieces])


def _list(title: str, lines: Sequence[object]) -> Html:
    if not lines:
        return Html("")
    more = [tag("li", f"and {len(lines) - _MOST:,} more")] if len(lines) > _MOST else []
    items = tag("ul", *(tag("li", line) for line in lines[:_MOST]), *more)
    if len(lines) > 5:
        return tag("details", tag("summary", f"{title}: {len(lines):,}"), items)
    return join([tag("p", tag("strong", f"{title}: {len(lines):,}")), items])


def cases(evaluation: StoredEvaluation, most: int) -> Html:
    """Give a line for each case, the lowest Dice first; a click on a column sorts."""
    rows = by_case(evaluation.slices)
    if not rows:
        return Html("")
    unit = (evaluation.summary.get("hd95") or {}).get("unit") or "px"
    seconds = {str(c.get("case")): c.get("seconds") for c in evaluation.manifest.get("cases") or []}
    head = ["Case", "Patient", "Slices", "Positive", "Dice, positives", "Dice, all"]
    head += [f"HD95 ({unit})", "AUPRC", "Target (px)", "Mask (px)", "Seconds"]
    lines: Iterator[list[object]] = (
        [
            row.case,
            row.patient or "–",
            *(_count(n) for n in (row.slices, row.positives)),
            *(number(n) for n in (row.dice, row.dice_mixed)),
            number(row.hd95, 1),
            number(row.ap),
            *(_count(n) for n in (row.truth_pixels, row.mask_pixels)),
            number(seconds.get(row.case), 2),
        ]
        for row in rows[:most]
    )
    note = "Means over the slices of a case; “positives” are those with the target, for HD95 and AUPRC too. "
    note += "Click a column to sort by it."
    if len(rows) > most:
        note += f" The {most:,} cases with the lowest Dice of {len(rows):,}; all are in per_slice.csv."
    found = table(head, lines, caption=f"{len(rows):,} cases", sortable=True, class_="named", tall=True)
    return join([tag("h3", "Case by case"), tag("p", note, class_="quiet"), found])


def _count(n: int) -> tuple[str, int]:
    return f"{n:,}", n


def settings(evaluation: StoredEvaluation) -> Html:
    """Give every setting, seed and hash that the manifest and the summary name."""
    manifest = evaluation.manifest
    known: dict[str, Any] = {
        "segment": manifest.get("settings"),
        "evaluate": evaluation.summary.get("settings"),
    }
    known |= {
        k: manifest.get(k)
        for k in ("seed", "tags", "device", "batch", "snapshot", "run", "weights", "environment")
    }
    known["chosen"] = {
        r.get("title") or r["row"]: r["chosen"] for r in evaluation.summary["rows"] if r.get("chosen")
    }
    lines = [[name, value] for name, value in _flat(known) if not name.endswith(".command")]
    if not lines:
        return Html("")
    body = table(["Setting", "Value"], lines, caption="As written by the programs themselves", class_="left")
    return join(
        [
            tag("h3", "Settings"),
            tag("details", tag("summary", f"{len(lines)} settings, seeds and hashes"), body),
        ]
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Give dotted names and values; None says that a setting is off, but at the top that there is none."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None or prefix:
            yield f"{prefix}{key}", "off" if value is None else str(value)


def commands(evaluations: Sequence[StoredEvaluation], results: Iterable[str], out: str) -> Html:
    """Give the exact commands, each once, in the order in which they have to run."""
    lines: list[str] = []
    for evaluation in evaluations:
        lines += [str(line) for line in evaluation.manifest.get("commands") or []]
        for record in (evaluation.manifest, evaluation.summary):
            argv = (record.get("environment") or {}).get("command")
            lines += [command_line([str(a) for a in argv])] if isinstance(argv, list) and argv else []
    lines = [*dict.fromkeys(lines), command_line(["tagmask", "report", *results, "-o", out])]
    return join([tag("h2", "The commands that made this"), tag("pre", tag("code", "\n".join(lines)))])
