"""Choose a method's settings by tags alone: no mask is opened, for a prepared folder need not hold any.

Some papers say how to choose by tags; their methods do it themselves (`tagmask.methods.Recipe.choose`). For all
others there is a grid. A good score map splits into two: the target, and the rest. On slices with the target it
should do so more clearly than on slices without. So each candidate is scored by how well the clarity of the split
(see `tagmask.masks.separation`) tells the tags of the validation slices apart, as an area under the ROC curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tagmask.config import check_seed, plain, read_toml, write_toml
from tagmask.data.prepared import Prepared
from tagmask.data.table import SPLITS
from tagmask.data.tagged_rows import tagged_rows
from tagmask.errors import ConfigError
from tagmask.experiment import layer
from tagmask.io import note_command, write_bytes, write_csv, write_text
from tagmask.machine import device_of
from tagmask.masks import binarise, separation
from tagmask.methods import METHODS, settings_of
from tagmask.metrics import auc
from tagmask.runs import Run
from tagmask.runs.chosen import combinations, mask_part, table_of
from tagmask.text import TextEncoder
from tagmask.types import Batch, Choice

__all__ = ["TuneResult", "tune"]


@dataclass(frozen=True)
class TuneResult:
    """What was tried and what was chosen.

    Parameters
    ----------
    method
        The method tuned.
    candidates
        Settings and the number they were judged by, "auc" for a grid, in the order tried.
    best
        The chosen settings.
    slices
        Validation slices looked at.
    """

    method: str
    candidates: tuple[dict[str, Any], ...]
    best: dict[str, Any]
    slices: int

    def __str__(self) -> str:
        lines = [f"{self.method}, {self.slices} validation slices, reads tags only:"]
        for candidate in self.candidates:
            chosen = "  <- chosen" if self.best.items() <= candidate.items() else ""
            auc = f"AUC {candidate['auc']:.3f}  " if "auc" in candidate else ""
            lines.append(f"  {auc}{_listed({k: v for k, v in candidate.items() if k != 'auc'})}{chosen}")
        if not any(self.best.items() <= candidate.items() for candidate in self.candidates):
            lines.append(f"  chosen: {_listed(self.best)}")
        return "\n".join(lines)


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in settings.items())


def tune(
    run: Run | Path | str,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    own: bool = False,
    method: str | None = None,
    overrides: Sequence[str] = (),
    split: str = "val",
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch: int = 16,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> TuneResult:
    """Choose settings on validation slices by their tags: as the method's paper does, or from a grid.

    Parameters
    ----------
    run
        A run folder; its experiment names the prepared data. RUN/tuned.toml is written, which
        `tagmask segment` uses, RUN/tune-METHOD.csv with every candidate, and a figure of it where the method says
        which numbers to draw.
    grid
        Setting -> values, for instance {"noise_level": [50, 100, 200], "mask.median": [1, 5]}: settings of the
        method by their names, those of its masks behind "mask.", which end in `[methods.METHOD.mask]`.
        Every combination is tried. Without a grid the method chooses by itself, if its paper says how.
    own
        With a grid: let the method choose by itself under each of its combinations, and keep the choice that
        it finds best (`Choice.score`).
    limit
        Look at this many slices at most, drawn with `seed`: of either tag for a grid, whose AUC does not depend on
        how many there are of each; altogether where the method chooses by itself, for an accuracy does.
    seed
        Of the draw and of the methods' noise.
    method, overrides, device
        As of `segment`.
    split
        "val"; "test" is refused, since nothing is chosen on a test split.
    batch
        Slices at once, at most.
    report
        Called with (candidates tried, all candidates); without a grid with (slices seen, all slices).

    Returns
    -------
    TuneResult
        Every candidate, and the chosen one.

    Raises
    ------
    ConfigError
        Neither a grid nor a method that chooses, an unknown setting, device or split, the test split, or a run that
        is open with settings which masks chose.
    InputError
        No validation slices, or only one tag among them.
    """
    if split == "test":
        raise ConfigError("settings cannot be chosen on the test split.", repair="Use the val split.")
    if split not in SPLITS:
        raise ConfigError(f"there is no split {split!r}.", repair="Use val, or train.")
    for key, value in (("limit", limit), ("batch", batch)):
        if value is not None and value < 1:
            raise ConfigError(f"{key} = {value} is not allowed.", repair="Use 1 or more, or leave it out.")
    check_seed(seed)
    device = device_of(device)
    run = Run.of(run, overrides=overrides)
    if run.val_masks:
        raise ConfigError(
            "the run is open with settings that validation masks chose, and what is chosen here reads tags only.",
            where=run.path,
            repair="Open it without val_masks.",
        )
    name = run.method_name(method)
    choose = METHODS[name].choose
    itself = own or not grid
    if not all((grid or {}).values()) or (itself and choose is None):
        why = f", and {name} has no rule of its own" if itself and choose is None else ""
        raise ConfigError(
            f"there is nothing to try{why}.", repair='Give for instance --grid "noise_level=[50, 100, 200]".'
        )
    prepared = Prepared.open(run.experiment.data.prepared)
    reader = run.text_reader(name)
    slices = _Slices(
        prepared,
        tagged_rows(prepared, split, limit, seed, balanced=not itself),
        device,
        batch,
        reader.encoder if reader else None,
    )
    figure: Mapping[str, bytes] = {}
    if not itself:
        candidates = _try(run, name, grid or {}, slices, seed, report)
        best = dict(candidates[int(np.argmax([c["auc"] for c in candidates]))])
        del best["auc"]
    else:
        candidates, best, figure = _own(run, name, grid or {}, replace(slices, report=report), seed)
    result = TuneResult(name, tuple(candidates), best, len(slices.rows))
    _write(run, result, split, figure)
    return result


@dataclass(frozen=True)
class _Slices:
    """Tagged slices in batches, as often as they are asked for."""

    prepared: Prepared
    rows: np.ndarray
    device: str
    size: int
    encode: TextEncoder | None = None
    report: Callable[[int, int], None] = lambda done, total: None

    def __iter__(self) -> Iterator[Batch]:
        done = 0
        for batch in self.prepared.batches(self.rows, self.size, self.encode):
            yield batch.to(self.device)
            done += len(batch)
            self.report(done, len(self.rows))


def _own(
    run: Run, name: str, grid: Mapping[str, Sequence[Any]], slices: _Slices, seed: int
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, bytes]]:
    """Let the method choose by itself under every combination of a grid; the first of the best choices is kept.

    Gives all candidates, the best, and the figure of how they were judged.
    """
    if masks := [key for key in grid if key.startswith("mask.")]:
        raise ConfigError(
            f"{name} chooses by itself from its own settings, and {masks[0]} is not one of them.",
            repair="Leave it out, or let the clarity of the masks decide.",
        )
    choose = METHODS[name].choose
    assert choose is not None
    under = combinations(grid, masks=False)
    makers = [run.method(name, device=slices.device, **settings) for settings in under]
    choices = [choose(maker, slices, seed) for maker in makers]
    candidates = [
        {**settings, **record}
        for settings, choice in zip(under, choices, strict=True)
        for record in choice.candidates
    ]
    best = int(np.argmax([choice.score for choice in choices]))
    lines = {
        _listed(settings): choice for settings, choice in zip(under, choices, strict=True) if choice.curve
    }
    return candidates, {**under[best], **choices[best].settings}, _drawn(lines)


def _drawn(choices: Mapping[str, Choice]) -> dict[str, bytes]:
    """Draw how the candidates of each choice were judged, over what they differ in."""
    from tagmask.drawing.charts import SweepLine, sweep  # Matplotlib is slow to import

    lines, curve = {}, None
    for name, choice in choices.items():
        assert choice.curve is not None
        curve = choice.curve
        points = np.array(sorted([c[curve[0]], c[curve[1]]] for c in choice.candidates), dtype=float)
        unknown = np.full(len(points), np.nan)
        lines[name or curve[1]] = SweepLine(points[:, 0], points[:, 1], unknown, unknown)
    return sweep(lines, x=curve[0], y=f"{curve[1]} by tags") if curve else {}


def _try(
    run: Run,
    name: str,
    grid: Mapping[str, Sequence[Any]],
    slices: _Slices,
    seed: int,
    report: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Judge every combination of a grid: the settings, and how well the clarity of the split tells the tags."""
    tags = slices.prepared.labels[slices.rows]
    for_method, for_mask = (combinations(grid, masks=masks) for masks in (False, True))
    # Everything is refused before working.
    makers = [run.method(name, device=slices.device, **settings) for settings in for_method]
    rules = [run.experiment.mask_of(name, mask_part(settings)) for settings in for_mask]
    candidates: list[dict[str, Any]] = []
    for settings, candidate in zip(for_method, makers, strict=True):
        clarity: list[list[Tensor]] = [[] for _ in rules]
        for batch in slices:
            made = candidate.predict(batch, seed)
            for found, rule in zip(clarity, rules, strict=True):
                own = made.threshold if rule.rule == "method" else None
                found.append(separation(binarise(made.score_map.cpu(), batch.image, rule, own)))
        for found, mask in zip(clarity, for_mask, strict=True):
            area = auc(torch.cat(found).numpy(), tags == 1)
            candidates.append({**settings, **mask, "auc": round(area, 6)})
        report(len(candidates), len(for_method) * len(for_mask))
    return candidates


