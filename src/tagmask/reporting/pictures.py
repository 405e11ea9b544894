"""The pictures of a report: slices with truth and mask, and charts, each with words for who cannot see it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tagmask.drawing import tiles
from tagmask.drawing.evaluation import dice_over_size, precision_recall, quarters, score_histogram
from tagmask.reporting.evaluation import StoredEvaluation
from tagmask.reporting.numbers import number
from tagmask.reporting.page import Html, join, picture, table, tag
from tagmask.scoring.panel_slices import PanelSlice
from tagmask.scoring.panels import Panel, shared, shared_by_all

__all__ = ["charts", "gallery", "side_by_side"]

_SMALLEST = 64
_HEADINGS = {
    "best": "Best positive slices",
    "median": "Median positive slices",
    "worst": "Worst positive slices",
    "negative": "Negative slices: the target is not there, so every coloured pixel is a false alarm",
}


def gallery(evaluation: StoredEvaluation, most: int, room: int) -> Html:
    """Show at most `most` slices, evenly by kind, in some `room` bytes: image, truth, score map, mask."""
    groups = {kind: [p for p in evaluation.panels if p.choice.kind == kind] for kind in _HEADINGS}
    each = max(1, most // len(groups))
    empty = tag("p", "The evaluation kept no pictures.", class_="quiet")
    pieces: list[Html] = [tag("h3", "Slices"), _legend() if evaluation.panels else empty]
    for kind, panels in groups.items():
        if panels:
            pieces += [
                tag("h3", _HEADINGS[kind]),
                *(_fitted(p, evaluation, room // most) for p in panels[:each]),
            ]
    return join(pieces)


def side_by_side(names: Sequence[str], evaluations: Sequence[StoredEvaluation], room: int) -> Html:
    """Show the slices that all of these evaluations kept, mask above score map, in some `room` bytes.

    Nothing where they kept none in common: other truths, say. Evaluations that kept none at all are named.
    """
    have = {
        name: evaluation
        for name, evaluation in zip(names, evaluations, strict=True)
        if shared(evaluation.panels)
    }
    rows = shared_by_all([evaluation.panels for evaluation in have.values()])
    if len(have) < 2 or not rows:
        return Html("")
    without = [name for name in names if name not in have]
    pieces = [tag("h3", "The same slices by every method"), _legend()]
    note = "The truth alone chose them, one of each quarter of the target sizes. Each score map has its own scale."
    if without:
        note += (
            f" Not here, since their evaluations kept none of these (evaluate again): {', '.join(without)}."
        )
    pieces.append(tag("p", note, class_="quiet"))
    names, first = list(have), next(iter(have.values()))
    for panels in rows:
        where = _where(panels[0].choice, first)
        figure = _row_of_methods(where, names, panels)
        while len(figure) > room // len(rows) and max(panels[0].truth.shape) > _SMALLEST:
            panels = [panel.halved() for panel in panels]
            figure = _row_of_methods(where, names, panels)
        pieces.append(figure)
    return join(pieces)


def _row_of_methods(where: str, names: Sequence[str], panels: Sequence[Panel]) -> Html:
    """Show one slice: the image above the truth, then each method's mask above its score map."""
    first, choice = panels[0], panels[0].choice
    slice_ = choice.case + where
    image = first.shown()
    plain = picture(tiles.tile(image), f"{slice_}: the image")
    truth = picture(
        tiles.tile(image, truth=first.truth), f"{slice_}: the truth outlined, {choice.truth_pixels} px"
    )
    columns = [tag("div", plain, truth, "image, truth", class_="tile")]
    for name, panel in zip(names, panels, strict=True):
        dice = f"Dice {number(panel.choice.dice, 2)}"
        mask = picture(
            tiles.tile(panel.shown(), mask=panel.mask, truth=panel.truth),
            f"{slice_}, {name}: the mask, {dice}",
        )
        limits = panel.score_limits()
        score = (
            _none("no score map")
            if panel.score is None or limits is None
            else picture(tiles.score_tile(panel.score, limits), f"{slice_}, {name}: the score map")
        )
        columns.append(tag("div", mask, score, f"{name}: {dice}", class_="tile"))
    caption = tag("figcaption", tag("strong", choice.case), f"{where}: target {choice.truth_pixels:,} px")
    wide = f"max-width:{13 * len(columns)}rem"
    return tag("figure", caption, tag("div", *columns, class_="tiles methods", style=wide))


def _legend() -> Html:
    return tag("p", _key(tiles.TRUTH), "truth ", _key(tiles.MASK), "mask that was found", class_="quiet")


def _key(colour: str) -> Html:
    return tag("span", class_="key", style=f"border-color:{colour};background:{colour}66")


def _fitted(panel: Panel, evaluation: StoredEvaluation, room: int) -> Html:
    """Show one slice; where it would be too large a part of the file, every other pixel of it, or fewer."""
    figure = _figure(panel, evaluation)
    while len(figure) > room and max(panel.truth.shape) > _SMALLEST:
        panel = panel.halved()
        figure = _figure(panel, evaluation)
    return figure


