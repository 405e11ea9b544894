"""Masks and score maps against the truth, always beside the rows that know next to nothing.

This job and `prepare` are the only ones that open a mask of the truth. One case is held in memory at a time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tagmask.errors import ConfigError, GeometryError, InputError, TagmaskError
from tagmask.io import case_files, read_mask, read_scores, read_study, same_grid, stem
from tagmask.prepared import Prepared
from tagmask.scoring.aggregate import PER_PATIENT, PER_SLICE, image_level, per_patient
from tagmask.scoring.ledger import SUBSETS, Ledger
from tagmask.scoring.matching import (
    Results,
    TruthCase,
    open_results,
    picture_positions,
    slice_info,
    truth_cases,
)
from tagmask.scoring.protocol import EvaluateSettings
from tagmask.scoring.rivals import (
    LoadedCase,
    Row,
    bright_row,
    mean_mask_rows,
    plain_rows,
    position_prior,
    search,
)
from tagmask.scoring.scoreboard import FLAT, combine, flat, markdown, plain, write_csv, write_text
from tagmask.slices import SliceSettings, split
from tagmask.types import Study

__all__ = ["EvaluateSettings", "Evaluation", "combine", "evaluate"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Parameters
    ----------
    out
        The folder written: per_slice.csv, per_patient.csv, pr_curve.csv, summary.csv, summary.json, summary.md.
    summary
        The content of summary.json, undefined numbers as None.
    failed
        Cases left out, with the reason.
    """

    out: Path
    summary: dict[str, Any]
    failed: tuple[tuple[str, str], ...]

    def value(
        self, metric: str, *, row: str = "method", subset: str = "positives", per: str = "image"
    ) -> float | None:
        """Give one number of the table, as in value("dice")."""
        found = next(r for r in self.summary["rows"] if r["row"] == row)
        return found[subset][per][metric]["value"]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Reader:
    """Opens the files of a case and checks that they lie on one grid."""

    settings: EvaluateSettings
    plane: str
    images: Mapping[str, tuple[Path, ...]]
    results: Results | None = None

    def load(self, case: TruthCase) -> LoadedCase:
        """Read the truth and, where there are any, mask, scores and image.

        Raises
        ------
        InputError, GeometryError
            A file that cannot be read, or that lies on another grid than the truth.
        """
        truth = read_mask(case.mask, labels=self.settings.mask_labels)
        kind: Literal["picture", "volume"] = "picture" if truth.affine is None else "volume"
        study = Study(case.id, truth.array[None].astype(np.float32), truth.affine, kind, (case.mask,))
        cut = SliceSettings(plane=self.plane, size=1, normalise="window", window=(0, 1))  # type: ignore[arg-type]
        axis = split(study, cut, only=[]).grid.axis
        depth = study.shape[axis]
        beyond = [r.slice for r in case.rows if r.slice is not None and r.slice >= depth > 1]
        if beyond:
            raise GeometryError(
                f"the table lists slice {beyond[0]}, but there are {depth} along axis {'ijk'[axis]}.",
                where=case.mask,
                repair="Name the plane that the table was made for.",
            )
        mask, scores = self._result(case, truth.array, study)
        image = self._image(case, study)
        info = slice_info(case, self.results, depth)
        return LoadedCase(study, axis, truth.array, mask, scores, image, info)

    def _result(
        self, case: TruthCase, truth: np.ndarray, study: Study
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Mask and score map of the method."""
        if self.results is None:
            return truth, None
        path = self.results.masks[case.id]
        found = read_mask(path)
        _check_grid(path, found.array.shape, found.affine, study)
        if case.id not in self.results.scores:
            return found.array, None
        path = self.results.scores[case.id]
        scores = read_scores(path)
        _check_grid(path, scores.shape, study.affine, study)
        return found.array, scores

    def _image(self, case: TruthCase, study: Study) -> np.ndarray | None:
        """Source image between 0 and 1."""
        paths = self.images.get(case.id)
        if not paths:
            return None
        source = read_study(paths, id=case.id)
        _check_grid(paths[0], source.shape, source.affine, study)
        low, high = source.image.min(), source.image.max()
        return np.asarray((source.image - low) / max(high - low, np.float32(1e-30)), dtype=np.float32)


def _check_grid(path: Path, shape: tuple[int, ...], affine: np.ndarray | None, truth: Study) -> None:
    """Refuse a file that does not lie on the truth's grid, noise of 0.001 mm aside."""
    wrong = ""
    if shape != truth.shape:
        wrong = f"its shape is {shape}, the truth's {truth.shape}"
    elif not same_grid(affine, truth.affine, truth.shape):
        wrong = "its affine differs from the truth's by more than 0.001 mm"
    if wrong:
        raise GeometryError(
            f"{wrong} ({truth.sources[0]}).", where=path, repair="Bring it to the grid of the truth."
        )


def evaluate(
    results: Path,
    truth: Path,
    *,
    out: Path,
    table: Path | None = None,
    images: Path | None = None,
    val: Path | None = None,
    train: Path | None = None,
    name: str | None = None,
    settings: EvaluateSettings | None = None,
    **conventions: Any,
) -> Evaluation:
    """Compare results with the truth and write the table.

    Parameters
    ----------
    results
        Output folder of `segment`, or a folder of masks.
    truth
        A folder of masks, a CSV with a column mask, or a data folder with labels.csv and masks/<split> beside it.
    out
        Folder for the files named in `Evaluation`.
    table
        Tags, patients and slices for a plain folder of masks.
    images
        Folder of the source images; otherwise those of the table, else those of the manifest.
    val
        Truth with images, of other patients, on which the row of the best intensity threshold is chosen.
    train
        Prepared folder. Its tags fit the position row; its masks, if prepared supervised, give the mean-mask rows.
    name
        Title of the method's row.
    settings, **conventions
        `EvaluateSettings`, or its fields by name.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        Nothing of the results has a truth, or no case could be read.
    ConfigError
        A convention out of range, or one that needs tags or images that are not there.
    """
    settings = settings or EvaluateSettings(**conventions)
    found, cases = open_results(Path(results)), truth_cases(Path(truth), table, tag=settings.tag)
    matched = {i: cases[i] for i in sorted(cases) if i in found.masks}
    if not matched:
        raise InputError(
            f"none of its {len(found.masks)} masks has a truth: {', '.join(sorted(found.masks)[:3])} ... against "
            f"{', '.join(sorted(cases)[:3])} ....",
            where=results,
            repair="Name results and truth by the stem of the image.",
        )
    reads = str(found.manifest.get("reads", "tags")) + (", tags of these slices" if found.tags_given else "")
    plane = settings.plane or str(found.manifest.get("plane", "axial"))
    reader = _Reader(settings, plane, _images(matched, found, images), found)
    prepared = Prepared.open(Path(train)) if train is not None else None
    rows = plain_rows(name or found.title, reads, images=all(reader.images.get(i) for i in matched))
    more, notes = _informed_rows(reader, matched, val, prepared)
    ledger = Ledger([*rows, *more], settings, found.score_source(matched))
    places = picture_positions(cases, found)
    for case, loaded in _stream(reader, matched, ledger.failed):
        ledger.note_files(
            case.id, truth=case.mask, **found.files(case.id), images=reader.images.get(case.id, ())
        )
        ledger.enter(loaded, places.get(case.id))
    _check(ledger, settings, Path(results))
    rest = {
        "results": results,
        "truth": truth,
        "settings": {**asdict(settings), "plane": plane, "images": images, "val": val, "train": train},
        "cases": {
            "matched": len(matched),
            "missing": sorted(set(cases) - set(found.masks)),
            "extra": sorted(set(found.masks) - set(cases)),
            "failed": [{"case": c, "problem": p} for c, p in ledger.failed],
        },
        "notes": notes,
    }
    level = image_level(
        ledger.records, position_prior(prepared), ledger.score_from, draws=settings.draws, seed=settings.seed
    )
    summary = plain({**rest, **ledger.summary(), "image_level": level, "files": ledger.files})
    _write(Path(out), summary, ledger)
    return Evaluation(Path(out), summary, tuple(ledger.failed))


def _images(
    matched: Mapping[str, TruthCase], found: Results, folder: Path | None
) -> dict[str, tuple[Path, ...]]:
    """Source images by case: of the folder given, else of the table, else of the manifest."""
    if folder is not None:
        return {stem(p): (p,) for p in case_files(folder) if stem(p) in matched}
    return {i: case.images or found.images(i) for i, case in matched.items()}


def _stream(
    reader: _Reader, cases: Mapping[str, TruthCase], failed: list[tuple[str, str]] | None = None
) -> Iterator[tuple[TruthCase, LoadedCase]]:
    """Read one case after the other; those that cannot be read are noted, the others go on."""
    for case in cases.values():
        try:
            loaded = reader.load(case)
        except TagmaskError as error:
            if failed is not None:
                log.warning("%s left out: %s", case.id, error)
                failed.append((case.id, str(error)))
            continue
        yield case, loaded


def _informed_rows(
    reader: _Reader, matched: Mapping[str, TruthCase], val: Path | None, prepared: Prepared | None
) -> tuple[list[Row], list[str]]:
    """Give the rows that read masks, and why some are absent."""
    rows: list[Row] = []
    notes: list[str] = []
    if not all(reader.images.get(i) for i in matched):
        notes.append("The intensity rows are absent: not every case has its source image.")
    else:
        if val is None:
            notes.append(
                "The row of the best intensity threshold is absent: no val set was given to choose it on."
            )
        else:
            cases = truth_cases(val, tag=reader.settings.tag)
            other = _Reader(reader.settings, reader.plane, {i: c.images for i, c in cases.items()})
            found = search(loaded for _, loaded in _stream(other, cases))
            if not found.slices:
                raise InputError(
                    "no slice shows the target.", where=val, repair="Give a val set with images and masks."
                )
            rows.append(bright_row("intensity_val", "best intensity threshold", "val masks", found))
        found = search(loaded for _, loaded in _stream(reader, matched))
        if found.slices:
            rows.append(bright_row("intensity_oracle", "intensity oracle", "test masks", found))
    if prepared is not None and prepared.supervised:
        rows += mean_mask_rows(prepared)
    else:
        notes.append("The mean of the train masks is absent: no train folder prepared supervised was given.")
    return rows, notes


def _check(ledger: Ledger, settings: EvaluateSettings, where: Path) -> None:
    """Refuse an evaluation of nothing, and one by tags without tags."""
    records = ledger.records["method"]
    if not records:
        problem = f"The first problem: {ledger.failed[0][0]}: {ledger.failed[0][1]}" if ledger.failed else ""
        raise InputError(
            f"no slice could be evaluated; {len(ledger.failed)} cases failed, {ledger.below_min_area} slices show too "
            f"little of the target, {ledger.unlisted} are in no table.",
            where=where,
            repair=problem or "Lower min_area_frac, or check the table.",
        )
    if settings.positives == "tag" and all(r.tag is None for r in records):
        raise ConfigError(
            "no slice has a tag.",
            where="evaluate.positives",
            repair='Give a table with tags, or positives = "truth".',
        )


def _write(out: Path, summary: dict[str, Any], ledger: Ledger) -> None:
    """Write the files of an evaluation, summary.json last."""
    write_csv(out / "per_slice.csv", PER_SLICE, (r.cells() for rs in ledger.records.values() for r in rs))
    subsets = [(row.row, subset) for row in ledger.rows for subset in SUBSETS]
    patients = (
        line for row, subset in subsets for line in per_patient(ledger.subset(row, subset), row, subset)
    )
    write_csv(out / "per_patient.csv", PER_PATIENT, patients)
    write_csv(out / "pr_curve.csv", ("row", "subset", "recall", "precision", "threshold"), ledger.curves())
    write_csv(out / "summary.csv", FLAT, flat(summary))
    write_text(out / "summary.md", markdown(summary))
    write_text(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
