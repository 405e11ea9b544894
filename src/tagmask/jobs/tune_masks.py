"""Choose a method's settings and one threshold by validation masks, as papers do that have such masks.

What is chosen here has read masks. It is therefore kept apart from what `tagmask.jobs.tune` chose by tags alone:
`segment` uses it only when it is told to, and the row is stamped with it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tagmask.config import check_seed, plain, read_toml, write_toml
from tagmask.data.prepared import Prepared
from tagmask.data.table import alike
from tagmask.errors import ConfigError, InputError, RunError
from tagmask.io import commands_of, note_command, write_csv, write_text
from tagmask.machine import device_of
from tagmask.masks import MaskSettings
from tagmask.runs import Run
from tagmask.runs.chosen import VAL_MASKS, combinations, mask_part
from tagmask.scoring.learnt_from import images_of
from tagmask.scoring.thresholds import CANDIDATES, SHARES, best_threshold

__all__ = ["MaskTuneResult", "tune_masks"]

_VALUED = ("fixed", "peak", "quantile")


@dataclass(frozen=True)
class MaskTuneResult:
    """What was tried and what was chosen.

    Parameters
    ----------
    method
        The method tuned.
    candidates
        Settings, their best "mask.value" and its mean "dice", in the order tried.
    best
        The chosen settings, "mask.value" among them.
    slices
        Validation slices looked at.
    thresholds
        The values of the chosen rule that were tried.
    """

    method: str
    candidates: tuple[dict[str, Any], ...]
    best: dict[str, Any]
    slices: int
    thresholds: tuple[float, ...]

    def __str__(self) -> str:
        lines = [f"{self.method}, {self.slices} validation slices, reads val masks:"]
        for candidate in self.candidates:
            settings = {key: value for key, value in candidate.items() if key != "dice"}
            listed = ", ".join(f"{key} = {value}" for key, value in settings.items())
            lines.append(
                f"  Dice {candidate['dice']:.3f}  {listed}{'  <- chosen' if settings == self.best else ''}"
            )
        for end, name in ((min(self.thresholds), "lowest"), (max(self.thresholds), "highest")):
            if self.best["mask.value"] == end and len(self.thresholds) > 1:
                lines.append(f'  {end} is the {name} threshold tried. Try others: --grid "mask.value=[...]".')
        return "\n".join(lines)


def tune_masks(
    run: Run | Path | str,
    *,
    masks: Path | str,
    grid: Mapping[str, Sequence[Any]] | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
    split: str = "val",
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    batch: int = 16,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> MaskTuneResult:
    """Try settings with every threshold on slices with masks, and keep what gives the highest mean Dice.

    Parameters
    ----------
    run
        A run folder. RUN/tuned-val-masks.toml is written, which `segment` uses with `val_masks` alone, and
        RUN/tune-masks-METHOD.csv with every candidate.
    masks
        A folder prepared supervised, of the slices that the run was trained for. Slices with and without
        target count alike, and no tag keeps a mask empty.
    grid
        As `tagmask.jobs.tune`. "mask.value" lists what is tried: fixed thresholds in the unit of the maps, 0.01 to
        0.69 without it. With "mask.rule" in the grid, "peak" or "quantile", it lists shares, 0.05 to 0.95 without it.
    split
        "val"; "test" is refused, since nothing is chosen on a test split.
    limit
        Look at this many slices at most, drawn with `seed`.
    batch
        Slices at once, at most.
    method, overrides, seed, device, report
        As of `tagmask.jobs.tune`.

    Returns
    -------
    MaskTuneResult
        Every candidate, and the chosen one.

    Raises
    ------
    ConfigError
        An unknown setting or device, the test split, or slices that were cut otherwise than the run's.
    InputError
        No masks, no slices in the split, or some of the train or test split of the run's data.
    """
    if split == "test":
        raise ConfigError("settings cannot be chosen on the test split.", repair="Use the val split.")
    for key, value in (("limit", limit), ("batch", batch)):
        if value is not None and value < 1:
            raise ConfigError(f"{key} = {value} is not allowed.", repair="Use 1 or more, or leave it out.")
    check_seed(seed)
    if nothing := [key for key, values in (grid or {}).items() if not len(values)]:
        raise ConfigError(
            f"{nothing[0]} = []: there is nothing to try.",
            where="--grid",
            repair="Name values, or leave it out.",
        )
    if wrong := [rule for rule in (grid or {}).get("mask.rule", ()) if rule not in _VALUED]:
        raise ConfigError(
            f"mask.rule = {wrong[0]!r} cannot be tried: it has no value to be chosen.",
            where="--grid",
            repair=f"Try {', '.join(_VALUED)}.",
        )
    device = device_of(device)
    run = Run.of(run, overrides=overrides)
    name = run.method_name(method)
    data = Prepared.open(masks)
    _check_data(run, data, split)
    rows = data.split_indices(split)
    if limit is not None and len(rows) > limit:
        rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
    image, truth = data.batch(rows).image, np.asarray(data.open_masks()[rows])

    axes = dict(grid or {})
    thresholds = axes.pop("mask.value", None)
    for_method, for_mask = (combinations(axes, masks=part) for part in (False, True))
    makers = [run.method(name, device=device, **settings) for settings in for_method]
    rules = [_mask(run, name, settings) for settings in for_mask]  # everything is refused before working
    if thresholds is not None:
        thresholds = [_number(value) for value in thresholds]
        for rule, value in product(rules, thresholds):
            replace(rule, value=value)
    reader = run.text_reader(name)
    usual = [CANDIDATES if rule.rule == "fixed" else SHARES for rule in rules]
    tried = usual if thresholds is None else [thresholds] * len(rules)
    candidates: list[dict[str, Any]] = []
    for settings, candidate in zip(for_method, makers, strict=True):
        batches = data.batches(rows, batch, reader.encoder if reader else None)
        score_map = torch.cat([candidate.predict(b.to(device), seed).score_map.cpu() for b in batches])
        for mask, rule, values in zip(for_mask, rules, tried, strict=True):
            found = best_threshold(score_map, image, truth, rule, values)
            candidates.append({**settings, **mask, "mask.value": found.value, "dice": round(found.dice, 6)})
        report(len(candidates), len(for_method) * len(for_mask))
    best = dict(max(candidates, key=lambda c: float(c["dice"])))
    del best["dice"]
    place = for_mask.index({key: value for key, value in best.items() if key in for_mask[0]})
    result = MaskTuneResult(name, tuple(candidates), best, len(rows), tuple(map(float, tried[place])))
    _write(run, result, split)
    note_command(run.path, before=commands_of(data.path))
    return result


def _check_data(run: Run, data: Prepared, split: str) -> None:
    """Refuse slices that are not the run's kind, or of patients it was trained on or is to be tested on."""
    if data.settings != run.slices:
        raise ConfigError(
            f"its slices were cut with {plain(data.settings)}, those of the run with {plain(run.slices)}.",
            where=data.path,
            repair="Prepare the masks with the settings that the run was trained with.",
        )
    if not len(data.split_indices(split)):
        raise InputError(f"the {split} split has no slices.", where=data.path, repair="Use the val split.")
    own = Prepared.open(run.experiment.data.prepared)
    patients = {alike(row["patient"]): row["patient"] for row in data.rows(split)}
    images = _hashes(data, split)
    for other in ("train", "test"):
        theirs = {alike(row["patient"]) for row in own.rows(other)}
        both = sorted(name for one, name in patients.items() if one in theirs)
        same = sorted(images[sha] for sha in images.keys() & _hashes(own, other).keys())
        if both or same:
            what = f"{len(both)} patients" if both else f"{len(same)} images"
            raise InputError(
                f"{what} of its {split} split, such as {(both or same)[0]}, are of the {other} split of the run.",
                where=data.path,
                repair="Prepare both folders with the same splits.",
            )


