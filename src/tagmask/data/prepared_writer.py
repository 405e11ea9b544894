"""Writing a prepared folder: slice by slice, beside its place, and moved there when it is whole."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tagmask import __version__
from tagmask.config import plain
from tagmask.data.array_file import ArrayFile
from tagmask.data.prepared import COLUMNS, FORMAT, TEXT_COLUMNS, VERSION, IndexRow
from tagmask.errors import DISK_FULL, InputError, ResourceError
from tagmask.io import command_line, sha256
from tagmask.io.commands import COMMANDS
from tagmask.slices import SliceSettings

__all__ = ["ArrayFile", "PreparedWriter", "refuse_existing"]


class PreparedWriter:
    """A prepared folder in the making: a context that leaves a whole folder behind, or nothing.

    Parameters
    ----------
    out
        Where the folder is to appear.
    settings, tag, supervised
        As `Prepared` gives them back.
    record
        More for settings.json, as plain values.
    overwrite
        Whether a prepared folder that is there already may be replaced. Anything else never is.

    Raises
    ------
    InputError
        There is something already, or the place cannot be written to.
    ResourceError
        The disk is full.
    """

    def __init__(
        self,
        out: Path,
        settings: SliceSettings,
        *,
        tag: str,
        supervised: bool,
        record: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        # The folder a link leads to, for a link cannot be replaced by a folder in one step.
        self.out = Path(os.path.realpath(out))
        self.fingerprint = ""
        self._overwrite = overwrite
        self._temporary = self.out.parent / f".{secrets.token_hex(8)}.tmp"
        self._settings = {
            "format": FORMAT,
            "version": VERSION,
            "tagmask": __version__,
            "tag": tag,
            "supervised": supervised,
            "slices": plain(settings),
            **(record or {}),
        }
        self._sources: dict[str, str] = {}
        self._splits: dict[str, str] = {}
        self._texts: list[tuple[int, str]] = []
        # Version and origin are recorded but no part of the fingerprint: equal data stay equal.
        identity = {key: value for key, value in self._settings.items() if key not in ("tagmask", "origin")}
        self._hash = hashlib.sha256(_canonical(identity))
        refuse_existing(self.out, overwrite)

    def __enter__(self) -> PreparedWriter:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir()
            self._images = ArrayFile(self._temporary / "slices.npy", np.float32)
            self._masks = (
                ArrayFile(self._temporary / "masks.npy", np.uint8) if self._settings["supervised"] else None
            )
            self._index_file = (self._temporary / "index.csv").open("x", newline="", encoding="utf-8")
            self._index = csv.writer(self._index_file, lineterminator="\n")
            self._index.writerow(COLUMNS)
        except OSError as error:
            self._clear()
            raise _explained(error, self.out) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for file in (self._images, self._masks, self._index_file):
                with suppress(OSError):
                    if file is not None:
                        file.close()
        finally:
            self._clear()
        if isinstance(error, OSError):
            raise _explained(error, self.out) from error

    @property
    def rows(self) -> int:
        """Slices written so far."""
        return self._images.rows

    def add(
        self,
        rows: Sequence[IndexRow],
        image: np.ndarray,
        mask: np.ndarray | None = None,
        *,
        sources: Mapping[str, str],
        texts: Sequence[str | None] = (),
    ) -> None:
        """Write the slices of one study.

        Parameters
        ----------
        rows
            One for each slice, all of one split; their `row` is set here.
        image : (n, C, S, S) float32
        mask : (n, S, S) bool or uint8, optional
            For a supervised folder.
        sources
            SHA-256 of each file of the study.
        texts
            One for each slice, None where there is none; nothing for a study without.
        """
        if len(rows) != len(image) or (mask is None) != (self._masks is None):
            raise ValueError("Rows, image and mask do not belong together.")
        said = [text or "" for text in texts]
        if said and len(said) != len(rows):
            raise ValueError("Rows and texts do not belong together.")
        # What counts is the content of files, not where they lie. A study without text counts as it always did.
        content = [list(sources.values()), [_line(r)[1:] for r in rows], *([said] if any(said) else [])]
        self._hash.update(_canonical(content))
        self._sources.update(sources)
        for (
            source
        ) in sources:  # what has been learnt from stays so, whatever a second study of the file is for
            if self._splits.get(source) not in ("train", "val"):
                self._splits[source] = rows[0]["split"]
        self._texts += [(self.rows + i, text) for i, text in enumerate(said) if text]
        for number, row in enumerate(rows, self.rows):
            self._index.writerow(_line({**row, "row": number}))
        self._images.append(image)
        if mask is not None and self._masks is not None:
            self._masks.append(mask)

    def finish(self, problems: Iterable[Sequence[str]] = (), tables: Mapping[str, str] | None = None) -> str:
        """Write what is left and move the folder to its place.

        Parameters
        ----------
        problems
            Lines of problems.csv: level, case, file, what, repair.
        tables
            Files of the folder tables/, by their place in it.

        Returns
        -------
        str
            The fingerprint.
        """
        if not self.rows:
            raise ValueError("There is no slice to write.")
        for array in (self._images, self._masks):
            if array is not None:
                array.close()
        self._index_file.close()
        self.fingerprint = self._hash.hexdigest()
        record: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "tagmask": __version__,
            "index": sha256(self._temporary / "index.csv"),
            "sources": self._sources,
            "splits": self._splits,
        }
        if self._texts:
            self._table("texts.csv", [TEXT_COLUMNS, *self._texts])
            record["texts"] = sha256(self._temporary / "texts.csv")
        self._write(COMMANDS, command_line() + "\n")
        self._write("settings.json", json.dumps(self._settings, indent=1))
        self._write("fingerprint.json", json.dumps(record, indent=1))
        lines = list(problems)
        if lines:
            self._table("problems.csv", [("level", "case", "file", "what", "repair"), *lines])
        for name, text in (tables or {}).items():
            (self._temporary / "tables" / name).parent.mkdir(parents=True, exist_ok=True)
            self._write(f"tables/{name}", text)
        self._move()
        return self.fingerprint

    def _write(self, name: str, text: str) -> None:
        with (self._temporary / name).open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _table(self, name: str, rows: Iterable[Sequence[object]]) -> None:
        with (self._temporary / name).open("x", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _move(self) -> None:
        """Put the folder in its place; an older one is kept until the new one is there."""
        refuse_existing(self.out, self._overwrite)
        old = self._temporary.with_suffix(".old")
        if self.out.is_dir():
            os.rename(self.out, old)
        try:
            os.rename(self._temporary, self.out)
        except OSError:
            if old.is_dir():
                os.rename(old, self.out)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def _clear(self) -> None:
        shutil.rmtree(self._temporary, ignore_errors=True)


def _line(row: Mapping[str, Any]) -> list[str]:
    """Give the fields of index.csv; what is not known is empty."""
    values = dict(row)
    position = float(values["position"])
    values["position"] = "" if np.isnan(position) else f"{position:.6f}"
    return ["" if values[name] is None else str(values[name]) for name in COLUMNS]


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


_PARTS = {
    *("slices.npy", "index.csv", "settings.json", "fingerprint.json", "texts.csv", "masks.npy"),
    *("problems.csv", "tables", COMMANDS),
}
"""What a prepared folder holds; one that is replaced goes with all of it."""


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse a place that is taken, unless by an empty folder, or by a prepared one to replace and nothing else.

    Raises
    ------
    InputError
        Naming what is there.
    """
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    ours = False
    with suppress(OSError, ValueError, AttributeError):
        ours = json.loads((out / "settings.json").read_text(encoding="utf-8")).get("format") == FORMAT
    others = sorted(path.name for path in out.iterdir() if path.name not in _PARTS) if ours else []
    if overwrite and others:
        raise InputError(
            f"The prepared folder also holds {others[0]}, which would go with it.",
            where=out,
            repair="Move it away, or choose another folder.",
        )
    if ours and overwrite:
        return
    what = "holds prepared slices already" if ours else "is there already and is no prepared folder"
    repair = "Choose another folder, or use --overwrite." if ours else "Choose another folder."
    raise InputError(f"The output {what}.", where=out, repair=repair)


def _explained(error: OSError, out: Path) -> InputError | ResourceError:
    """Turn what the system says into what a person can do."""
    if error.errno in DISK_FULL:
        return ResourceError(
            f"The disk is full ({error.strerror}).", where=out, repair="Free space, or write elsewhere."
        )
    return InputError(
        f"The output cannot be written ({error.strerror}).", where=out, repair="Choose another folder."
    )
