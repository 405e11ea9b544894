"""Masks and score maps against the truth, always beside the rows that know next to nothing.

This job and `prepare` are the only ones that open files of masks. One case is held in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tagmask.data.prepared import Prepared
from tagmask.errors import GeometryError, InputError, TagmaskError
from tagmask.grids import plan
from tagmask.io import (
    case_files,
    check_grid,
    read_mask,
    read_scores,
    read_study,
    refuse_foreign,
    stem,
)
from tagmask.machine import environment
from tagmask.scoring.accumulator import FILES, Accumulator
from tagmask.scoring.baseline_rows import (
    LoadedCase,
    Row,
    intensity_rows,
    mean_mask_rows,
    plain_rows,
    position_prior,
    told_rows,
)
from tagmask.scoring.baselines import relative_positions
from tagmask.scoring.learnt_from import notes_of_reading
from tagmask.scoring.panels import keep_panels
from tagmask.scoring.protocol import EvaluateSettings
from tagmask.scoring.results import Results, open_results
from tagmask.scoring.scoreboard import Evaluation, combine, to_json
from tagmask.scoring.truth import (
    TruthCase,
    picture_positions,
    refuse_image,
    refuse_shared,
    slice_info,
    truth_cases,
)
from tagmask.thresholds import on_one_scale
from tagmask.types import Study

__all__ = ["EvaluateSettings", "Evaluation", "combine", "evaluate"]

log = logging.getLogger(__name__)

_Cases = Mapping[str, TruthCase]


@dataclass(frozen=True)
class _Reader:
    """Opens the files of a case and checks that they lie on one grid."""

    settings: EvaluateSettings
    images: Mapping[str, tuple[Path, ...]]
    places: Mapping[str, float]
    results: Results | None = None

    def load(self, case: TruthCase) -> LoadedCase:
        """Read the truth and, where there are any, mask, scores and image.

        Raises
        ------
        InputError, GeometryError
            A file that cannot be read, or that lies on another grid than the truth.
        """
        refuse_image(case.mask, self.images.get(case.id, ()))
        source = next(iter(case.images), None)
        truth = read_mask(case.mask, labels=self.settings.mask_labels, image=source)
        kind: Literal["picture", "volume"] = "picture" if truth.affine is None else "volume"
        study = Study(case.id, truth.array[None].astype(np.float32), truth.affine, kind, (case.mask,))
        plane: Any = self.settings.plane
        axis = plan(study, plane, 1).axis
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
        places = relative_positions(np.arange(depth))
        if depth == 1:
            places = np.array([self.places.get(case.id, 0.5)])
        return LoadedCase(study, axis, truth.array, mask, scores, image, info, places)

    def _result(
        self, case: TruthCase, truth: np.ndarray, study: Study
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Mask and score map of the method."""
        if self.results is None:
            return truth, None
        path = self.results.masks[case.id]
        found = read_mask(path)
        _check_grid(path, "mask", found.array.shape, found.affine, study)
        if case.id not in self.results.scores:
            return found.array, None
        path = self.results.scores[case.id]
        scores = read_scores(path)
        _check_grid(path, "score map", scores.shape, study.affine, study)
        return found.array, scores

    def _image(self, case: TruthCase, study: Study) -> np.ndarray | None:
        """Source image, its channels on one scale."""
        paths = self.images.get(case.id)
        if not paths:
            return None
        source = read_study(paths, id=case.id)
        _check_grid(paths[0], "image", source.shape, source.affine, study)
        return on_one_scale(source.image, source.kind)


def _check_grid(
    path: Path, what: str, shape: tuple[int, ...], affine: np.ndarray | None, truth: Study
) -> None:
    """Refuse a file that does not lie on the truth's grid."""
    wanted = truth.shape, truth.affine
    check_grid((shape, affine), wanted, path, truth.sources[0], what=what, of="the truth")


