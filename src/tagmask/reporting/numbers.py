"""The numbers of a report: tables with the trivial rows, what they mean, and several runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tagmask.reporting.evaluation import StoredEvaluation
from tagmask.reporting.page import Html, join, table, tag
from tagmask.scoring.results import may_have_read_masks

__all__ = ["comparison", "explanation", "number", "numbers", "stamp", "verdict"]

_METRICS = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "recall": "Recall",
    "hd95": "HD95",
    "auprc": "AUPRC",
}
_PER = {"image": "per image", "patient": "per patient", "pooled": "pooled"}
_SUBSETS = {"positives": "Positive slices only", "mixed": "All slices, positive and negative"}


def number(value: object, digits: int = 3) -> str:
    """Write a number, or an en dash for what is undefined."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    return f"{value:.{digits}f}"


def stamp(reads: object) -> Html:
    """Say what a row has read; a mask among it, or what nobody knows, stands out: such a row has an advantage."""
    text = str(reads or "not stated")
    return tag("span", text, class_="stamp masks" if may_have_read_masks(text) else "stamp")


def _value(row: Mapping[str, Any], subset: str, per: str, metric: str) -> dict[str, Any]:
    """Give a number of the table with its interval and counts; empty where it was not computed."""
    found = ((row.get(subset) or {}).get(per) or {}).get(metric)
    return dict(found) if isinstance(found, Mapping) else {}


def _cell(found: Mapping[str, Any], metric: str) -> Html:
    """Write a number, its interval below, and how many slices were left out or penalised."""
    digits = 1 if metric == "hd95" else 3
    notes = []
    if number(found.get("low")) != "–" and number(found.get("high")) != "–":
        notes.append(f"[{number(found['low'], digits)}, {number(found['high'], digits)}]")
    notes += [f"{found[k]} {k}" for k in ("excluded", "penalised") if found.get(k)]
    return join([number(found.get("value"), digits), *(tag("small", note) for note in notes)])


def _main_table(evaluation: StoredEvaluation, subset: str, per: str) -> Html:
    unit = (evaluation.summary.get("hd95") or {}).get("unit") or "px"
    rows = evaluation.summary["rows"]
    metrics = [m for m in _METRICS if any(_value(r, subset, per, m) for r in rows)]
    head = [
        "Row",
        "What it read",
        *(f"{_METRICS[m]} ({unit})" if m == "hd95" else _METRICS[m] for m in metrics),
        "n",
    ]
    lines = [
        [
            row.get("title") or row["row"],
            stamp(row.get("reads")),
            *(_cell(_value(row, subset, per, m), m) for m in metrics),
            str(_value(row, subset, per, "dice").get("n", "–")),
        ]
        for row in rows
    ]
    marked = [n for n, row in enumerate(rows) if row["row"] == "method"]
    return table(head, lines, caption=f"{_SUBSETS[subset]}, {_PER[per]}", marked=marked, class_="named")


def numbers(evaluation: StoredEvaluation) -> Html:
    """Give the tables, the averaging that is usual open, the others folded."""
    more = [_main_table(evaluation, s, per) for per in ("patient", "pooled") for s in _SUBSETS]
    return join(
        [
            tag("h3", "Numbers"),
            *(_main_table(evaluation, subset, "image") for subset in _SUBSETS),
            _conventions(evaluation),
            _image_level(evaluation),
            tag("details", tag("summary", "The same per patient and pooled over all pixels"), *more),
        ]
    )


def _conventions(evaluation: StoredEvaluation) -> Html:
    """Say by which rules the numbers were made."""
    hd95 = evaluation.summary.get("hd95") or {}
    rule = str(hd95.get("empty") or "not stated")
    meaning = {
        "exclude": "slices where only one of mask and truth is empty are left out of the mean, and counted",
        "diagonal": "a slice where only one of mask and truth is empty counts as the diagonal of the slice",
        "zero": "a slice where a mask is empty counts as 0, as some published code does",
    }.get(rule, "see the settings")
    smallest = (evaluation.summary.get("settings") or {}).get("min_area_frac")
    lines = [
        "Per image: the mean over slices. Per patient: pixels pooled within a patient, then the mean over "
        "patients. Pooled: one number over all pixels. Brackets: 95 % bootstrap interval over patients.",
        "Dice and IoU carry 1e-5 above and below, so an empty mask on an empty truth counts 1, and a mask on "
        "an empty truth counts 0. Precision and recall are left out where they are undefined.",
        f"HD95 in {hd95.get('unit') or 'px'}; empty-mask rule “{rule}”: {meaning}.",
        "AUPRC is the average precision of the score map, before any threshold.",
    ]
    mask = (evaluation.manifest.get("settings") or {}).get("mask") or {}
    if weight := mask.get("intensity"):
        lines.append(
            f"The picture draws the rim of the masks (mask.intensity = {weight:g}): at the threshold of a score map "
            "a pixel has even odds before the picture is looked at, so a mask is not what lies above it."
        )
    if smallest:
        lines.append(f"Slices that show the target on less than {100 * float(smallest):g} % are left out.")
    return tag("ul", *(tag("li", line) for line in lines), class_="quiet")


