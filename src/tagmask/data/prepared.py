"""The prepared folder: slices that a training reads at random, and what is known of each.

    slices.npy          (N, C, S, S) float32 in [-1, 1], memory-mapped
    index.csv           one row a slice, in the order of slices.npy
    settings.json       how the slices were cut, and which column was the tag
    fingerprint.json    SHA-256 of every source file, of index.csv, and one of everything
    texts.csv           row, text; only of rows that have one, and only where some have
    masks.npy           (N, S, S) uint8, 0 or 1; only where prepared supervised
    problems.csv        cases left out and warnings; only where there are any
    tables/             <split>/labels.csv, the cohort of a data set by name, for segment and evaluate

It is written by `tagmask.data.prepared_writer`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from tagmask.config import build
from tagmask.data.sources import TRAIN_MASKS
from tagmask.errors import InputError, TagmaskError
from tagmask.io import sha256
from tagmask.slices import SliceSettings
from tagmask.types import Batch, TextTokens

__all__ = ["COLUMNS", "FORMAT", "TEXT_COLUMNS", "VERSION", "IndexRow", "Prepared"]

FORMAT = "tagmask-prepared"
VERSION = 1
COLUMNS = ("row", "id", "study", "slice", "label", "patient", "split", "position")
TEXT_COLUMNS = ("row", "text")


class IndexRow(TypedDict):
    """One row of index.csv.

    `row` counts the slices of slices.npy from 0. `slice` is the index along the slice axis of the file, 0 for
    a picture. `label` is 0, 1 or None. `position` is in [0, 1], from the first slice of the volume (for
    pictures: of the patient) to the last; NaN where it is not known.
    """

    row: int
    id: str
    study: str
    slice: int
    label: int | None
    patient: str
    split: str
    position: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared folder that is open for reading. See the module's docstring for the files.

    Parameters
    ----------
    path
        The folder.
    settings
        How studies were cut.
    tag
        The column of the tag.
    fingerprint
        SHA-256 of sources, settings and index, 64 hex digits: equal for equal data.
    supervised
        Whether the folder holds masks.
    masks_read
        What these were made from: "train masks" of a person, or "tags" (see `tagmask.prepare`).
    index
        A row for each slice.
    images : (N, C, S, S) float32 in [-1, 1]
        On the disk; a part is read when it is asked for.
    labels : (N,) int64
        1 target present, 0 absent, -1 not known.
    texts
        The sentences of each slice's picture, N of them; None where there are none.
    """

    path: Path
    settings: SliceSettings
    tag: str
    fingerprint: str
    supervised: bool
    masks_read: str
    index: tuple[IndexRow, ...] = field(repr=False)
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    texts: tuple[str | None, ...] = field(repr=False)

    @classmethod
    def open(cls, path: Path | str) -> Prepared:
        """Open a folder made by `tagmask prepare`.

        Raises
        ------
        InputError
            No such folder, one that was not made by `tagmask prepare`, or a damaged one.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError(
                "There is no such folder.",
                where=path,
                repair="Make it with `tagmask prepare TABLE -o FOLDER`.",
            )
        if not (path / "settings.json").is_file():
            raise InputError(
                "This is no prepared folder: it has no settings.json.",
                where=path,
                repair="Give a folder made by `tagmask prepare`.",
            )
        try:
            return cls._open(path)
        except (OSError, KeyError, TypeError, ValueError, EOFError, csv.Error) as error:
            if isinstance(error, TagmaskError) and error.where.startswith(str(path)):
                raise
            what = f"no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise InputError(
                f"The prepared folder is damaged: {what}.", where=path, repair="Prepare the data again."
            ) from error

    @classmethod
    def _open(cls, path: Path) -> Prepared:
        record = json.loads((path / "settings.json").read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise InputError(
                "This is no settings file of a prepared folder.",
                where=path / "settings.json",
                repair="Give a folder made by `tagmask prepare`.",
            )
        if record["version"] != VERSION:
            raise InputError(
                f"The folder has format {record['version']}, and this Tagmask reads {VERSION}.",
                where=path,
                repair="Prepare the data again, or use the Tagmask that made it.",
            )
        settings = build(SliceSettings, record["slices"])
        index = _read_index(path / "index.csv")
        prints = json.loads((path / "fingerprint.json").read_text(encoding="utf-8"))
        if prints["index"] != sha256(path / "index.csv"):
            raise ValueError("index.csv is not as it was written")
        images = _mapped(path / "slices.npy", np.float32, (len(index), None, settings.size, settings.size))
        return cls(
            path=path,
            settings=settings,
            tag=str(record["tag"]),
            fingerprint=str(prints["fingerprint"]),
            supervised=bool(record["supervised"]),
            masks_read=str(record.get("masks_read", TRAIN_MASKS)),
            index=index,
            images=images,
            labels=np.array([-1 if r["label"] is None else r["label"] for r in index], dtype=np.int64),
            texts=_read_texts(path / "texts.csv", prints.get("texts"), len(index)),
        )

    def __len__(self) -> int:
        return len(self.index)

    @property
    def positions(self) -> np.ndarray:
        """(N,) float64 in [0, 1]: where in its volume or patient a slice lies; NaN where it is not known."""
        return np.array([row["position"] for row in self.index])

    def rows(self, split: str) -> list[IndexRow]:
        """Give the rows of one split ("train", "val", "test"); none for a split that is not there."""
        return [row for row in self.index if row["split"] == split]

    def split_indices(self, split: str) -> np.ndarray:
        """Give the places (n,) int64 in `images` and `labels` of one split, rising."""
        return np.array([row["row"] for row in self.rows(split)], dtype=np.int64)

    def open_masks(self) -> np.ndarray:
        """Open the masks, (N, S, S) uint8 of 0 and 1, in the order of `images`.

        Raises
        ------
        InputError
            The folder was prepared from tags alone, or masks.npy is damaged.
        """
        if not self.supervised:
            raise InputError(
                "The folder was prepared from tags alone and holds no masks.",
                where=self.path,
                repair="Prepare it again with --supervised.",
            )
        path = self.path / "masks.npy"
        try:
            return _mapped(path, np.uint8, (len(self), self.settings.size, self.settings.size))
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"The masks are damaged: {error}.", where=path, repair="Prepare the data again."
            ) from error

    def batch(
        self,
        indices: Sequence[int] | np.ndarray,
        encode: Callable[[Sequence[str | None]], TextTokens] | None = None,
    ) -> Batch:
        """Read slices by their places in `images`.

        Parameters
        ----------
        encode
            What makes tokens of sentences, for methods that read them.

        Returns
        -------
        Batch
            Ids are "study/slice". It has labels where all of the slices have a tag, text where it is encoded.
        """
        places = np.asarray(indices, dtype=np.int64)
        rows = [self.index[i] for i in places.tolist()]
        labels = self.labels[places]
        return Batch(
            image=torch.from_numpy(np.array(self.images[places])),
            ids=tuple(f"{row['study']}/{row['slice']}" for row in rows),
            label=torch.from_numpy(labels) if (labels >= 0).all() else None,
            text=None if encode is None else encode([self.texts[i] for i in places]),
        )

    def batches(
        self,
        indices: Sequence[int] | np.ndarray,
        size: int,
        encode: Callable[[Sequence[str | None]], TextTokens] | None = None,
    ) -> Iterator[Batch]:
        """Read slices in as few batches of at most `size` as hold them, about as large as each other."""
        places = np.asarray(indices, dtype=np.int64)
        for part in np.array_split(places, -(-len(places) // size)) if len(places) else ():
            yield self.batch(part, encode)


def _read_index(path: Path) -> tuple[IndexRow, ...]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"the columns of {path.name} are not {', '.join(COLUMNS)}")
        index = tuple(_index_row(fields) for fields in reader)
    if [row["row"] for row in index] != list(range(len(index))):
        raise ValueError(f"the rows of {path.name} do not count from 0 on")
    return index


def _read_texts(path: Path, digest: str | None, count: int) -> tuple[str | None, ...]:
    """Read the text of each of `count` rows; `digest` is None where none has one."""
    texts: list[str | None] = [None] * count
    if (sha256(path) if path.exists() else None) != digest:
        raise ValueError("texts.csv is not as it was written")
    if digest is not None:
        with path.open(newline="", encoding="utf-8") as file:
            for row, text in list(csv.reader(file, strict=True))[1:]:
                texts[int(row)] = text
    return tuple(texts)


def _index_row(fields: dict[str, str]) -> IndexRow:
    label = int(fields["label"]) if fields["label"] else None
    if label not in (None, 0, 1):
        raise ValueError(f"the tag of {fields['id']} is {label}")
    return IndexRow(
        row=int(fields["row"]),
        id=fields["id"],
        study=fields["study"],
        slice=int(fields["slice"]),
        label=label,
        patient=fields["patient"],
        split=fields["split"],
        position=float(fields["position"] or "nan"),
    )


def _mapped(path: Path, dtype: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """Open a .npy file without reading it, if it has the type and shape (None: any number) it should have."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    fits = array.ndim == len(shape) and all(w in (None, g) for g, w in zip(array.shape, shape, strict=True))
    if array.dtype != dtype or not fits:
        wanted = " x ".join("C" if n is None else str(n) for n in shape)
        given = " x ".join(map(str, array.shape))
        raise ValueError(f"{path.name} holds {given} {array.dtype}, not {wanted} {np.dtype(dtype)}")
    return array
