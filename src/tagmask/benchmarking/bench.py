"""The file of a benchmark: protocol, data sets, rows, figures, examples.

    [protocol]                   a preset and what differs from it; or protocol = "cdm"
    preset = "tagmask"
    seeds = [0, 1]

    [data.brain-mri]             "{fold}" stands for the fold, in every path
    inputs = "data/brain-mri/test/labels.csv"
    truth = "data/brain-mri/test"
    val = "data/brain-mri/val"                    masks of other patients, for the intensity threshold
    train = "prepared/brain-mri-supervised"       prepared folder, for the rows of mean mask and position
    published = ["hu2023-table1"]                 printed rows to stand beside ours
    draws = ["0", "1"]                            repeats in which other training pictures were drawn

    [[row]]                      "{data}", "{fold}" and "{draw}" stand for set, fold and draw, in every path
    name = "CG-CDM"
    method = "cg_cdm"
    run = "runs/{data}"
    tuned = "tags"               RUN/tuned.toml; "none"; or a file of settings that were chosen on val masks
    tags = "given"               as `tagmask segment --tags`; by default the protocol's

    [[row]]                      one row for each combination of varied values
    name = "U-Net, {shots} masks"
    method = "unet"
    vary = { shots = [5, 20] }
    run = "runs/{data}-{shots}-{draw}"
    experiment = "experiments/{data}.toml"        trained first, where the run lacks what the method needs
    train = ["data.shots={shots}", "data.draw={draw}"]

    [[train]]                    what is trained before all rows: the backbone of some of them, for instance
    experiment = "experiments/monuseg-backbone.toml"
    run = "runs/monuseg-backbone"

    [[figure]]                   NAME-DATA.png, .svg and .csv, beside the tables
    name = "dice-against-masks"
    x = "shots"

    [[examples]]                 NAME-DATA.png and .svg: the same slices by these rows, side by side
    name = "examples"
    rows = ["CG-CDM", "U-Net, 5 masks"]

Paths are relative to the current directory. An unknown key is refused with its nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tagmask.benchmarking.examples import ExamplesPlan
from tagmask.benchmarking.figures import FigurePlan
from tagmask.benchmarking.names import Place, braces, known
from tagmask.benchmarking.protocol import PRESETS, Protocol
from tagmask.benchmarking.published import PUBLISHED
from tagmask.benchmarking.rows import RowPlan, expanded
from tagmask.benchmarking.trainings import Training
from tagmask.config import build, override, read_toml
from tagmask.errors import ConfigError

__all__ = ["Bench", "DataSet", "load_bench"]


@dataclass(frozen=True)
class DataSet:
    """A data set.

    Parameters
    ----------
    inputs
        What `tagmask segment` gets: a table, a folder or a file.
    truth, table, val, train
        What `tagmask evaluate` gets; `table` is for a truth that is a plain folder of masks.
    folds
        Names of the parts of a cross-validation; one nameless part by default.
    draws
        Names of repeats in which other training pictures were drawn, {draw} in run and train of a row and in
        `train` here. Inputs and truth are the same in all, so a draw is a repeat as a noise seed is one.
    published
        Tables of papers to be shown beside ours; see `tagmask.benchmarking.published.PUBLISHED`.
    mask_labels
        Values of the truth that count as target; None: all above 0.
    min_area_frac
        As in the protocol, for this set alone.
    """

    inputs: str
    truth: str
    table: str | None = None
    val: str | None = None
    train: str | None = None
    folds: tuple[str, ...] = ("",)
    draws: tuple[str, ...] = ("",)
    published: tuple[str, ...] = ()
    mask_labels: tuple[int, ...] | None = None
    min_area_frac: float | None = None

    def __post_init__(self) -> None:
        for key, names in (("fold", self.folds), ("draw", self.draws)):
            if not names or len(set(names)) < len(names):
                raise ConfigError(f"{key}s = {list(names)}.", repair=f"Name each {key} once.")
        if len(self.folds) > 1:
            for key in ("inputs", "truth"):
                if "{fold}" not in getattr(self, key):
                    what = f"there are {len(self.folds)} folds, but {key} = {getattr(self, key)!r} is the same in all."
                    raise ConfigError(what, repair="Write {fold} where the fold's name belongs.")
        for key in ("inputs", "truth", "table", "val"):
            if "draw" in braces(getattr(self, key) or ""):
                raise ConfigError(
                    f"{key} = {getattr(self, key)!r} has {{draw}}, but a draw changes the training pictures alone.",
                    repair="Use folds where the test pictures change.",
                )
        if "draw" in braces(self.train or "") and self.draws == ("",):
            raise ConfigError(
                f"train = {self.train!r}, but there are no draws.", repair='Add draws = ["0", ...].'
            )
        for name in self.published:
            known(name, PUBLISHED, "table")

    @property
    def trivial_draws(self) -> tuple[str, ...]:
        """Draws in which the rows that know next to nothing differ; one nameless draw if they do not."""
        return self.draws if "draw" in braces(self.train or "") else ("",)

    @property
    def conventions(self) -> dict[str, Any]:
        """What its evaluation has of its own, for `Protocol.settings`."""
        own = {"mask_labels": self.mask_labels, "min_area_frac": self.min_area_frac}
        return {key: value for key, value in own.items() if value is not None}


@dataclass(frozen=True)
class Bench:
    """Methods x data sets x folds x draws x noise seeds."""

    protocol: Protocol
    data: Mapping[str, DataSet]
    rows: tuple[RowPlan, ...]
    train: tuple[Training, ...] = ()
    figures: tuple[FigurePlan, ...] = ()
    examples: tuple[ExamplesPlan, ...] = ()

    def __post_init__(self) -> None:
        for what, names in (
            ("rows", [r.name for r in self.rows]),
            ("figures", [f.name for f in self.figures] + [e.name for e in self.examples]),
        ):
            twins = sorted({name for name in names if names.count(name) > 1})
            if twins:
                where = f"[[{what.removesuffix('s')}]]"
                raise ConfigError(f"two {what} are called {twins[0]!r}.", where=where, repair="Rename one.")
        for row in self.rows:
            self._check_row(row, f"[[row]] {row.name}")
        for figure in self.figures:
            figure.check(self.protocol, {name: self._rows_of(name) for name in self.data})
        for examples in self.examples:
            examples.check(self.rows)

    def _check_row(self, row: RowPlan, where: str) -> None:
        """Refuse a row that does not fit the data sets or the protocol."""
        for name in row.data or ():
            known(name, self.data, "data set", where)
        if isinstance(row.run, dict):
            for name in row.run:
                known(name, self.data, "data set", where)
            for name in self.sets(row):
                if name not in row.run:
                    raise ConfigError(f"run names no folder for {name}.", where=where, repair="Add it.")
        if isinstance(row.tags, dict) and (absent := set(self.protocol.setups) - set(row.tags)):
            raise ConfigError(f"tags says nothing of {sorted(absent)[0]}.", where=where, repair="Add it.")
        for name in self.sets(row):
            if row.differs_by_draw(name) and self.data[name].draws == ("",):
                raise ConfigError(
                    f"it has {{draw}}, but [data.{name}] has no draws.",
                    where=where,
                    repair='Give the data set draws = ["0", ...].',
                )

    def sets(self, row: RowPlan) -> Sequence[str]:
        """Names of the data sets that a row is made on."""
        return list(self.data) if row.data is None else row.data

    def draws(self, row: RowPlan, data: str) -> tuple[str, ...]:
        """Draws of a row on a data set; one nameless draw where the row is the same in all."""
        return self.data[data].draws if row.differs_by_draw(data) else ("",)

    def places(self, row: RowPlan) -> Iterator[Place]:
        """Give every place where a row is made."""
        for data in self.sets(row):
            for fold in self.data[data].folds:
                yield from (Place(data, fold, draw) for draw in self.draws(row, data))

    def _rows_of(self, data: str) -> list[RowPlan]:
        return [row for row in self.rows if data in self.sets(row)]


@dataclass(frozen=True)
class _File:
    """The tables of the file, before each is built by itself."""

    data: dict[str, Any]
    row: list[dict[str, Any]]
    protocol: str | dict[str, Any] = field(default_factory=dict)
    train: list[dict[str, Any]] = field(default_factory=list)
    figure: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)


def load_bench(path: Path, overrides: Sequence[str] = ()) -> Bench:
    """Read a benchmark file and apply `--set` overrides.

    Raises
    ------
    ConfigError
        Naming file, table and key.
    """
    file = build(_File, override(read_toml(path), overrides), where=path)
    for key in ("data", "row"):
        if not getattr(file, key):
            raise ConfigError(f"it has no {key}.", where=path, repair="Add [data.NAME] and [[row]] tables.")
    parts = {"preset": file.protocol} if isinstance(file.protocol, str) else dict(file.protocol)
    preset = parts.pop("preset", "tagmask")
    known(preset, PRESETS, "preset", f"{path} [protocol]")
    protocol = build(Protocol, {**PRESETS[preset], **parts}, where=f"{path} [protocol]")
    data = {name: build(DataSet, table, where=f"{path} [data.{name}]") for name, table in file.data.items()}
    for name, one in data.items():
        try:
            protocol.settings(**one.conventions)
        except ConfigError as error:
            raise ConfigError(error.what, where=f"{path} [data.{name}]", repair=error.repair) from None
    tables = [{"tags": protocol.tags, **table} for table in file.row]
    rows = [row for number, table in enumerate(tables, 1) for row in _rows(path, table, number)]
    train = [build(Training, table, where=f"{path} [[train]]") for table in file.train]
    figures = [
        build(FigurePlan, table, where=f"{path} [[figure]] {table.get('name', number)}")
        for number, table in enumerate(file.figure, 1)
    ]
    examples = [build(ExamplesPlan, table, where=f"{path} [[examples]]") for table in file.examples]
    try:
        return Bench(protocol, data, tuple(rows), tuple(train), tuple(figures), tuple(examples))
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{path} {error.where}", repair=error.repair) from None


def _rows(path: Path, table: dict[str, Any], number: int) -> list[RowPlan]:
    """Build the rows of one entry."""
    where = f"{path} [[row]] {table.get('name', number)}"
    try:
        return [build(RowPlan, one, where=where) for one in expanded(table)]
    except ConfigError as error:
        raise ConfigError(error.what, where=error.where or where, repair=error.repair) from None
