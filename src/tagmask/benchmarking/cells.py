"""A cell of a benchmark: one row on one fold with one draw and seed, in a folder named after all it depends on.

    OUT/cells/CDM-brain-mri-seed0-3f2a.../     with draws CDM-brain-mri-draw1-seed0-...
        given/                      as `tagmask segment` writes it; one folder for each source of tags
        segmented.json              written last: what the cell is, its time and its memory
        evaluation-9b1c.../
            given/                  as `tagmask evaluate` writes it
            evaluated.json          written last

A cell whose last file is missing was interrupted, and is made anew. Other weights, settings or images give
another key and so another folder; a change of the protocol or the truth gives another evaluation alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tagmask.benchmarking.bench import Bench
from tagmask.benchmarking.folds import Fold, digest
from tagmask.benchmarking.names import Place
from tagmask.benchmarking.rows import RowPlan
from tagmask.benchmarking.trainings import training_of
from tagmask.config import build, plain, read_toml, settled
from tagmask.data.prepared import Prepared
from tagmask.errors import InputError, RunError
from tagmask.experiment import WHOLE
from tagmask.io import write_json
from tagmask.methods import METHODS, settings_of
from tagmask.networks.kinds import reads_text
from tagmask.runs import Run
from tagmask.runs.resume import no_weights
from tagmask.scoring.learnt_from import images_learnt
from tagmask.scoring.protocol import VERSION
from tagmask.segmenting import VERSION as MASKS_VERSION
from tagmask.segmenting.presence import Tags

__all__ = ["Cell", "plan_cell"]


@dataclass(frozen=True)
class Cell:
    """One row, one fold, one draw, one seed.

    Parameters
    ----------
    row, fold, at, seed
        What it is; the draw is that of the row's training pictures, "" for a row that is the same in all.
    run
        Open, with the row's settings.
    identity
        All that the masks depend on.
    modes
        Sources of tags, each once; the first of them belongs to the first setup.
    home
        OUT/cells.
    """

    row: RowPlan
    fold: Fold
    at: Place
    seed: int
    run: Run = field(repr=False)
    identity: Mapping[str, Any] = field(repr=False)
    modes: tuple[Tags, ...]
    home: Path

    @property
    def title(self) -> str:
        """Name for messages."""
        return f"{self.row.name} on {self.at}, seed {self.seed}"

    @cached_property
    def key(self) -> str:
        """Of the masks."""
        return digest(self.identity)

    @cached_property
    def walk(self) -> str:
        """Of the walk through the networks: cells that differ in masks, tags or what is read off it have the same."""
        read_off, masks = METHODS[self.row.method].read_off, ("mask", "tags", "val_masks")
        settings = {key: value for key, value in self.identity["settings"].items() if key not in read_off}
        others = {key: value for key, value in self.identity.items() if key not in masks}
        return digest({**others, "settings": settings})

    @property
    def settings(self) -> Any:
        """Of the method."""
        return settings_of(self.row.method, self.run.experiment.settings_table(self.row.method))

    @cached_property
    def evaluation_key(self) -> str:
        """Of the numbers."""
        return digest([VERSION, self.key, self.fold.truth, self.fold.truth_digest, self.row.name])

    @property
    def folder(self) -> Path:
        """Where everything of the cell lies."""
        names = [self.row.name, self.at.data, *([self.at.fold] if self.at.fold else [])]
        slug, draw = _slug("-".join(names))[:80], f"-draw{_slug(self.at.draw)}" if self.at.draw else ""
        return self.home / f"{slug}{draw}-seed{self.seed}-{self.key[:12]}"

    @property
    def evaluations(self) -> Path:
        """Where its evaluations lie."""
        return self.folder / f"evaluation-{self.evaluation_key[:12]}"

    @property
    def segmented(self) -> Mapping[str, Any] | None:
        """The record of finished masks."""
        return _record(self.folder / "segmented.json", self.key)

    @property
    def evaluated(self) -> bool:
        """Whether the numbers are there."""
        return _record(self.evaluations / "evaluated.json", self.evaluation_key) is not None

    def close_segmentation(self, record: Mapping[str, Any]) -> None:
        """Say that the masks are finished."""
        content = {"key": self.key, "identity": self.identity, **record}
        write_json(self.folder / "segmented.json", content)

    def close_evaluation(self) -> None:
        """Say that the numbers are finished."""
        content = {
            "key": self.evaluation_key,
            "row": self.row.name,
            "fold": self.fold.title,
            "draw": self.at.draw,
            "seed": self.seed,
        }
        write_json(self.evaluations / "evaluated.json", content)


def _slug(text: str) -> str:
    """Leave what every file system takes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")


