"""A fold of a data set: which files it is made of, and what is wrong with it, before anything is computed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from tagmask.benchmarking.bench import Bench
from tagmask.benchmarking.names import Place
from tagmask.data.prepared import Prepared
from tagmask.data.table import Case, read_inputs
from tagmask.errors import InputError, TagmaskError
from tagmask.io import sha256
from tagmask.scoring.protocol import EvaluateSettings
from tagmask.scoring.truth import TruthCase, truth_cases

__all__ = ["Fold", "Folds", "Hashes", "open_fold", "open_folds"]


@dataclass(frozen=True)
class Hashes:
    """SHA-256 of files, each computed once."""

    known: dict[Path, str] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        """Hash a file or a DICOM folder.

        Raises
        ------
        InputError
            It cannot be read.
        """
        if path not in self.known:
            try:
                self.known[path] = sha256(path)
            except OSError as error:
                what = f"it cannot be read ({error.strerror})."
                raise InputError(what, where=path, repair="Check the path.") from None
        return self.known[path]


def digest(content: object) -> str:
    """Hash what JSON can say; 64 hex digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Fold:
    """The files of one fold.

    Parameters
    ----------
    at
        Which it is; the draw is that of the train set.
    inputs, truth, table, val, train
        Paths, as `tagmask segment` and `tagmask evaluate` get them.
    settings
        Of the evaluation.
    cases
        Of the inputs.
    hashes
        Shared by all folds.
    """

    at: Place
    inputs: Path
    truth: Path
    table: Path | None
    val: Path | None
    train: Path | None
    settings: EvaluateSettings
    cases: tuple[Case, ...]
    hashes: Hashes = field(repr=False)

    @property
    def title(self) -> str:
        """Name for messages."""
        return str(self.at._replace(draw=""))

    @cached_property
    def images(self) -> frozenset[str]:
        """SHA-256 of the input images."""
        return frozenset(self.hashes.of(path) for case in self.cases for path in case.images)

    @cached_property
    def inputs_digest(self) -> str:
        """Changes with any image, tag, patient or slice of the inputs."""
        lines = [
            (c.id, c.study, c.slice, c.label, c.patient, [self.hashes.of(p) for p in c.images])
            for c in self.cases
        ]
        return digest(lines)

    @cached_property
    def truth_digest(self) -> str:
        """Changes with any mask, with the val set, the train set and the settings of the evaluation."""
        train = None if self.train is None else Prepared.open(self.train).fingerprint
        val = None if self.val is None else self._masks(truth_cases(self.val).values())
        truth = self._masks(truth_cases(self.truth, self.table).values())
        return digest([truth, val, train, asdict(self.settings)])

    def _masks(self, cases: Iterable[TruthCase]) -> list[object]:
        """All that numbers depend on: masks, images, tags and patients."""
        return [
            [
                *(case.id, self.hashes.of(case.mask)),
                [self.hashes.of(path) for path in case.images if path.exists()],
                [(row.slice, row.label, row.patient) for row in case.rows],
            ]
            for case in cases
        ]


def open_fold(bench: Bench, at: Place, hashes: Hashes) -> Fold:
    """List the files of a fold and refuse what could not give numbers.

    Raises
    ------
    InputError
        Something is missing, or every slice has the same tag although the protocol needs both.
    """
    one = bench.data[at.data]

    def path(text: str | None) -> Path | None:
        return None if text is None else Path(at.fill(text))

    inputs, truth = path(one.inputs), path(one.truth)
    assert inputs is not None and truth is not None
    found = Fold(
        at,
        inputs,
        truth,
        path(one.table),
        path(one.val),
        path(one.train),
        bench.protocol.settings(**one.conventions),
        tuple(read_inputs(inputs)),
        hashes,
    )
    _check_tags(found, mixed="mixed" in bench.protocol.setups)
    _check_names(found)
    return found


Folds = Mapping[Place, Fold]
"""Place -> what it is made of; a draw called "" is that of rows that are the same in all."""


def open_folds(bench: Bench, fail: Callable[[str, Exception], None]) -> Folds:
    """Open every fold for every draw, and read every file once, before anything is computed.

    Parameters
    ----------
    fail
        Called with the name of a fold or draw that cannot be used, and what is wrong with it.
    """
    hashes, found = Hashes(), dict[Place, Fold]()
    for data, one in bench.data.items():
        for fold in one.folds:
            for draw in one.trivial_draws:
                try:
                    opened = open_fold(bench, Place(data, fold, draw), hashes)
                    opened.inputs_digest, opened.truth_digest  # noqa: B018
                except (TagmaskError, OSError) as error:
                    fail(str(Place(data, fold, draw)), error)
                    continue
                served = one.draws if one.trivial_draws == ("",) else (draw,)
                found.update({Place(data, fold, name): opened for name in served})
                found.setdefault(Place(data, fold), opened)
    return found


def _check_tags(fold: Fold, *, mixed: bool) -> None:
    """Refuse a fold whose tags, if it has any, leave a subset empty."""
    tags = {case.label for case in fold.cases}
    if fold.settings.positives == "tag" and tags == {None}:
        what = 'no slice has a tag, but positives = "tag".'
        raise InputError(
            what, where=fold.inputs, repair='Give a table with tags, or use positives = "truth".'
        )
    for tag in (1, 0) if mixed else (1,):
        if tags == {1 - tag}:
            repair = "Draw the folds anew, so that each holds patients with slices of both tags."
            if tag == 0:
                repair += ' Or count positive slices alone: setups = ["positives"].'
            what = f"every slice of {fold.title} has tag {1 - tag}, none has tag {tag}."
            raise InputError(what, where=fold.inputs, repair=repair)


def _check_names(fold: Fold) -> None:
    """Refuse inputs of which none has a truth: it is cheaper to find out now than after segmenting."""
    truth = truth_cases(fold.truth, fold.table)
    names = {case.study for case in fold.cases}
    if not names & set(truth):
        raise InputError(
            f"none of the {len(names)} images of {fold.title} has a truth.",
            where=fold.truth,
            repair="Name images and masks by the same stem.",
        )
