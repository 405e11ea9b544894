"""Evaluations -> one HTML file that a person can read anywhere: it needs no network and no image."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tagmask import __version__
from tagmask.errors import InputError
from tagmask.io import PathLike, each_path, write_text
from tagmask.reporting.evaluation import StoredEvaluation, read_evaluation
from tagmask.reporting.numbers import comparison, explanation, numbers, verdict
from tagmask.reporting.page import Html, join, page, tag
from tagmask.reporting.pictures import charts, gallery, side_by_side
from tagmask.reporting.record import cases, commands, facts, problems, settings

__all__ = ["report"]

_PANELS, _BYTES, _LINES = 48, 8_000_000, 2000


def report(results: Sequence[PathLike] | PathLike, *, out: Path | str) -> Path:
    """Write one HTML file about one or several evaluations.

    Parameters
    ----------
    results
        Folders written by `tagmask evaluate`, or one.
    out
        The file; a folder gets a report.html.

    Returns
    -------
    Path
        The file: whole by itself, with nothing to load. Its size is bounded whatever the number of
        cases: some 48 panels of 8 MB together, four slices side by side of 4 MB and 2000 lines of cases, over
        all evaluations.

    Raises
    ------
    InputError
        No evaluation, or one that is missing or damaged.
    """
    folders = each_path(results)
    if not folders:
        raise InputError(
            "There is nothing to report.", repair="Name at least one folder of `tagmask evaluate`."
        )
    target = Path(out)
    if target.is_dir() or target.suffix.lower() not in (".html", ".htm"):
        target = target / "report.html"
    evaluations = [read_evaluation(folder) for folder in folders]
    names = _names(evaluations)
    title = f"Tagmask report: {', '.join(names)}"
    pieces = [_head(title, evaluations), explanation(evaluations)]
    if len(evaluations) > 1:
        pieces += [comparison(names, evaluations), side_by_side(names, evaluations, _BYTES // 2)]
    for name, evaluation in zip(names, evaluations, strict=True):
        pieces.append(_section(name, evaluation, len(evaluations)))
    pieces.append(commands(evaluations, [str(folder) for folder in folders], str(out)))
    pieces.append(tag("footer", "Made by Tagmask. Research use only. Not a medical device."))
    write_text(target, page(title, join(pieces)))
    return target


def _names(evaluations: Sequence[StoredEvaluation]) -> list[str]:
    """Name each evaluation by its method; where methods repeat by its folder too, then by a number."""
    titles = [str(e.method.get("title") or "method") for e in evaluations]
    folders = [e.folder.resolve().name for e in evaluations]
    names = [t if titles.count(t) == 1 else f"{t} ({f})" for t, f in zip(titles, folders, strict=True)]
    return [n if names.count(n) == 1 else f"{n} {k}" for k, n in enumerate(names, 1)]


def _head(title: str, evaluations: Sequence[StoredEvaluation]) -> Html:
    """Say what this is, of what, and what it is not."""
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return join(
        [
            tag("h1", title),
            tag("p", f"Made {made} by Tagmask {__version__}.", class_="quiet"),
            tag("p", "Research use only. Not a medical device.", class_="notice"),
            *(verdict(e) for e in evaluations if len(evaluations) == 1),
        ]
    )


def _section(name: str, evaluation: StoredEvaluation, of: int) -> Html:
    """Say all about one evaluation."""
    return tag(
        "section",
        tag("h2", name),
        facts(evaluation),
        verdict(evaluation) if of > 1 else Html(""),
        numbers(evaluation),
        problems(evaluation),
        gallery(evaluation, max(4, min(12, _PANELS // of)), _BYTES // of),
        charts(evaluation),
        cases(evaluation, max(100, _LINES // of)),
        settings(evaluation),
    )
