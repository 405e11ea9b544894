"""The cases of a segmentation: inputs grouped by image, and one image in work with what is known of it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tagmask.data.table import Case
from tagmask.errors import InputError
from tagmask.io import read_study
from tagmask.io.atomic import temporaries
from tagmask.slices import Slices, SliceSettings, split
from tagmask.types import Study

__all__ = ["OpenCase", "by_image", "clear", "source_names"]


@dataclass
class OpenCase:
    """A case in work: its study, its slices, and what is known of them so far."""

    study: Study
    slices: Slices
    rows: dict[int, Case]
    started: float
    maps: np.ndarray = field(init=False)
    masks: np.ndarray = field(init=False)
    uncertainty: np.ndarray | None = field(init=False, default=None)
    lines: list[dict[str, object]] = field(init=False)
    left: int = field(init=False)

    @classmethod
    def read(cls, name: str, rows: list[Case], settings: SliceSettings, channels: int) -> OpenCase:
        """Read and cut the image of some rows.

        Parameters
        ----------
        rows
            All that inputs say of one image.
        channels
            What the networks were trained with.

        Raises
        ------
        TagmaskError
            A file that cannot be read, another number of channels, rows that do not fit the image.
        """
        started = time.perf_counter()
        study = read_study(rows[0].images, id=name)
        slices = split(study, settings)
        _check_channels(study, slices, channels)
        return cls(study, slices, _rows_by_slice(rows, slices, study), started)

    def __post_init__(self) -> None:
        depth, _, side, _ = self.slices.image.shape
        self.maps = np.zeros((depth, side, side), np.float32)
        self.masks = np.zeros((depth, side, side), np.float32)
        self.lines = [{} for _ in range(depth)]
        self.left = depth

    @property
    def texts(self) -> list[str | None]:
        """The sentence of each slice, None where no row has one."""
        rows = (self.rows.get(int(i)) for i in self.slices.indices)
        return [row.text if row else None for row in rows]

    def doubt(self, k: int, uncertainty: np.ndarray) -> None:
        """Note how unsure the method is of every pixel of slice k, (S, S) float32; most methods do not say."""
        if self.uncertainty is None:
            self.uncertainty = np.full_like(self.maps, np.nan)  # a slice that was forgotten fails its case
        self.uncertainty[k] = uncertainty

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays: the study, its slices, and what the method says of them."""
        arrays = (self.study.image, self.slices.image, self.maps, self.masks, self.uncertainty)
        return sum(array.nbytes for array in arrays if array is not None)


def by_image(cases: Iterable[Case]) -> dict[str, list[Case]]:
    """Group rows of one image, in order of appearance.

    Raises
    ------
    InputError
        No rows, two images of one name, or one image by two ways.
    """
    studies: dict[str, list[Case]] = {}
    for case in cases:
        rows = studies.setdefault(case.study, [])
        if case in rows:  # the very same input, twice
            continue
        rows.append(case)
        if rows[0].images != case.images:
            raise InputError(
                f"two inputs are both called {case.study!r}: {rows[0].images[0]} and {case.images[0]}.",
                repair="Segment them into two output folders, or rename one.",
            )
        if rows[0].source != case.source:
            raise InputError(
                f"the image {case.images[0]} is given twice: {rows[0].where} and {case.where}.",
                repair="Give each image once, with its table if it has one.",
            )
    if not studies:
        raise InputError(
            "there is nothing to segment.", repair="Give NIfTI, DICOM or picture files, or a table."
        )
    return studies


def source_names(rows: list[Case]) -> list[str]:
    """Give the files of a case in full, links followed."""
    return [os.path.realpath(path) for path in rows[0].images]  # Path.resolve fails on a link to itself


def _check_channels(study: Study, slices: Slices, wanted: int) -> None:
    """Refuse a study whose channels are not those of the networks, before it meets others in a batch."""
    if (given := slices.image.shape[1]) != wanted:
        raise InputError(
            f"The image has {given} channels, but the run was trained with {wanted}.",
            where=study.sources[0],
            repair="Convert it to grey, or give the channels that training saw.",
        )


def _rows_by_slice(rows: list[Case], slices: Slices, study: Study) -> dict[int, Case]:
    """Row of each slice index; a row without an index speaks for the whole volume, or for its one picture."""
    indices = [int(i) for i in slices.indices]
    if study.kind == "picture" and len(rows) > 1:
        raise InputError(
            f"{len(rows)} rows are about this one picture.",
            where=rows[0].images[0],
            repair="Keep one row for each picture.",
        )
    if study.kind == "picture" or rows[0].slice is None:
        return dict.fromkeys(indices, rows[0])
    found = {}
    for row in rows:
        if row.slice not in indices:
            raise InputError(
                f"slice {row.slice}, but the volume has slices {indices[0]} to {indices[-1]} along the chosen plane.",
                where=f"{study.sources[0]}, row {row.id}",
                repair="Correct the table, or prepare with the plane the table was made for.",
            )
        found[int(row.slice)] = row
    return found


def clear(out: Path, studies: dict[str, list[Case]]) -> None:
    """Remove what an earlier job of this folder left, so that its results do not pass for those of this one."""
    try:
        before = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        before = {}
    inputs = {path for rows in studies.values() for path in source_names(rows)}
    named = before if isinstance(before, dict) else {}
    cases = [case for case in named if Path(case).name == case and _is_name(case)]
    maps = (".nii.gz", ".tif")
    kinds = {"masks": (".nii.gz", ".png"), "scores": maps, "uncertainty": maps}
    names = [f"{kind}/{case}{suffix}" for case in cases for kind in kinds for suffix in kinds[kind]]
    killed = [path for kind in kinds for path in temporaries(out / kind)]
    for path in (*(out / name for name in ("slices.csv", "failed.csv", *names)), *killed):
        if os.path.realpath(path) not in inputs:
            _remove(path)


def _is_name(case: str) -> bool:
    """Whether the disk can know a file of that name: what was written, and not what damage made of it."""
    try:
        return b"\0" not in os.fsencode(case)
    except UnicodeEncodeError:
        return False


def _remove(path: Path) -> None:
    """Remove a file; nothing to do where there is none, or can be none of so long a name."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
