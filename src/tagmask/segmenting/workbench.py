"""The workbench: slices of many cases go through a method in common batches."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tagmask.data.table import Case
from tagmask.errors import InputError, TagmaskError
from tagmask.io import sha256, write_mask, write_scores
from tagmask.masks import MaskSettings, binarise
from tagmask.networks.classifier import Classifier
from tagmask.networks.pixel_classifier import picture_uncertainty
from tagmask.runs.parts import TextReader
from tagmask.segmenting.cases import OpenCase, source_names
from tagmask.segmenting.pace import Pace
from tagmask.segmenting.presence import Tags, presence
from tagmask.slices import Slices, SliceSettings, join
from tagmask.types import Batch, Method, Prediction

__all__ = ["COLUMNS", "Workbench"]

log = logging.getLogger(__name__)

COLUMNS = (
    *("id", "case", "slice", "patient", "tag", "tag_source", "score", "threshold", "mask_pixels"),
    "uncertainty",
)
"""Columns of slices.csv."""
HELD = 512 * 2**20
"""Bytes of open cases above which none is opened before their slices are worked off."""


@dataclass
class Workbench:
    """Slices of many cases go through the method in common batches; a case is written when its last is back.

    However large batches become, open cases hold at most `HELD` bytes and one case more: large pictures go
    through in smaller batches.

    Parameters
    ----------
    method, classifier, settings, mask, reader
        Of the run: who scores pixels and slices, how slices are cut and masks are made, who reads texts.
    channels
        Of the slices that the networks take.
    seed, tags, device, pace, out
        Of the job.
    threshold
        One for all slices, for the rule "otsu_mean"; None: each map has its own.
    scored_by
        Who gave the image-level scores of the latest batch.
    write
        Whether masks are written; a first pass only looks for thresholds.
    done, failed, records, lines
        What the job has come to: cases, reasons by case, entries of the manifest, lines of slices.csv.
    """

    method: Method
    classifier: Classifier | None
    channels: int
    settings: SliceSettings
    mask: MaskSettings
    seed: int
    tags: Tags
    device: str
    pace: Pace
    out: Path
    reader: TextReader | None = None
    threshold: float | None = None
    scored_by: str = "none"
    write: bool = True
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, object]] = field(default_factory=list)
    lines: list[dict[str, object]] = field(default_factory=list)

    def work(self, studies: dict[str, list[Case]]) -> Iterator[str]:
        """Yield each case's id when it is finished, well or not."""
        waiting: list[tuple[OpenCase, int]] = []
        for name, rows in studies.items():
            while _held(waiting) >= HELD:
                yield from self._batch(waiting)
            case = self._open(name, rows)
            if case is None:
                yield name
                continue
            waiting += [(case, k) for k in range(case.left)]
            del case  # or it would stay in memory while the next one is read
            while len(waiting) >= self.pace.size:
                yield from self._batch(waiting)
        while waiting:
            yield from self._batch(waiting)

    def probe(self, studies: dict[str, list[Case]]) -> Prediction | None:
        """See what the method gives, on the first slice that can be read and scored; None if there is none."""
        for name, rows in studies.items():
            try:
                return self.method.predict(self._gather([(self._read(name, rows), 0)]), self.seed)
            except Exception:  # it will fail in its turn, and be reported then
                log.debug("case %s cannot be probed", name, exc_info=True)
        return None

    def mean_threshold(self, studies: dict[str, list[Case]]) -> float:
        """Give the mean of Otsu's thresholds over all slices: a first pass that writes nothing."""
        probe = replace(
            self,
            mask=replace(self.mask, rule="otsu"),
            write=False,
            done=[],
            failed={},
            records=[],
            lines=[],
        )
        deque(probe.work(studies), maxlen=0)  # run it to the end
        if not probe.lines:
            return 0.0
        return float(np.mean([float(str(line["threshold"])) for line in probe.lines]))

    def _open(self, name: str, rows: list[Case]) -> OpenCase | None:
        try:
            return self._read(name, rows)
        except Exception as error:
            self._fail(name, rows, error)
            return None

    def _read(self, name: str, rows: list[Case]) -> OpenCase:
        case = OpenCase.read(name, rows, self.settings, self.channels)
        if self.reader is not None and self.reader.needed and not all(case.texts):
            raise InputError(
                "The picture has no text, but the network was trained for pictures that have one.",
                where=rows[0].where,
                repair="Give a table with the column text, or train with null_text = true and text_dropout > 0.",
            )
        return case

    def _gather(self, members: list[tuple[OpenCase, int]]) -> Batch:
        """Make a batch of some slices, with their sentences where the method reads these."""
        image = torch.from_numpy(np.stack([case.slices.image[k] for case, k in members]))
        ids = tuple(f"{case.study.id}/{case.slices.indices[k]}" for case, k in members)
        read = None if self.reader is None else self.reader.encoder
        text = None if read is None else read([case.texts[k] for case, k in members])
        return Batch(image, ids, text=text).to(self.device)

    def _fail(self, name: str, rows: list[Case], error: Exception) -> None:
        known = isinstance(error, (TagmaskError, OSError))
        problem = str(error) if known else f"{type(error).__name__}: {error}"
        log.debug("case %s failed", name, exc_info=error)
        self.failed[name] = problem
        self.records.append(
            {"case": name, "sources": source_names(rows), "status": "failed", "error": problem}
        )

    def _batch(self, waiting: list[tuple[OpenCase, int]], count: int | None = None) -> Iterator[str]:
        """Take one batch off the front of the queue; yield the cases it completes, well or not."""
        members = waiting[: count or self.pace.size]
        start = time.perf_counter()
        try:
            self._predict(members)
        except torch.OutOfMemoryError:
            if not self.pace.out_of_memory():
                raise
            torch.cuda.empty_cache()
            return
        except Exception as error:
            first = members[0][0]
            own = sum(case is first for case, _ in members)
            if own < len(members):  # whose fault is it? The slices of the first case go alone.
                yield from self._batch(waiting, own)
                return
            waiting[:] = [member for member in waiting if member[0] is not first]
            self._fail(first.study.id, list(first.rows.values()), error)
            yield first.study.id
            return
        del waiting[: len(members)]
        self.pace.observe(len(members), time.perf_counter() - start)
        for case, _ in members:
            case.left -= 1
            if case.left == 0:
                self._close(case)
                yield case.study.id

    def _predict(self, members: list[tuple[OpenCase, int]]) -> None:
        batch = self._gather(members)
        prediction = self.method.predict(batch, self.seed)
        threshold = prediction.threshold if self.mask.rule == "method" else self.threshold
        binary = binarise(prediction.score_map.cpu(), batch.image.cpu(), self.mask, threshold)
        known = presence(prediction, batch, self.classifier, self.tags)
        self.scored_by = known.scored_by
        unsure = None if prediction.uncertainty is None else picture_uncertainty(prediction.uncertainty)
        for i, (case, k) in enumerate(members):
            index = int(case.slices.indices[k])
            row = case.rows.get(index)
            tag, source = known.tag(row, i)
            mask = binary.mask[i, 0].numpy() & (tag != 0)
            case.maps[k], case.masks[k] = binary.score_map[i, 0].numpy(), mask
            if prediction.uncertainty is not None:
                case.doubt(k, prediction.uncertainty[i, 0].cpu().numpy())
            case.lines[k] = {
                "id": row.id if row else batch.ids[i],
                "case": case.study.id,
                "slice": index if row is None or row.slice is None else row.slice,
                "patient": row.patient if row else case.study.id,
                "tag": "" if tag is None else tag,
                "tag_source": source,
                "score": known.shown(i),
                "threshold": f"{float(binary.threshold[i]):.6g}",
                "uncertainty": "" if unsure is None else f"{float(unsure[i]):.6g}",
            }

    def _close(self, case: OpenCase) -> None:
        """Bring maps and masks to the study's own grid and write them."""
        study, written = case.study, []
        if not self.write:
            self.lines.extend(case.lines)
            return
        try:
            mask = join(case.masks, case.slices.grid) >= 0.5
            written.append(write_mask(self.out / "masks" / study.id, mask, study))
            for folder, maps in (("scores", case.maps), ("uncertainty", case.uncertainty)):
                if maps is not None:
                    path = self.out / folder / study.id
                    written.append(write_scores(path, join(maps, case.slices.grid), study))
        except Exception as error:
            for path in written:  # a failed case leaves nothing behind
                path.unlink(missing_ok=True)
            self._fail(study.id, list(case.rows.values()), error)
            return
        self.lines.extend(case.lines)
        for line, pixels in zip(case.lines, _pixels_per_slice(mask, case.slices), strict=True):
            line["mask_pixels"] = int(pixels)
        self.done.append(study.id)
        seconds = round(time.perf_counter() - case.started, 3)
        self.records.append({"case": study.id, "sources": [str(p.resolve()) for p in study.sources],
                             "status": "done", "seconds": seconds, "slices": len(case.lines),
                             "mask_sha256": sha256(written[0])})  # fmt: skip


def _held(waiting: list[tuple[OpenCase, int]]) -> int:
    """Bytes of the cases that wait."""
    return sum(case.nbytes for case in {id(case): case for case, _ in waiting}.values())


def _pixels_per_slice(mask: np.ndarray, slices: Slices) -> np.ndarray:
    """Number of mask pixels of each slice on the study's own grid, in the order of the slices."""
    axis = slices.grid.axis
    counts: np.ndarray = mask.sum(axis=tuple(a for a in range(3) if a != axis))
    return np.asarray(counts[slices.indices])