def _figure(panel: Panel, evaluation: StoredEvaluation) -> Html:
    """Show one slice in four pictures."""
    choice, where = panel.choice, _where(panel.choice, evaluation)
    name = choice.case + where
    facts = f"target {choice.truth_pixels:,} px, mask {choice.mask_pixels:,} px"
    dice = f"Dice {number(choice.dice, 2)}, " if choice.kind != "negative" else ""
    image = panel.shown()
    plain = (
        picture(tiles.tile(image), f"{name}: the image")
        if panel.image is not None
        else _none("image not found")
    )
    outlined = picture(
        tiles.tile(image, truth=panel.truth), f"{name}: the truth outlined, {choice.truth_pixels} px"
    )
    found = picture(tiles.tile(image, mask=panel.mask, truth=panel.truth), f"{name}: the mask, {dice}{facts}")
    four = [
        tag("div", plain, "image", class_="tile"),
        tag("div", outlined, "truth" if choice.truth_pixels else "truth: empty", class_="tile"),
        _score(panel, name, evaluation.threshold(choice.case, choice.slice)),
        tag("div", found, "mask" if choice.mask_pixels else "mask: empty", class_="tile"),
    ]
    caption = tag("figcaption", tag("strong", choice.case), f"{where}: {dice}{facts}")
    return tag("figure", caption, tag("div", *four, class_="tiles"))


def _where(choice: PanelSlice, evaluation: StoredEvaluation) -> str:
    """Name the slice of a case that has several."""
    alone = sum(row.case == choice.case for row in evaluation.slices) == 1
    return "" if alone else f", slice {choice.slice}"


def _none(text: str) -> Html:
    return tag("div", text, class_="none")


def _score(panel: Panel, name: str, threshold: float | None) -> Html:
    """Show a score map with its scale, and the threshold as a mark on it."""
    limits = panel.score_limits()
    if panel.score is None or limits is None:
        return tag("div", _none("no score map"), "score map", class_="tile")
    low, high = limits
    alt = f"{name}: the score map, from {low:.3g} (dark) to {high:.3g} (bright)"
    mark, label = Html(""), "score map"
    if threshold is not None:
        label = f"score map, threshold {threshold:.3g}"
        if low <= threshold <= high and low < high:
            mark = tag("i", style=f"left:{100 * (threshold - low) / (high - low):.1f}%")
    bar = tag("div", picture(tiles.scale(), ""), mark, class_="bar")
    ends = tag("div", tag("span", f"{low:.3g}"), tag("span", f"{high:.3g}"), class_="ends")
    return tag("div", picture(tiles.score_tile(panel.score, limits), alt), bar, ends, label, class_="tile")


def charts(evaluation: StoredEvaluation) -> Html:
    """Give the histogram of scores, the precision-recall curve and the Dice over the size of the target."""
    drawn = [piece for piece in (_histogram(evaluation), _curve(evaluation), *_sizes(evaluation)) if piece]
    return join([tag("h3", "Charts"), tag("div", *drawn, class_="charts")]) if drawn else Html("")


def _chart(title: str, png: bytes, alt: str, note: str) -> Html:
    return tag("figure", tag("h3", title), picture(png, alt), tag("p", note, class_="quiet"))


def _histogram(evaluation: StoredEvaluation) -> Html | None:
    found = evaluation.histogram
    if found is None:
        return None
    thresholds = [t for case in evaluation.thresholds.values() for t in case.values()]
    png = score_histogram(found.edges, found.background, found.truth, thresholds)
    middles = [_median(found.edges, counts) for counts in (found.background, found.truth)]
    alt = f"Histogram of scores: median {middles[0]} of background pixels, {middles[1]} of truth pixels."
    note = (
        f"Median score: {middles[0]} in the background, {middles[1]} in the truth. The further apart the two "
        "hills, the better a threshold can do. Each is drawn as a share of its own pixels."
    )
    return _chart("Scores of background and truth", png, alt, note)


def _median(edges: np.ndarray, counts: np.ndarray) -> str:
    if not counts.sum():
        return "–"
    middle = int(np.searchsorted(counts.cumsum(), counts.sum() / 2))
    return f"{(edges[middle] + edges[middle + 1]) / 2:.3g}"


def _curve(evaluation: StoredEvaluation) -> Html | None:
    lines, words = {}, []
    for row in evaluation.summary["rows"]:
        key = (row["row"], "positives")
        # A row whose scores are all alike has no curve but chance; one that was told the tags has that of the other.
        told = row["row"].endswith("_told")
        if key in evaluation.curves and row["row"] not in ("all_empty", "all_foreground") and not told:
            pooled = ((row.get("positives") or {}).get("pooled") or {}).get("auprc") or {}
            title = f"{row.get('title') or row['row']}, AP {number(pooled.get('value'))}"
            lines[title] = evaluation.curves[key]
            words.append(title)
    if not lines:
        return None
    positive = [row for row in evaluation.slices if row.positive]
    pixels = sum(r.pixels for r in positive)
    chance = sum(r.truth_pixels for r in positive) / pixels if pixels else None
    alt = f"Precision-recall curves on positive slices: {'; '.join(words)}; chance {number(chance)}."
    note = "All pixels of the positive slices pooled. AP is the area under the curve (AUPRC, pooled)."
    return _chart("Precision and recall", precision_recall(lines, chance), alt, note)


def _sizes(evaluation: StoredEvaluation) -> list[Html]:
    rows = [r for r in evaluation.slices if r.positive and r.dice is not None and r.truth_pixels > 0]
    if not rows:
        return []
    sizes, dice = np.asarray([r.truth_pixels for r in rows]), np.asarray([r.dice for r in rows], dtype=float)
    lines = []
    for low, high in quarters(sizes):
        inside = (sizes >= low) & (sizes <= high)
        lines.append(
            [f"{low:,} to {high:,} px", f"{int(inside.sum()):,}", number(float(dice[inside].mean()))]
        )
    alt = "Dice over target size: " + "; ".join(f"{size}: mean {mean}" for size, _, mean in lines) + "."
    by_size = table(
        ["Size of the target", "slices", "mean Dice"], lines, caption="Dice by quarter of the sizes"
    )
    note = "Small targets are harder: a mean over all slices hides how the method does on them."
    chart = _chart("Dice against target size", dice_over_size(sizes, dice), alt, note)
    return [chart, tag("div", by_size)]
