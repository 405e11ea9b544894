"""From a table of scans and tags to a prepared folder, with one study in memory at a time."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from tagmask.data.cohort import Problem, check_splits, check_tags, doubts, picture_ranges
from tagmask.data.in_order import in_order
from tagmask.data.prepare_summary import PreparedCase, PrepareSummary, SplitCount, Tally
from tagmask.data.prepared import IndexRow
from tagmask.data.prepared_writer import PreparedWriter, refuse_existing
from tagmask.data.sources import mask_paths, masks_read
from tagmask.data.table import SPLITS, TAG, Case, by_study
from tagmask.data.texts import text_doubts
from tagmask.datasets.cohorts import SplitShares, open_cohort
from tagmask.datasets.mask_labels import LabelCheck
from tagmask.datasets.rows import plane_doubt, tag_doubts, wanted_slices
from tagmask.datasets.settings import DatasetSettings, default_slices, with_preset
from tagmask.datasets.tables import labels_csv
from tagmask.errors import ConfigError, InputError, TagmaskError
from tagmask.grids import Grid, plan
from tagmask.io import check_grid, read_study, sha256
from tagmask.slices import SliceSettings, split, split_map
from tagmask.types import Study

__all__ = ["PrepareSummary", "Problem", "SplitCount", "prepare"]

log = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")


def prepare(
    table: Path | str,
    out: Path | str,
    *,
    dataset: DatasetSettings | str | None = None,
    preset: str | None = None,
    settings: SliceSettings | None = None,
    tag: str = TAG,
    supervised: bool = False,
    untagged: bool = False,
    masks: Path | str | None = None,
    mask_labels: tuple[int, ...] | None = None,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    workers: int = 1,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareSummary:
    """Cut the studies of a table into slices and write them as a prepared folder.

    Memory does not grow with the number of cases but for their names. The folder appears when it is whole.

    Parameters
    ----------
    table
        As for :func:`tagmask.data.table.read_table`, or the folder of a data set by name.
    out
        The folder to make.
    dataset
        A data set by name, as it was unpacked; see `DatasetSettings`. Where it has no tags of its own, they
        are taken from its masks, once, and the folder says so; its rows are kept in OUT/tables.
    preset
        A paper's preprocessing by name, see `tagmask.datasets.presets`. Of a table, only the slices count.
    settings
        Plane, size, grey values, channels; by default those of the preset or data set, else `SliceSettings()`.
    tag
        The column of the tag.
    supervised
        Also prepare masks, for networks that learn from them; then tags may be missing. Without it no mask is
        opened.
    untagged
        Ask for no tags: for a network that learns from pictures alone.
    masks
        Where masks lie, whatever the table names: MASKS/<split>/<name of the image>, or without <split>; by
        default those that the table names, or the folder `masks` beside the table or its split folder. Masks made by
        `tagmask segment` count as what that method read: who learns from masks made of tags has seen tags alone.
        An image whose every row is tagged 0 needs none: its mask is empty.
    mask_labels
        Values of a mask that count; None is every value above 0.
    val_fraction, test_fraction, seed
        Shares of patients, 0.15 and 0.2 by default, where splits are drawn. A share is refused where they are given.
    workers
        Studies read at a time. The result does not depend on it.
    overwrite
        Whether a prepared folder that is there may be replaced.
    report
        Called with (finished images, all images).

    Returns
    -------
    PrepareSummary
        What was kept, doubted and left out.

    Raises
    ------
    TableError
        A table, or splits or tags, that cannot be learnt from.
    InputError
        No case could be read, the same pixels in two splits or with two texts, labels that no mask holds, or `out`
        is taken.
    ConfigError
        Settings at odds with each other.
    """
    start = time.perf_counter()
    chosen = with_preset(dataset, preset)
    settings = settings or default_slices(chosen, preset)
    if workers < 1:
        raise ConfigError(f"workers = {workers} is not allowed.", repair="Use 1 or more.")
    converts = chosen is not None and chosen.tags_from_masks
    if not supervised and (masks is not None or (mask_labels is not None and not converts)):
        raise ConfigError(
            "Masks are given, but only a supervised preparation reads them.", repair="Add --supervised."
        )
    refuse_existing(Path(out), overwrite)
    named = {"val_fraction": val_fraction, "test_fraction": test_fraction}
    given = {name: share for name, share in named.items() if share is not None}
    val, test = given.get("val_fraction", SplitShares.val), given.get("test_fraction", SplitShares.test)
    converted = 0

    def each(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
        nonlocal converted
        total = 2 * len(volumes := list(items))
        for converted, found in enumerate(in_order(function, volumes, workers), 1):
            report(converted, total)
            yield found

    cohort = open_cohort(
        Path(table),
        chosen,
        preset=preset,
        plane=settings.plane,
        tag=tag,
        mask_labels=mask_labels,
        shares=SplitShares(val, test, seed),
        each=each,
    )
    cases = cohort.cases
    if cohort.split_seed is None and given:
        raise ConfigError(
            f"{' and '.join(f'{name} = {share}' for name, share in given.items())}, but splits are given already.",
            where=table,
            repair="Leave it out, or take the splits out of the table.",
        )
    check_splits(cases)
    tags = not (supervised or untagged)
    if not untagged:
        check_tags(cases, cohort.tag, masks=supervised)
    studies = by_study(cases)
    truth = mask_paths(studies, Path(masks) if masks is not None else None) if supervised else None
    record = cohort.record(supervised=supervised)
    if truth is not None:
        record["masks_read"] = masks_read(path for path in truth.values() if isinstance(path, Path))
    writer = PreparedWriter(
        Path(out), settings, tag=cohort.tag, supervised=supervised, record=record, overwrite=overwrite
    )
    doubtful = [*doubts(cases, drawn=cohort.split_seed is not None, tags=tags), *text_doubts(cases)]
    tally = Tally(warnings=[*cohort.warnings, *doubtful], failed=list(cohort.failed))
    reader = _Reader(settings, picture_ranges(cases), truth, cohort.mask_labels, LabelCheck(mask_labels))
    ids: set[str] = set()
    with writer:
        for done, found in enumerate(in_order(reader.read, studies.values(), workers), 1):
            case = tally.take(found)
            if case is not None:
                writer.add(case.rows, case.image, case.mask, sources=case.sources, texts=case.texts)
                ids.update(row["id"] for row in case.rows if cohort.listed)
            report(converted + done, converted + len(studies))
        tally.close(cases[0].source, tags=tags)
        reader.named_labels.check()
        problems = [(p.level, p.case, p.file, p.what, p.repair) for p in (*tally.failed, *tally.warnings)]
        fingerprint = writer.finish(problems, labels_csv(cases, ids))
    return PrepareSummary(
        out=Path(out),
        splits={name: tally.counts[name] for name in SPLITS if name in tally.counts},
        failed=tuple(tally.failed),
        warnings=tuple(tally.warnings),
        drawn=cohort.split_seed,
        fingerprint=fingerprint,
        seconds=time.perf_counter() - start,
        note=cohort.note,
    )


@dataclass(frozen=True)
class _Reader:
    """Reads one study, cuts it, and says what is wrong with it.

    Parameters
    ----------
    ranges
        First and last slice number of each patient's pictures.
    masks
        The mask of each study, None for an empty one, or what is wrong with it; None: no mask is opened.
    """

    settings: SliceSettings
    ranges: Mapping[str, tuple[int, int]]
    masks: Mapping[str, Path | InputError | None] | None
    mask_labels: tuple[int, ...] | None
    named_labels: LabelCheck

    def read(self, rows: list[Case]) -> PreparedCase | Problem:
        """Give the slices of the image these rows are about; errors become a Problem."""
        try:
            return self._read(rows)
        except TagmaskError as error:
            return Problem("failed", rows[0].study, error.where or rows[0].where, error.what, error.repair)
        except Exception as error:  # one bad case never stops the others
            log.warning("case %s failed", rows[0].study, exc_info=True)
            what = f"{type(error).__name__}: {error}"
            return Problem("failed", rows[0].study, rows[0].where, what, "Leave it out, and report this.")

    def _read(self, rows: list[Case]) -> PreparedCase:
        study = read_study(rows[0].images, id=rows[0].study)
        grid = plan(study, self.settings.plane, self.settings.size)
        wanted = wanted_slices(rows, study, grid, self.settings)
        slices = split(study, self.settings, list(wanted))
        warnings = plane_doubt(rows, study, grid)
        sources = {str(path): sha256(path) for path in rows[0].images}
        mask = None
        if self.masks is not None:
            path = self.masks[study.id]
            if isinstance(path, InputError):
                raise path
            mask = np.zeros(slices.image[:, 0].shape, dtype=bool)  # what a tag of 0 says
            if path is not None:
                volume = self._mask(path, study)
                mask = split_map(volume, grid, list(wanted)) >= 0.5
                sources[str(path)] = sha256(path)
                warnings += tag_doubts(volume, grid, wanted, path)
        return PreparedCase(
            study=study.id,
            rows=[self._row(case, index, study, grid) for index, case in wanted.items()],
            image=slices.image,
            mask=mask,
            sources=sources,
            digests=[_digest(image) for image in slices.image],
            texts=[case.text for case in wanted.values()],
            warnings=warnings,
            spread=study.kind != "picture" and rows[0].slice is None and len(wanted) > 1,
        )

    def _row(self, case: Case, index: int, study: Study, grid: Grid) -> IndexRow:
        one = case.slice is not None or study.kind == "picture"
        if study.kind == "picture":
            low, high = self.ranges[case.patient] if case.slice is not None else (0, 0)
            place = float("nan") if case.slice is None else _position(case.slice - low, high - low)
        else:
            place = _position(index, grid.depth - 1)
        return IndexRow(
            row=0,
            id=case.id if one else f"{case.id}/{index}",
            study=study.id,
            slice=index,
            label=case.label,
            patient=case.patient,
            split=case.split or "",
            position=place,
        )

    def _mask(self, path: Path, study: Study) -> np.ndarray:
        # Imported here, so that a preparation from tags alone cannot reach it.
        from tagmask.io import read_mask

        source = study.sources[0]
        mask = read_mask(path, labels=self.mask_labels, image=source)
        self.named_labels.note(path, mask.array)
        check_grid((mask.array.shape, mask.affine), (study.shape, study.affine), path, source.name)
        return mask.array


def _position(index: int, last: int) -> float:
    """Place a slice in [0, 1]; the only one lies in the middle."""
    return index / last if last else 0.5


def _digest(image: np.ndarray) -> bytes | None:
    return None if image.min() == image.max() else hashlib.sha256(image.tobytes()).digest()
