"""What an evaluation says of each slice, and per_slice.csv, where it says it."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tagmask.errors import InputError
from tagmask.metrics import Counts, dice, iou, overlap_status, precision, recall

__all__ = ["PER_SLICE", "SliceRecord", "cell", "overlaps", "read_slices"]

PER_SLICE = (
    *("row", "case", "slice", "patient", "tag", "tag_source", "positive", "position", "score"),
    *("pixels", "truth_pixels", "mask_pixels", "tp", "fp", "fn", "tn"),
    *("status", "dice", "iou", "precision", "recall", "hd95", "hd95_status", "ap", "ap_status"),
    *("rms_target", "rms_rest"),
)
"""Columns of per_slice.csv."""
_NAN = float("nan")


@dataclass(frozen=True)
class SliceRecord:
    """What one row of the table did on one slice.

    Parameters
    ----------
    row
        "method" or the key of a trivial row.
    case, slice, patient
        The file, the index along its slice axis, and whose it is.
    tag, tag_source
        The image tag where it is known (never a predicted one), and where it came from.
    positive
        Whether the slice belongs to the positives-only subset.
    position
        0 .. 1 within the patient's or the volume's slices.
    score
        Image-level score of the method; NaN where there is none.
    counts
        Pixels by prediction and truth.
    hd95, hd95_status
        As `metrics.hd95` gives them.
    ap, ap_status
        Average precision of the slice and "ok", "no_positives", "not_finite" or "no_scores".
    rms_target, rms_rest
        As `region_rms` gives them of the method's score map; NaN where there is no map or no image to take the
        body from.
    """

    row: str
    case: str
    slice: int
    patient: str
    tag: int | None
    tag_source: str
    positive: bool
    position: float
    score: float
    counts: Counts
    hd95: float
    hd95_status: str
    ap: float
    ap_status: str
    rms_target: float = _NAN
    rms_rest: float = _NAN

    @property
    def name(self) -> str:
        """The slice as methods know it, "case/slice"."""
        return f"{self.case}/{self.slice}"

    @property
    def truth_pixels(self) -> int:
        """Pixels of the target."""
        return self.counts.tp + self.counts.fn

    def cells(self) -> dict[str, object]:
        """Give the line of per_slice.csv; undefined numbers are empty."""
        c = self.counts
        cells: dict[str, object] = {
            "row": self.row,
            "case": self.case,
            "slice": self.slice,
            "patient": self.patient,
            "tag": "" if self.tag is None else self.tag,
            "tag_source": self.tag_source,
            "positive": int(self.positive),
            "position": self.position,
            "score": self.score,
            "pixels": sum(c),
            "truth_pixels": self.truth_pixels,
            "mask_pixels": c.tp + c.fp,
            **c._asdict(),
            "status": overlap_status(c),
            **{name: float(value[0]) for name, value in overlaps(np.array([c])).items()},
        }
        cells |= {
            "hd95": self.hd95,
            "hd95_status": self.hd95_status,
            "ap": self.ap,
            "ap_status": self.ap_status,
            "rms_target": self.rms_target,
            "rms_rest": self.rms_rest,
        }
        return {key: cell(value) for key, value in cells.items()}

    @classmethod
    def of_cells(cls, line: Mapping[str, str]) -> SliceRecord:
        """Read a line of per_slice.csv, the inverse of `cells` to the digits that it shows.

        Raises
        ------
        KeyError, ValueError
            A column that is missing, or a cell that is no number.
        """

        def number(key: str) -> float:
            return float(line[key] or "nan")

        return cls(
            row=line["row"],
            case=line["case"],
            slice=int(line["slice"]),
            patient=line["patient"],
            tag=int(line["tag"]) if line["tag"] else None,
            tag_source=line["tag_source"],
            positive=line["positive"] == "1",
            position=number("position"),
            score=number("score"),
            counts=Counts(*(int(line[key]) for key in Counts._fields)),
            hd95=number("hd95"),
            hd95_status=line["hd95_status"],
            ap=number("ap"),
            ap_status=line["ap_status"],
            rms_target=number("rms_target"),
            rms_rest=number("rms_rest"),
        )


def read_slices(evaluation: Path, row: str = "method") -> Iterator[SliceRecord]:
    """Yield the slices of one row of an evaluation, in the order of its per_slice.csv.

    Parameters
    ----------
    evaluation
        The folder.
    row
        "method", or the key of a trivial row.

    Raises
    ------
    InputError
        A table that is missing or damaged.
    """
    path = evaluation / "per_slice.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                if line["row"] == row:
                    yield SliceRecord.of_cells(line)
    except (OSError, KeyError, ValueError, csv.Error) as error:
        problem = f"{type(error).__name__}: {error}"
        raise InputError(
            f"cannot be read as a table of slices ({problem}).", where=path, repair="Evaluate again."
        ) from error


def cell(value: object) -> object:
    """Show a float with six digits, an undefined one as nothing: a cell of a CSV file."""
    if not isinstance(value, float):
        return "" if value is None else value
    return f"{value:.6g}" if math.isfinite(value) else ""


def overlaps(table: np.ndarray) -> dict[str, np.ndarray]:
    """Overlap numbers (N,) of counts (N, >= 3) in the order tp, fp, fn."""
    tp, fp, fn = table[:, 0], table[:, 1], table[:, 2]
    return {
        "dice": dice(tp, fp, fn),
        "iou": iou(tp, fp, fn),
        "precision": precision(tp, fp),
        "recall": recall(tp, fn),
    }