def _write(run: Run, result: TuneResult, split: str, figure: Mapping[str, bytes]) -> None:
    before = read_toml(run.path / "tuned.toml") if (run.path / "tuned.toml").exists() else {}
    chosen = {key: value for key, value in result.best.items() if not key.startswith("mask.")}
    settings_of(result.method, {**run.experiment.settings_table(result.method), **chosen})
    settings = layer(run.experiment.methods.get(result.method, {}), chosen)
    resolved = run.experiment.mask_of(result.method, masks := mask_part(result.best))
    if masks or resolved != Run.open(run.path, tuned=False).experiment.mask_of(result.method):
        # In whole: a rule goes with its own value, and not with that of an earlier one.
        settings["mask"] = plain(resolved)
    tuned = {**before, "methods": {**before.get("methods", {}), result.method: settings}}
    heading = f"Chosen by tagmask tune on {result.slices} slices of {split}; reads tags only."
    text = write_toml(tuned, heading=heading)
    columns = list(dict.fromkeys(key for candidate in result.candidates for key in candidate))
    write_csv(table_of(run.path, result.method), columns, result.candidates)
    for suffix in ("png", "svg"):
        (run.path / f"tune-{result.method}.{suffix}").unlink(missing_ok=True)  # of an earlier choice
    for suffix, content in figure.items():
        write_bytes(run.path / f"tune-{result.method}.{suffix}", content)
    write_text(run.path / "tuned.toml", text)
    note_command(run.path)