def evaluate(
    results: Path | str,
    truth: Path | str,
    *,
    out: Path | str,
    table: Path | str | None = None,
    images: Path | str | None = None,
    val: Path | str | None = None,
    train: Path | str | None = None,
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
        A folder of masks, a CSV with a column mask, or a data folder with labels.csv and masks/<split> beside
        it.
    out
        Folder for the files named in `Evaluation`.
    table
        Tags, patients and slices for a plain folder of masks.
    images
        Folder of the source images; otherwise those of the table, else those of the manifest.
    val
        Truth with images, of other patients, on which the row of the best intensity threshold is chosen.
    train
        Prepared folder. Its tags fit the position row; its masks, if prepared supervised, give the mean-mask
        rows.
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
        Nothing of the results has a truth, no case could be read, or the output folder holds other things.
    ConfigError
        A convention out of range, or one that needs tags or images that are not there.
    """
    settings = settings or EvaluateSettings(**conventions)
    results, truth, out = Path(results), Path(truth), Path(out)
    table, images, val, train = (None if p is None else Path(p) for p in (table, images, val, train))
    refuse_foreign(out, "summary.json", leftovers=FILES)
    found, cases = open_results(results), truth_cases(truth, table, tag=settings.tag)
    matched = {i: cases[i] for i in sorted(cases) if i in found.masks}
    if not matched:
        raise InputError(
            f"none of its {len(found.masks)} masks has a truth: {min(found.masks)}, ... against {min(cases)}, ...",
            where=results,
            repair="Name results and truth by the stem of the image.",
        )
    found = replace(found, altered=tuple(i for i in found.altered if i in matched))
    settings = replace(settings, plane=settings.plane or str(found.manifest.get("plane", "axial")))
    reader = _Reader(settings, _images(matched, found, images), picture_positions(cases, found), found)
    prepared = Prepared.open(train) if train is not None else None
    rows, notes = _rows(reader, matched, val, prepared, name or found.title)
    notes += notes_of_reading(found, {i: reader.images.get(i, ()) for i in matched}, prepared)
    seen = Accumulator(rows, settings, found.score_source(matched))
    for case in _stream(reader, matched, seen.failed):
        seen.enter(case)
    seen.check(results)
    given = {"table": table, "images": images, "val": val, "train": train}
    summary = to_json(
        {
            **{"results": results, "truth": truth, "settings": {**asdict(settings), **given}},
            **seen.summary(),
            "cases": _case_lists(found, cases, matched, seen.failed),
            "notes": notes,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": environment(),
            "image_level": seen.image_level(position_prior(prepared)),
            "files": {i: _files(reader, case) for i, case in matched.items()},
        }
    )
    rows_of_method = (record.cells() for record in seen.records["method"])
    plane: Any = settings.plane
    keep_panels(out / "panels.npz", rows_of_method, plane, lambda i: reader.load(matched[i]).shown())
    seen.write(out, summary)
    return Evaluation(out, summary, tuple(seen.failed))


def _rows(
    reader: _Reader, matched: _Cases, val: Path | None, prepared: Prepared | None, title: str
) -> tuple[list[Row], list[str]]:
    """Give the rows of the table, and why some are absent."""
    assert reader.results is not None
    pictures = all(reader.images.get(i) for i in matched)
    rows = plain_rows(title, reader.results.reads, images=pictures)
    notes = ["The intensity rows are absent: not every case has its source image."]
    if pictures:
        # A case that cannot be read is noted later, when it is entered.
        more, notes = intensity_rows(_stream(reader, matched, []), _val(val, reader.settings, matched), val)
        rows += more
    if reader.results.told:
        rows += told_rows(rows)
    if prepared is not None and prepared.supervised:
        return [*rows, *mean_mask_rows(prepared)], notes
    absent = "The mean of the train masks is absent: no train folder prepared supervised was given."
    return rows, [*notes, absent]


def _files(reader: _Reader, case: TruthCase) -> dict[str, Any]:
    """Name the files of a case, for the report."""
    assert reader.results is not None
    images = list(reader.images.get(case.id, ()))
    return {"truth": case.mask, **reader.results.files(case.id), "images": images}


def _case_lists(
    found: Results, cases: Iterable[str], matched: Iterable[str], failed: Iterable[tuple[str, str]]
) -> dict[str, Any]:
    """Say what became of the cases."""
    return {
        "matched": len(list(matched)),
        "missing": sorted(set(cases) - set(found.masks)),
        "extra": sorted(set(found.masks) - set(cases)),
        "failed": [{"case": c, "problem": p} for c, p in failed],
    }


def _val(folder: Path | None, settings: EvaluateSettings, test: _Cases) -> Iterator[LoadedCase]:
    """Read the val set; nothing where there is none.

    Raises
    ------
    InputError
        A case that cannot be read: the choice would silently be made on fewer. Masks of the truth itself.
    """
    if folder is not None:
        cases = truth_cases(Path(folder), tag=settings.tag)
        refuse_shared(cases, test, folder)
        reader = _Reader(settings, {i: c.images for i, c in cases.items()}, picture_positions(cases, None))
        yield from (reader.load(case) for case in cases.values())


def _images(matched: _Cases, found: Results, folder: Path | None) -> dict[str, tuple[Path, ...]]:
    """Source images by case: of the folder given, else of the table, else of the manifest."""
    if folder is not None:
        return {stem(p): (p,) for p in case_files(folder) if stem(p) in matched}
    listed = {i: case.images for i, case in matched.items()}
    return {i: p if p and all(f.exists() for f in p) else found.images(i) for i, p in listed.items()}


def _stream(reader: _Reader, cases: _Cases, failed: list[tuple[str, str]]) -> Iterator[LoadedCase]:
    """Read one case after the other; those that cannot be read are noted, the others go on."""
    for case in cases.values():
        try:
            loaded = reader.load(case)
        except TagmaskError as error:
            log.info("%s left out: %s", case.id, error)
            failed.append((case.id, str(error)))
            continue
        yield loaded
