"""What adds up while cases stream by: one record per slice and row, and pooled curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tagmask import __version__
from tagmask.errors import ConfigError, InputError
from tagmask.io import write_json, write_text
from tagmask.metrics import counts, hd95
from tagmask.scoring.aggregate import PER_PATIENT, per_patient, summarise
from tagmask.scoring.baseline_rows import Filled, LoadedCase, Row
from tagmask.scoring.baselines import PositionPrior
from tagmask.scoring.detection import image_level
from tagmask.scoring.precision_recall import PooledScores, average_precision
from tagmask.scoring.protocol import EvaluateSettings
from tagmask.scoring.regions import region_rms
from tagmask.scoring.score_histogram import ScoreHistogram
from tagmask.scoring.scoreboard import FLAT, flat, markdown, write_numbers
from tagmask.scoring.slice_records import PER_SLICE, SliceRecord
from tagmask.scoring.truth import SliceInfo
from tagmask.thresholds import body, slice_body

__all__ = ["FILES", "SUBSETS", "Accumulator"]

FILES = (
    *("panels.npz", "per_slice.csv", "per_patient.csv", "pr_curve.csv", "histogram.csv", "summary.csv"),
    "summary.md",
)
"""What an evaluation writes before its summary.json."""

SUBSETS = ("positives", "mixed")
PR_CURVE = ("row", "subset", "recall", "precision", "threshold")
"""Columns of pr_curve.csv."""
_CURVE_POINTS = 400
_NOWHERE = (float("nan"), float("nan"))


@dataclass
class Accumulator:
    """What an evaluation has seen so far, and the files it becomes.

    Parameters
    ----------
    rows
        Rows of the table; each slice is entered under every one of them.
    settings
        Which slices and pixels count.
    score_from
        Where the method's image-level score comes from; see `Results.score_source`.
    """

    rows: Sequence[Row]
    settings: EvaluateSettings
    score_from: str
    records: dict[str, list[SliceRecord]] = field(init=False)
    failed: list[tuple[str, str]] = field(default_factory=list)
    units: set[str] = field(default_factory=set)
    histogram: ScoreHistogram = field(default_factory=ScoreHistogram)
    unlisted: int = 0
    below_min_area: int = 0

    def __post_init__(self) -> None:
        self.records = {row.row: [] for row in self.rows}
        self._pools = {(row.row, subset): PooledScores() for row in self.rows for subset in SUBSETS}

    def enter(self, case: LoadedCase) -> None:
        """Enter every slice of a case that counts, under every row.

        Raises
        ------
        ConfigError
            The settings ask for the body, and the case has no image.
        """
        body = self._body(case)
        kept = self._kept(case, body)
        over = self._over(case, body)
        for row in self.rows if kept else ():
            filled = row.fill(case)
            for k in kept:
                self._enter_slice(case, row.row, k, filled, body, over)

    def check(self, where: Path) -> None:
        """Refuse an evaluation of nothing, and one by tags without tags.

        Raises
        ------
        InputError, ConfigError
        """
        records = self.records["method"]
        if not records:
            first = f"The first problem: {self.failed[0][0]}: {self.failed[0][1]}" if self.failed else ""
            raise InputError(
                f"no slice could be evaluated; {len(self.failed)} cases failed, {self.below_min_area} slices "
                f"show too little of the target, {self.unlisted} are in no table.",
                where=where,
                repair=first or "Lower min_area_frac, or check the table.",
            )
        labels = self.settings.mask_labels
        if labels is not None and all(r.counts.tp + r.counts.fn == 0 for r in records):
            what = (
                f"none of {len(records)} slices of the truth holds a label of {', '.join(map(str, labels))}."
            )
            raise InputError(what, where="evaluate.mask_labels", repair="Name values that the masks have.")
        if self.settings.positives == "tag" and all(r.tag is None for r in records):
            repair = 'Give a table with tags, or positives = "truth".'
            raise ConfigError("no slice has a tag.", where="evaluate.positives", repair=repair)

    def _kept(self, case: LoadedCase, body: np.ndarray | None) -> list[int]:
        """Slices that the tables list and that show enough of the target."""
        kept = []
        for k, info in enumerate(case.info):
            if info is None:
                self.unlisted += 1
                continue
            whole = case.cut(case.truth if body is None or self.settings.area_of == "slice" else body, k)
            size = whole.size if self.settings.area_of == "slice" else int(whole.sum())
            if case.cut(case.truth, k).sum() < self.settings.min_area_frac * size:
                self.below_min_area += 1
                continue
            kept.append(k)
        return kept

    def _body(self, case: LoadedCase) -> np.ndarray | None:
        """Body of a case (I, J, K) bool; None without an image, if the settings can do without."""
        p = self.settings
        if case.image is not None:
            return body(case.image)
        if p.ap_over != "image" or (p.area_of == "body" and p.min_area_frac):
            raise ConfigError(
                f"{case.study.id} has no source image to take the body from.",
                where="evaluate.area_of or evaluate.ap_over",
                repair="Name the images' folder, or take the whole slice and the whole image.",
            )
        return None

    def _over(self, case: LoadedCase, body: np.ndarray | None) -> np.ndarray | None:
        """Pixels of the AUPRC (I, J, K) bool; None takes all."""
        if self.settings.ap_over == "slice_body" and case.image is not None:
            return slice_body(case.image, case.axis)
        return body if self.settings.ap_over == "body" else None

    def _enter_slice(
        self,
        case: LoadedCase,
        row: str,
        k: int,
        filled: Filled,
        body: np.ndarray | None,
        over: np.ndarray | None,
    ) -> None:
        """Enter one slice of one row."""
        info = case.info[k]
        assert info is not None
        truth, pred = case.cut(case.truth, k), case.cut(filled[0], k)
        score = None if filled[1] is None else case.cut(filled[1], k)
        positive = info.tag == 1 if self.settings.positives == "tag" else bool(truth.any())
        inside = None if over is None else case.cut(over, k)
        regions = _NOWHERE
        if row == "method" and score is not None:
            self.histogram.add(score, truth)
            regions = _NOWHERE if body is None else region_rms(score, truth, case.cut(body, k))
        area, area_status = self._area(row, positive, score, truth, inside)
        spacing = case.study.spacing
        in_plane = None if spacing is None else [s for a, s in enumerate(spacing) if a != case.axis]
        self.units.add("px" if in_plane is None else "mm")
        distance, distance_status = hd95(pred, truth, in_plane, self.settings.empty_hd)
        record = SliceRecord(
            row=row,
            case=case.study.id,
            slice=k,
            patient=info.patient,
            tag=info.tag,
            tag_source=info.tag_source,
            positive=positive,
            position=float(case.positions[k]),
            score=self._image_score(info, pred, score) if row == "method" else float("nan"),
            counts=counts(pred, truth),
            hd95=distance,
            hd95_status=distance_status,
            ap=area,
            ap_status=area_status,
            rms_target=regions[0],
            rms_rest=regions[1],
        )
        self.records[row].append(record)

    def _area(
        self, row: str, positive: bool, score: np.ndarray | None, truth: np.ndarray, inside: np.ndarray | None
    ) -> tuple[float, str]:
        """Average precision of a slice, which joins the pooled curves too."""
        if score is None:
            return float("nan"), "no_scores"
        if inside is not None:
            score, truth = score[inside], truth[inside]
        if not np.isfinite(score).all():
            return float("nan"), "not_finite"
        for subset in SUBSETS[0 if positive else 1 :]:
            self._pools[row, subset].add(score, truth)
        return average_precision(score, truth)

    def _image_score(self, info: SliceInfo, pred: np.ndarray, score: np.ndarray | None) -> float:
        """Image-level score of the method, from where it can be had."""
        if self.score_from == "slices.csv":
            return info.score
        if self.score_from == "maximum of the score map" and score is not None:
            return float(score.max())
        return float(pred.sum())

    def subset(self, row: str, subset: str) -> list[SliceRecord]:
        """Records of a row in "positives" or "mixed"."""
        return [r for r in self.records[row] if r.positive or subset == "mixed"]

    def summary(self) -> dict[str, Any]:
        """Give the counts, warnings and rows of summary.json."""
        records, resamples, seed = self.records["method"], self.settings.resamples, self.settings.seed
        lines = []
        for row in self.rows:
            line: dict[str, Any] = {
                "row": row.row,
                "title": row.title,
                "reads": row.reads,
                "chosen": row.chosen,
            }
            for subset in SUBSETS:
                pooled, _ = self._pools[row.row, subset].average_precision()
                line[subset] = summarise(self.subset(row.row, subset), pooled, resamples=resamples, seed=seed)
            lines.append(line)
        return {
            "format": "tagmask-evaluation",
            "version": 1,
            "tagmask": __version__,
            "slices": {
                "evaluated": len(records),
                "positives": sum(r.positive for r in records),
                "unlisted": self.unlisted,
                "below_min_area": self.below_min_area,
            },
            "patients": len({r.patient for r in records}),
            "warnings": self._warnings(),
            "hd95": {"unit": " or ".join(sorted(self.units)), "empty": self.settings.empty_hd},
            "rows": lines,
        }

    def image_level(self, prior: PositionPrior) -> dict[str, Any]:
        """Give the image level of summary.json, beside the rule that knows the position only."""
        resamples, seed = self.settings.resamples, self.settings.seed
        return image_level(self.records, prior, self.score_from, resamples=resamples, seed=seed)

    def curves(self) -> list[dict[str, object]]:
        """Give the lines of pr_curve.csv: each pooled curve, thinned evenly."""
        lines: list[dict[str, object]] = []
        for (row, subset), pool in self._pools.items():
            precisions, recalls, thresholds = pool.curve()
            if not len(recalls):
                continue
            picks = np.unique(np.linspace(0, len(recalls) - 1, _CURVE_POINTS).round().astype(int))
            for i in picks:
                numbers = {"recall": recalls[i], "precision": precisions[i], "threshold": thresholds[i]}
                lines.append({"row": row, "subset": subset, **{k: float(v) for k, v in numbers.items()}})
        return lines

    def _warnings(self) -> dict[str, int]:
        """Count what tags and masks disagree on, and what could not be used."""
        records = self.records["method"]
        shown = [r.counts.tp + r.counts.fn > 0 for r in records]
        return {
            "tag0_with_mask": sum(r.tag == 0 and s for r, s in zip(records, shown, strict=True)),
            "tag1_without_mask": sum(r.tag == 1 and not s for r, s in zip(records, shown, strict=True)),
            "untagged": sum(r.tag is None for r in records),
            "score_not_finite": sum(r.ap_status == "not_finite" for r in records),
        }

    def write(self, out: Path, summary: dict[str, Any]) -> None:
        """Write the files of an evaluation, summary.json last."""
        write_numbers(
            out / "per_slice.csv", PER_SLICE, (r.cells() for rs in self.records.values() for r in rs)
        )
        subsets = [(row.row, subset) for row in self.rows for subset in SUBSETS]
        patients = (line for row, s in subsets for line in per_patient(self.subset(row, s), row, s))
        write_numbers(out / "per_patient.csv", PER_PATIENT, patients)
        write_numbers(out / "pr_curve.csv", PR_CURVE, self.curves())
        self.histogram.write(out / "histogram.csv")
        write_numbers(out / "summary.csv", FLAT, flat(summary))
        write_text(out / "summary.md", markdown(summary))
        write_json(out / "summary.json", summary, ascii=False)
