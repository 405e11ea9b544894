"""What came of preparing a table: counts by split, cases left out, and slices that are there twice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tagmask.data.cohort import Problem, check_both_tags
from tagmask.data.prepared import IndexRow
from tagmask.errors import InputError

__all__ = ["PrepareSummary", "PreparedCase", "SplitCount", "Tally"]


@dataclass(frozen=True)
class PreparedCase:
    """One study, ready to be written.

    Parameters
    ----------
    study
        Its name.
    rows
        One for each slice.
    image : (n, C, S, S) float32 in [-1, 1]
    mask : (n, S, S) bool, optional
        Where prepared supervised.
    sources
        SHA-256 of each file.
    digests
        SHA-256 of the pixels of each slice; None for a slice of one value, which says nothing.
    texts
        The text of each slice's picture, or None.
    warnings
        What is doubtful about it.
    spread
        Whether one tag of the table stands for several slices.
    """

    study: str
    rows: list[IndexRow]
    image: np.ndarray
    mask: np.ndarray | None
    sources: Mapping[str, str]
    digests: Sequence[bytes | None]
    texts: Sequence[str | None]
    warnings: Sequence[Problem] = ()
    spread: bool = False


@dataclass
class SplitCount:
    """What came into one split: images are files, a slice without a tag counts in neither kind.

    `texts` are the images with one.
    """

    images: int = 0
    slices: int = 0
    present: int = 0
    absent: int = 0
    texts: int = 0
    patients: set[str] = field(default_factory=set, repr=False)

    @property
    def prevalence(self) -> float:
        """Share of the tagged slices that have tag 1, in [0, 1]; NaN without any."""
        tagged = self.present + self.absent
        return self.present / tagged if tagged else float("nan")


@dataclass(frozen=True)
class PrepareSummary:
    """What became of a table.

    Parameters
    ----------
    out
        The prepared folder.
    splits
        Counts by split.
    failed
        Cases left out. The others are prepared all the same.
    warnings
        What may be meant, but is worth a look.
    drawn
        The seed the splits were drawn with; None where the table has them.
    fingerprint
        As `Prepared.fingerprint`.
    seconds
        Wall time.
    note
        Where tags and splits are from, for a data set by name.
    """

    out: Path
    splits: Mapping[str, SplitCount]
    failed: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    drawn: int | None
    fingerprint: str
    seconds: float
    note: str = ""

    @property
    def exit_code(self) -> int:
        """0, or 2 where a case failed."""
        return InputError.exit_code if self.failed else 0

    def __str__(self) -> str:
        head = f"{'split':<8}{'images':>8}{'patients':>10}{'slices':>9}{'tag 1':>8}{'tag 0':>8}"
        lines = [f"{head}{'share of 1':>12}"]
        for name, n in self.splits.items():
            share = "-" if math.isnan(n.prevalence) else f"{n.prevalence:.3f}"
            counts = f"{n.images:>8}{len(n.patients):>10}{n.slices:>9}{n.present:>8}{n.absent:>8}{share:>12}"
            lines.append(f"{name:<8}{counts}")
        if any(n.texts for n in self.splits.values()):
            counts = ", ".join(f"{n.texts} of {n.images} in {name}" for name, n in self.splits.items())
            lines.append(f"images with text: {counts}")
        if self.note:
            lines.append(self.note)
        if self.drawn is not None:
            lines.append(f"The table has no splits: drawn by patient with seed {self.drawn} (index.csv).")
        for kind, problems in (("failed", self.failed), ("warnings", self.warnings)):
            if problems:
                lines.append(f"{len(problems)} {kind}, all in problems.csv:")
                lines += [f"  {problem}" for problem in problems[:5]]
        lines.append(f"prepared in {self.seconds:.1f} s, fingerprint {self.fingerprint[:12]} -> {self.out}")
        return "\n".join(lines)


@dataclass
class Tally:
    """Counts cases as they come, and finds slices with the same pixels."""

    warnings: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    counts: dict[str, SplitCount] = field(default_factory=dict)
    _channels: int = 0
    _first: str = ""
    _kept: int = 0
    _others: list[str] = field(default_factory=list, repr=False)
    _seen: dict[bytes, tuple[str, str, str, str | None]] = field(default_factory=dict, repr=False)
    _leaks: list[tuple[str, str]] = field(default_factory=list, repr=False)
    _torn: list[tuple[str, str]] = field(default_factory=list, repr=False)
    _spread: int = 0

    def take(self, case: PreparedCase | Problem) -> PreparedCase | None:
        """Count a case, and give it back if it is to be written."""
        if isinstance(case, PreparedCase) and self._channels not in (0, case.image.shape[1]):
            given, wanted = case.image.shape[1], self._channels
            self._others.append(case.study)
            case = Problem(
                "failed",
                case.study,
                next(iter(case.sources), ""),
                f"The image has {given} channels, those that are kept have {wanted}.",
                "Set slices.channels to what all images have.",
            )
        if isinstance(case, Problem):
            self.failed.append(case)
            return None
        self._channels, self._first = case.image.shape[1], self._first or case.study
        self._kept += 1
        self.warnings += case.warnings
        self._spread += case.spread and case.rows[0]["label"] == 1
        self._compare(case)
        for name in {row["split"] for row in case.rows}:
            self.counts.setdefault(name, SplitCount()).images += 1
            self.counts[name].texts += any(case.texts)
        for row in case.rows:
            count = self.counts[row["split"]]
            count.slices += 1
            count.present += row["label"] == 1
            count.absent += row["label"] == 0
            count.patients.add(row["patient"])
        return case

    def _compare(self, case: PreparedCase) -> None:
        """Note the slices of a case that were there before: across splits a leak, else a doubt."""
        twins: dict[str, list[tuple[str, str]]] = {}
        for row, digest, text in zip(case.rows, case.digests, case.texts, strict=True):
            if digest is None:
                continue
            mine = (row["id"], case.study, row["split"], text)
            id_, study, part, other = self._seen.setdefault(digest, mine)
            if part != row["split"]:
                self._leaks.append((f"{row['id']} ({row['split']})", f"{id_} ({part})"))
            elif text and other and text != other:
                self._torn.append((f"{row['id']} ({text[:60]!r})", f"{id_} ({other[:60]!r})"))
            elif id_ != row["id"]:
                twins.setdefault(study, []).append((row["id"], id_))
        for study, pairs in twins.items():
            other = "the same image" if study == case.study else study
            first, second = pairs[0]
            what = f"{len(pairs)} slices have the same pixels as others of {other}, as {first} and {second}."
            file, repair = next(iter(case.sources), ""), "Keep one of each, unless it is meant."
            self.warnings.append(Problem("warning", case.study, file, what, repair))

    def close(self, where: object, *, tags: bool = True) -> None:
        """Refuse what cannot be learnt from.

        Parameters
        ----------
        where
            The table, for messages.
        tags
            Whether tags are what is learnt from.

        Raises
        ------
        InputError
            No case is left, most have another number of channels than the first, slices are in two splits or have
            two texts, or the train slices that are left have one tag only.
        """
        if not self.counts:
            first = str(self.failed[0]).removeprefix("failed: ").rstrip(".")
            raise InputError(
                f"None of the {len(self.failed)} cases could be read. The first: {first}.",
                where=where,
                repair="Mend the files, or the column image.",
            )
        if len(self._others) > self._kept:
            raise InputError(
                f"The first image, {self._first}, has {self._channels} channels; {len(self._others)} others, such as "
                f"{self._others[0]}, have another number, and {self._kept} have the same.",
                where=where,
                repair="Leave out what is odd, or set slices.channels to what all images have.",
            )
        if self._leaks:
            pairs = "; ".join(f"{a} and {b}" for a, b in self._leaks[:3])
            raise InputError(
                f"{len(self._leaks)} slices of one split have the same pixels as slices of another: {pairs}.",
                where=where,
                repair="Keep one of each, or put both into one split: a test must be of what was not learnt.",
            )
        if self._torn:
            first, second = self._torn[0]
            raise InputError(
                f"{len(self._torn)} slices have the same pixels as others, but another text: {first} and {second}.",
                where=where,
                repair="Find out which text is of another picture, and keep one of each.",
            )
        if tags and self._spread:
            what = f"In {self._spread} volumes one tag stands for all slices: each of them is learnt from as tag 1."
            repair = (
                "If only some slices show it, tag these (column slice): methods on tags learn from slices."
            )
            self.warnings.insert(0, Problem("warning", "", str(where), what, repair))
        train = self.counts.get("train", SplitCount())
        labels = [1] * (train.present > 0) + [0] * (train.absent > 0)
        if tags and len(labels) == 1:
            check_both_tags([labels[0]] * train.slices, where)