def _image_level(evaluation: StoredEvaluation) -> Html:
    """Say how well slices, not pixels, are told apart, beside what a slice's position alone gives away."""
    level = evaluation.summary.get("image_level") or {}
    rows = []
    for key, name in (("method", "score of the method"), ("position", "position of the slice alone")):
        found = level.get(key) or {}
        if number(found.get("auc")) != "–":
            source = found.get("score") if key == "method" else found.get("fit")
            rows.append([name, str(source or "–"), _cell({**found, "value": found["auc"]}, "auc")])
    pieces = []
    if rows:
        against, n = level.get("against", "truth"), level.get("n", "–")
        caption = f"Is the target in the slice? Against {against}, {n} slices"
        pieces.append(table(["Row", "From", "AUC"], rows, caption=caption, class_="named"))
    titles = {row["row"]: row.get("title") or row["row"] for row in evaluation.summary["rows"]}
    found = [
        [titles.get(d.get("row"), "–"), number(d.get("sensitivity")), number(d.get("false_positive_rate"))]
        for d in level.get("detection") or []
    ]
    if found:
        head = ["Row", "Sensitivity", "False-positive rate"]
        pieces.append(table(head, found, caption="Slices called positive because their mask is not empty"))
    return join(pieces)


def verdict(evaluation: StoredEvaluation) -> Html:
    """Say in a sentence or two whether the method beats what knows nothing, and what has read masks."""
    own = _value(evaluation.method, "positives", "image", "dice")
    others = [r for r in evaluation.summary["rows"] if r["row"] != "method"]
    title = evaluation.method.get("title") or "The method"
    interval = (
        f" (95 % interval {number(own['low'], 2)} to {number(own['high'], 2)})" if own.get("low") else ""
    )
    n = own.get("n", 0)
    lines = [
        f"{title} reaches a mean Dice of {number(own.get('value'), 2)}{interval} on {n} positive slices."
    ]
    for masks, name in ((False, "without reading masks"), (True, "with help of masks")):
        group = [r for r in others if ("mask" in str(r.get("reads")).lower()) == masks]
        scored = [
            (v, r) for r in group if (v := _value(r, "positives", "image", "dice").get("value")) is not None
        ]
        if scored:
            best, row = max(scored, key=lambda pair: pair[0])
            better = own.get("value") is not None and own["value"] > best
            text = (
                f"The best trivial row {name}, {row.get('title') or row['row']}, reaches {number(best, 2)}: "
            )
            lines.append(text + ("the method is above it." if better else "the method does not beat it."))
    by_key = {r["row"]: r for r in others}
    mixed, empty, told = (
        _value(r, "mixed", "image", "dice").get("value")
        for r in (evaluation.method, by_key.get("all_empty", {}), by_key.get("all_foreground_told", {}))
    )
    if mixed is not None and empty is not None:
        text = f"On all slices its mean Dice is {number(mixed, 2)}; an always empty mask has {number(empty, 2)} there"
        tags = "" if told is None else f", and the tags alone, with whole images for masks, {number(told, 2)}"
        lines.append(f"{text}{tags}.")
    texts = [tag("p", line, class_="lead" if k == 0 else None) for k, line in enumerate(lines)]
    return tag("div", *texts, class_="verdict")


def comparison(names: Sequence[str], evaluations: Sequence[StoredEvaluation]) -> Html:
    """Put the methods of several evaluations side by side, with a trivial row once where it says the same."""
    columns = [("positives", m) for m in ("dice", "iou", "hd95", "auprc")] + [
        ("mixed", "dice"),
        ("mixed", "auprc"),
    ]
    units = {str((e.summary.get("hd95") or {}).get("unit") or "px") for e in evaluations}
    labels = {**_METRICS, "hd95": f"HD95 ({'/'.join(sorted(units))})"}
    lines: list[list[object]] = []
    seen: set[str] = set()
    for trivial in (False, True):
        for name, evaluation in zip(names, evaluations, strict=True):
            for row in evaluation.summary["rows"]:
                if (row["row"] != "method") != trivial:
                    continue
                cells = [_cell(_value(row, subset, "image", metric), metric) for subset, metric in columns]
                key = repr((row["row"], row.get("reads"), cells))
                if not trivial or key not in seen:
                    seen.add(key)
                    lines.append(
                        [row.get("title") or row["row"] if trivial else name, stamp(row.get("reads")), *cells]
                    )
    data = {str(e.summary.get("truth")) for e in evaluations}
    warning = "These evaluations have different truths: compare with care."
    return tag(
        "section",
        tag("h2", "Side by side"),
        tag("p", warning, class_="notice") if len(data) > 1 else Html(""),
        table(
            ["Row", "What it read", *(f"{labels[m]}, {subset}" for subset, m in columns)],
            lines,
            caption="Per image; brackets: 95 % bootstrap interval over patients",
            marked=range(len(evaluations)),
            class_="named",
        ),
    )


def explanation(evaluations: Sequence[StoredEvaluation]) -> Html:
    """Say in plain words how to read the report."""
    masked = any("mask" in str(r.get("reads")).lower() for e in evaluations for r in e.summary["rows"])
    points = [
        "The method learned from tags alone (is the target in this slice?) unless its stamp says more. "
        "It was then asked which pixels. Truth masks were used for this evaluation only.",
        "Dice is the overlap of the mask found with the mask drawn by a person: 0 is none, 1 is perfect.",
        "“Positive slices only” shows how well the target is outlined. “All slices” also rewards saying "
        "nothing where there is nothing: if most slices are negative, an always empty mask scores high. "
        "Compare with the row all-empty.",
        "The trivial rows know next to nothing. A method below them has not earned its cost.",
        "HD95 is the distance between the outlines, its worst twentieth left aside: smaller is better.",
        "AUPRC judges the score map before a threshold is chosen; chance equals the share of target pixels.",
        "In the pictures, the orange line is the truth and the cyan area the mask. Best, median and worst go "
        "by Dice among positive slices; look at the worst ones first.",
    ]
    if masked:
        points.insert(
            4, "A stamp with “masks” in it marks a row that has read pixel labels, an advantage over tags."
        )
    items = tag("ul", *(tag("li", point) for point in points))
    return tag("details", tag("summary", "How to read this"), items, open="open")