def _record(path: Path, key: str) -> dict[str, Any] | None:
    """Read a record; None where there is none, or that of something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("key") == key else None


def plan_cell(bench: Bench, row: RowPlan, fold: Fold, at: Place, seed: int, home: Path) -> Cell:
    """Open the run of a cell and find out all that its masks depend on. Nothing is computed.

    Raises
    ------
    RunError
        No run, a network of the method was not trained, or the run was trained on images of this fold.
    ConfigError, InputError
        Settings that do not fit, or that were to be chosen and were not.
    """
    run = _open(row, at)
    needs, experiment = run.needs(row.method), run.experiment
    used = run.weights_files(row.method)
    for part in run.parts(row.method):
        for need, path in part.files.items():
            if not path.is_file():
                raise no_weights(part.run.path, part.run.experiment, need, part.method)
    _refuse_leak(run, row.method, fold)
    modes = tuple(dict.fromkeys(row.tags_of(setup) for setup in bench.protocol.setups))
    identity: dict[str, Any] = {
        "version": MASKS_VERSION,
        "method": row.method,
        "settings": settled(settings_of(row.method, experiment.settings_table(row.method))),
        "mask": plain(experiment.mask_of(row.method)),
        "schedule": plain(experiment.schedule),
        "slices": plain(run.slices),
        "weights": {name: fold.hashes.of(path) for name, path in used.items()},
        "tags": modes,
        "seed": seed,
        "inputs": fold.inputs_digest,
    }
    if others := [part for part in run.parts(row.method) if part.run is not run]:
        # What a member leaves out is as its own run says.
        identity["members"] = [
            [part.method, settled(part.settings), plain(part.run.experiment.schedule)] for part in others
        ]
    if run.val_masks:
        identity["val_masks"] = True  # the masks' manifest says so
    if any(reads_text(getattr(experiment, need)) for need in needs):
        # Which encoder it is, the weights say.
        identity["text"] = [plain(experiment.text), [case.text for case in fold.cases]]
    return Cell(row, fold, at, seed, run, identity, modes, home)


def _open(row: RowPlan, at: Place) -> Run:
    """Open the run with the settings that the row asks for."""
    path = row.folder(at)
    _refuse_other_settings(row, at, path)
    chosen: Sequence[str] = ()
    if row.tuned == "tags":
        run = Run.open(path, tuned=False)
        if row.method not in _tuned(path / "tuned.toml").get("methods", {}):
            raise InputError(
                f"has no settings of {row.method} that were chosen by tags{_why(run)}.",
                where=path,
                repair=f'Run `tagmask tune {path} --method {row.method} ...`, or use tuned = "none".',
            )
    elif row.tuned != "none":
        file = Path(at.fill(row.tuned))
        build(_Tuned, read_toml(file), where=file)
        chosen = _assignments(read_toml(file))
    run = Run.open(path, overrides=[*chosen, *row.set], snapshot=row.snapshot, tuned=row.tuned == "tags")
    return replace(run, val_masks=row.tuned not in ("none", "tags"))


def _refuse_other_settings(row: RowPlan, at: Place, path: Path) -> None:
    """Refuse a run whose method or mask is set otherwise than in the experiment that the row names.

    No training depends on them, so a run is taken as it is; but the draws of a row must be segmented alike.
    """
    training = training_of(row, at)
    if training is None:
        return
    name, asked, begun = row.method, training.load(), Run.open(path, tuned=False).experiment
    for table, now, then in (
        ("mask", asked.mask_of(name), begun.mask_of(name)),
        (f"methods.{name}", *(settings_of(name, e.settings_table(name)) for e in (asked, begun))),
    ):
        if now != then:
            raise RunError(
                f"was begun with [{table}] {plain(then)}, but the experiment now says {plain(now)}.",
                where=path,
                repair="Restore the setting there, and write what is to differ into the row's set.",
            )


@dataclass(frozen=True)
class _Tuned:
    """A file of chosen settings, as `tagmask tune` writes it."""

    methods: dict[str, Any] = field(default_factory=dict)
    mask: dict[str, Any] = field(default_factory=dict)


def _tuned(path: Path) -> dict[str, Any]:
    return read_toml(path) if path.is_file() else {}


def _why(run: Run) -> str:
    """Say so where there were no tags to choose by."""
    folder = run.experiment.data.prepared
    if not (folder / "settings.json").is_file():
        return ""
    prepared = Prepared.open(folder)
    tags = set(prepared.labels[prepared.split_indices("val")].tolist())
    return "" if {0, 1} <= tags else f", and {folder} has no val slices of both tags to choose by"


def _assignments(table: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Write a table as a.b=c."""
    lines: list[str] = []
    for key, value in table.items():
        name, apart = f"{prefix}{key}", isinstance(value, dict) and key not in WHOLE
        lines += _assignments(value, f"{name}.") if apart else [f"{name}={_inline(value)}"]
    return lines


def _inline(value: object) -> str:
    """Write a value on one line, as TOML has it: JSON's way, but for tables."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{" + ", ".join(f"{json.dumps(key)} = {_inline(part)}" for key, part in value.items()) + "}"


def _refuse_leak(run: Run, method: str, fold: Fold) -> None:
    """Refuse a run that learnt, or was tuned, from an image it is to be tested on, as far as can be known."""
    for image in images_learnt(run, method):
        if image.sha256 in fold.images:
            raise RunError(
                f"was trained with {image.path} in its {image.split} split, which is among the images of {fold.title}.",
                where=image.run,
                repair="Name the run that was trained without this fold.",
            )