def _hashes(prepared: Prepared, split: str) -> dict[str, str]:
    """SHA-256 -> file of a split; nothing of data that were prepared before splits were written down."""
    try:
        return {image.sha256: image.path for image in images_of(prepared.path, (split,))}
    except RunError:
        return {}


def _mask(run: Run, method: str, settings: Mapping[str, Any]) -> MaskSettings:
    """Give the method's settings of masks, changed: with one fixed threshold, unless they name a rule."""
    changes = mask_part(settings)
    start = 0.5 if changes.get("rule") in ("peak", "quantile") else 0.0
    return run.experiment.mask_of(method, {"rule": "fixed", "value": start, **changes})


def _number(value: Any) -> float:
    """Read a threshold that is to be tried; whether a rule can have it, the rule says."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if number and not abs(value) > sys.float_info.max:
        return float(value)
    raise ConfigError(
        f"mask.value = {value!r} cannot be tried: it is no number.",
        where="--grid",
        repair='Give numbers, as --grid "mask.value=[0.1, 0.2]".',
    )


def _write(run: Run, result: MaskTuneResult, split: str) -> None:
    table = run.path / f"tune-masks-{result.method}.csv"
    write_csv(table, list(result.candidates[0]), result.candidates)
    path = run.path / VAL_MASKS
    before = read_toml(path).get("methods", {}) if path.exists() else {}
    chosen = {key: value for key, value in result.best.items() if not key.startswith("mask.")}
    settings = {**run.experiment.methods.get(result.method, {}), **chosen}
    resolved = _mask(run, result.method, result.best)
    mask = {key: value for key, value in plain(resolved).items() if value is not None}
    tuned = {"methods": {**before, result.method: {**settings, "mask": mask}}}
    heading = (
        f"Chosen by tagmask tune --criterion dice on {result.slices} slices of {split}; reads val masks."
    )
    write_text(path, write_toml(tuned, heading=heading))
