"""From scans to masks: any supported file, folder or table, tagged or not, on the scans' own grids."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

from tagmask.config import plain
from tagmask.data.table import TAG, Case, read_inputs
from tagmask.errors import ConfigError, InputError, RunError
from tagmask.io import (
    PathLike,
    alone_in,
    commands_of,
    each_path,
    refuse_foreign,
    sha256,
    write_csv,
    write_json,
)
from tagmask.machine import device_of, environment
from tagmask.masks import no_threshold
from tagmask.networks.classifier import Classifier
from tagmask.runs import Run
from tagmask.segmenting.cases import by_image, clear, source_names
from tagmask.segmenting.pace import Pace, largest_batch
from tagmask.segmenting.presence import Tags
from tagmask.segmenting.workbench import COLUMNS, Workbench
from tagmask.types import Method

__all__ = ["SegmentResult", "segment"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SegmentResult:
    """What became of the cases.

    Parameters
    ----------
    out
        The folder of results.
    done, failed
        Case ids, and for the failed ones what was wrong.
    seconds
        Wall time of the whole job.
    """

    out: Path
    done: tuple[str, ...]
    failed: dict[str, str]
    slices: int
    seconds: float

    def __str__(self) -> str:
        speed = f"{self.slices / self.seconds:.1f} slices/s" if self.seconds else ""
        lines = [f"{len(self.done)} cases segmented in {self.seconds:.0f} s ({speed}) -> {self.out}"]
        lines += [f"failed: {case}: {problem}" for case, problem in self.failed.items()]
        return "\n".join(lines)


def segment(
    run: Run | Path | str,
    inputs: Sequence[PathLike] | PathLike,
    *,
    out: Path | str,
    method: str | None = None,
    using: Method | None = None,
    overrides: Sequence[str] = (),
    snapshot: int | None = None,
    val_masks: bool = False,
    seed: int = 0,
    tags: Tags = "given",
    tag: str | None = None,
    device: str = "auto",
    batch: int | None = None,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentResult:
    """Segment scans with a trained run.

    Parameters
    ----------
    run
        A run folder.
    inputs
        Tables, folders or files (NIfTI, DICOM folders, pictures), or one of these.
    out
        Folder for masks/, scores/, slices.csv and manifest.json; uncertainty/ where the method says how unsure it is.
    method
        A name of `METHODS`; the experiment's first by default.
    using
        That method, made already: one that remembers what it said, for instance.
    overrides
        `a.b=c` assignments on the run's experiment, for instance "methods.cdm.noise_level=200".
    snapshot
        Use the weights after this many training steps.
    val_masks
        Use the settings and the threshold that `tagmask tune --criterion dice` chose by validation masks; the
        manifest then says that they were read.
    seed
        Of the noise, which is keyed by the name of the case and the number of the slice: batch, order and machine
        change nothing, but a scan under another name has other noise.
    tags
        "given": slices tagged 0 in the table get an empty mask, slices without a tag are tagged by the
        run's classifier. "predicted": all are tagged by the method where it decides by itself
        (`Prediction.present`), else by the classifier. "none": every slice is segmented.
    tag
        Column of the tables that holds the tag, which they must have then. By default that of the run's training data;
        a table without it has no tags.
    device
        "auto", "cpu", "cuda", "cuda:1", "mps".
    batch
        Slices at once; by default found out while working.
    overwrite
        Whether results of an earlier job in the folder may be replaced.
    report
        Called with (finished cases, all cases).

    Returns
    -------
    SegmentResult
        A failed case is listed there and in OUT/failed.csv; the others are done.

    Raises
    ------
    InputError
        No case at all, one image given twice, the output folder holds results already or other things, or tags
        are to be predicted and nothing of the run can.
    ConfigError, RunError
        Settings or a run that cannot do it, or another job at work in the folder.
    """
    start, out = time.perf_counter(), Path(out)
    if batch is not None and batch < 1:
        raise ConfigError(f"batch = {batch} is not allowed.", repair="Use 1 or more, or leave it out.")
    if tags not in get_args(Tags):
        raise ConfigError(f"tags = {tags!r} is not known.", repair=f"Use {', '.join(get_args(Tags))}.")
    chosen = Run.of(run).method_name(method) if val_masks else None
    run = Run.of(run, overrides=overrides, snapshot=snapshot, val_masks=chosen)
    column = tag or str(run.environment.get("tag", TAG))
    studies = by_image(
        case for path in each_path(inputs) for case in read_inputs(path, tag=column, needed=tag is not None)
    )
    if (out / "manifest.json").exists() and not overwrite:
        raise InputError("holds results already.", where=out, repair="Give another folder, or --overwrite.")
    refuse_foreign(out, "manifest.json")
    device = device_of(device)
    name = run.method_name(method)
    job = Workbench(
        method=using or run.method(name, device=device),
        classifier=cast(Classifier | None, run.judging().network("classifier")),
        channels=run.channels(name),
        settings=run.slices,
        mask=run.experiment.mask_of(name),
        seed=seed,
        tags=tags,
        device=device,
        pace=Pace(batch, settled=True) if batch else Pace(largest=largest_batch(run.slices.size, device)),
        out=out,
        reader=run.text_reader(name),
    )
    if job.classifier is not None:
        job.classifier.to(device)
    _check_given(run, name, job, studies)
    _check_classifier(run, job, studies)
    _doubt_tables(studies, column, tags)
    with alone_in(out):
        clear(out, studies)
        manifest = _manifest(run, name, job, studies)
        write_json(out / "manifest.json", manifest)
        if job.mask.rule == "otsu_mean":
            job.threshold = job.mean_threshold(studies)
        for count, case in enumerate(job.work(studies), 1):
            log.info("case %s done", case)
            report(count, len(studies))
        write_csv(out / "slices.csv", COLUMNS, job.lines)
        _doubt_spread_tags(job, studies)
        if job.failed:
            write_csv(
                out / "failed.csv",
                ("case", "problem"),
                [{"case": k, "problem": v} for k, v in job.failed.items()],
            )
        seconds = time.perf_counter() - start
        manifest |= {
            "status": "finished",
            "seconds": round(seconds, 2),
            "batch": job.pace.size,
            "tag_sources": dict(Counter(str(line["tag_source"]) for line in job.lines)),
            "score_source": job.scored_by,
            "cases": job.records,
        }
        write_json(out / "manifest.json", manifest)
    return SegmentResult(out, tuple(job.done), job.failed, len(job.lines), seconds)


def _check_given(run: Run, name: str, job: Workbench, studies: dict[str, list[Case]]) -> None:
    """Refuse, before anything is written, to ask a method for what it does not give."""
    needs_threshold = job.mask.rule == "method"
    needs_decision = job.tags == "predicted" and job.classifier is None
    given = job.probe(studies) if needs_threshold or needs_decision else None
    if given is None:
        return
    if needs_threshold and given.threshold is None:
        raise no_threshold(name)
    if needs_decision and given.present is None:
        raise InputError(
            f"tags = predicted, but the run has no classifier, and {name} does not decide by itself.",
            where=run.path,
            repair="Train one ([classifier] in the experiment), or use --tags none.",
        )


def _check_classifier(run: Run, job: Workbench, studies: dict[str, list[Case]]) -> None:
    """Refuse slices without a tag where the classifier that would tag them is named, but was not trained to the end."""
    untagged = any(row.label is None for rows in studies.values() for row in rows)
    if job.tags == "given" and untagged and job.classifier is None and run.experiment.classifier is not None:
        raise RunError(
            "has no weights of the classifier that tags slices, and some slices have no tag.",
            where=run.path,
            repair=f"Run tagmask train ... -o {run.path}: it goes on. Or tag all slices, or use --tags none.",
        )


def _doubt_tables(studies: dict[str, list[Case]], column: str, tags: Tags) -> None:
    """Say so where tables give no tag at all, though tags are what they are asked for."""
    rows = [row for rows in studies.values() for row in rows if row.row]
    if tags == "given" and rows and all(row.label is None for row in rows):
        log.warning(
            "No row of the tables has a tag in the column %r. --tag names another; --tags none segments every slice.",
            column,
        )


def _doubt_spread_tags(job: Workbench, studies: dict[str, list[Case]]) -> None:
    """Say of how many volumes one tag of the table was taken as that of every slice."""
    positive = Counter(str(x["case"]) for x in job.lines if (x["tag"], x["tag_source"]) == (1, "given"))
    spread = sum(n > 1 and studies[name][0].slice is None for name, n in positive.items())
    if spread:
        log.warning(
            "In %d volumes one tag 1 stands for all slices: each of them is segmented as one that shows the target. "
            "With --tags predicted the classifier judges every slice.",
            spread,
        )


def _manifest(run: Run, name: str, job: Workbench, studies: dict[str, list[Case]]) -> dict[str, Any]:
    method_settings = getattr(job.method, "settings", None)
    return {
        "format": "tagmask-segmentation",
        "status": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": str(run.path.resolve()),
        "commands": commands_of(run.path),
        "method": name,
        "reads": run.reads(name),
        "seed": job.seed,
        "tags": job.tags,
        "device": job.device,
        "snapshot": run.snapshot,
        "settings": {
            "method": plain(method_settings) if method_settings is not None else {},
            "mask": plain(job.mask),
            "slices": plain(job.settings),
            "members": {part.method: plain(part.settings) for part in run.parts(name) if part.run is not run},
        },
        "plane": job.settings.plane,
        "weights": {n: sha256(path) for n, path in run.weights_files(name).items()},
        "inputs": {case: source_names(rows) for case, rows in studies.items()},
        "environment": environment(),
    }
