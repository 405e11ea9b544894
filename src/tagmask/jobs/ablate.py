"""The papers' ablation figures: one setting swept over a split with truth, from as few walks as serve it.

Every value is segmented and evaluated as `tagmask segment` and `tagmask evaluate` do it. The truth is read to
draw, never to choose: nothing is marked as best, and nothing is written into a run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from tagmask.ablations import ABLATIONS
from tagmask.ablations.kinds import Ablation, Drawing, Scored, Value, Walk
from tagmask.config import plain
from tagmask.data.table import TAG, read_inputs
from tagmask.errors import ConfigError, InputError, TagmaskError, did_you_mean
from tagmask.io import PathLike, each_path, write_bytes, write_json
from tagmask.jobs.evaluate import EvaluateSettings, Evaluation, evaluate
from tagmask.jobs.segment import segment
from tagmask.machine import device_of, environment
from tagmask.methods import settings_of
from tagmask.runs import Run
from tagmask.scoring.scoreboard import write_numbers
from tagmask.scoring.truth import truth_cases
from tagmask.segmenting.cases import by_image
from tagmask.segmenting.prediction_cache import PredictionCache, Variant

__all__ = ["AblateResult", "ablate"]


@dataclass(frozen=True)
class AblateResult:
    """What was drawn.

    Parameters
    ----------
    out
        The folder.
    files
        Figures (PNG, SVG) and the CSV behind each, and the record of how they were made.
    scored
        Every evaluation, by value and seed.
    """

    out: Path
    files: tuple[Path, ...]
    scored: tuple[Scored, ...]

    def __str__(self) -> str:
        lines = [
            f"{'value':>10}{'seed':>6}{'Dice':>8}{'AUPRC':>8}   positive slices; reads test masks, to draw"
        ]
        for one in self.scored:
            row = next(r for r in one.summary["rows"] if r["row"] == "method")["positives"]["image"]
            shown = ("-" if (v := row[m]["value"]) is None else f"{v:.3f}" for m in ("dice", "auprc"))
            lines.append(f"{one.value:>10g}{one.seed:>6}{''.join(f'{text:>8}' for text in shown)}")
        return "\n".join([*lines, *(f"-> {file}" for file in self.files)])


def ablate(
    run: Path | str,
    kind: str,
    inputs: Sequence[PathLike] | PathLike,
    *,
    truth: Path | str,
    out: Path | str,
    values: Sequence[Value] | None = None,
    method: str | None = None,
    overrides: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    tags: Literal["given", "predicted", "none"] = "given",
    device: str = "auto",
    batch: int | None = None,
    settings: EvaluateSettings | None = None,
    overwrite: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> AblateResult:
    """Sweep one setting and draw the papers' figure of it.

    Parameters
    ----------
    run
        A run folder. It is only read.
    kind
        A name of `tagmask.ablations.ABLATIONS`: "Q", "R", "tau", "s" (Fig. 3 of CDM), "steps" (any method), "stride"
        (AnoFPDM, AnoDDPM, CG-Diff, DDIB), "w", "end", "threshold", "curves", "size", "regions", "sam" (Figs. 2, 3
        and 5 of AnoFPDM).
    inputs, tags, device, batch, method, overrides
        As of `segment`.
    truth, settings
        As of `evaluate`.
    out
        Folder for KIND.png, KIND.svg, KIND.csv, KIND.json and evaluations/.
    values
        Of the setting; by default those of the kind.
    seeds
        Of the noise; with several, the figure shows ± one standard deviation.
    overwrite
        Whether a figure of this kind that is there may be replaced.
    report
        Called with (evaluations done, all).

    Returns
    -------
    AblateResult
        The files, and the numbers behind them.

    Raises
    ------
    ConfigError
        Unknown kind, method or value, or a folder inside the run.
    InputError
        Results that are there already, or inputs and truth that cannot be used.
    RunError
        A network or its snapshots are missing.
    """
    out, folder = Path(out), Path(run)
    found, opened, device = _kind(kind), Run.open(folder, overrides=overrides), device_of(device)
    name = opened.method_name(method)
    if found.methods and name not in found.methods:
        what = f"{kind} is no setting of {name}; it is one of {' and '.join(found.methods)}."
        raise ConfigError(what, repair=f"Give --method {found.methods[-1]}.")
    _check_out(out, folder, kind, overwrite)
    _check_names(inputs, Path(truth), str(opened.environment.get("tag", TAG)))
    values = found.values(opened, name) if values is None else values
    for key, given in (("values", values), ("seeds", seeds)):
        if not given or len(set(given)) < len(given):
            raise ConfigError(f"{key} = {list(given)}.", repair="Name at least one, each once.")
    scored: list[Scored] = []
    for walk in found.walks(opened, name, values, device):
        for seed in seeds:
            for one in _score(walk, kind, seed, inputs, truth, out, settings, method=name, tags=tags,
                              device=device, batch=batch):  # fmt: skip
                scored.append(one)
                report(len(scored), len(values) * len(seeds))
    scored.sort(key=lambda one: (one.value, one.seed))
    files = [file for drawing in found.draw(kind, found.axis, scored) for file in _write(out, drawing)]
    record = {
        **{"kind": kind, "run": opened.path.resolve(), "method": name, "values": values, "seeds": seeds},
        **{"tags": tags, "device": device, "reads": "test masks, to draw and not to choose"},
        "settings": plain(settings_of(name, opened.experiment.settings_table(name))),
        "mask": plain(opened.experiment.mask_of(name)),
        "inputs": inputs,
        "truth": truth,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment(),
    }
    write_json(out / f"{kind}.json", record)
    return AblateResult(out, (*files, out / f"{kind}.json"), tuple(scored))


def _kind(name: str) -> Ablation:
    """Look a kind up."""
    if name not in ABLATIONS:
        guess = did_you_mean(name, ABLATIONS, cutoff=0.5)
        raise ConfigError(f"unknown ablation {name!r}.", repair=guess)
    return ABLATIONS[name]


def _check_out(out: Path, run: Path, kind: str, overwrite: bool) -> None:
    """Refuse to write where settings are taken from, and over results that are there."""
    if out.resolve().is_relative_to(run.resolve()):
        raise ConfigError(
            "lies inside the run, but an ablation has seen the truth: it may draw settings, not give them to a run.",
            where=out,
            repair="Give a folder outside. To choose settings by tags, use tagmask tune.",
        )
    if (out / f"{kind}.csv").exists() and not overwrite:
        raise InputError(
            f"holds an ablation of {kind} already.", where=out, repair="Give another folder, or --overwrite."
        )


def _check_names(inputs: Sequence[PathLike] | PathLike, truth: Path, tag: str) -> None:
    """Refuse a truth that is none, or of none of the inputs, now rather than after the first walk."""
    known = truth_cases(truth)
    names = by_image(
        case for path in each_path(inputs) for case in read_inputs(path, tag=tag, needed=False)
    ).keys()
    if not names & known.keys():
        raise InputError(
            f"it is of none of the {len(names)} inputs: {min(known)}, ... against {min(names)}, ...",
            where=truth,
            repair="Name inputs and truth by the stem of the image.",
        )


def _score(
    walk: Walk,
    kind: str,
    seed: int,
    inputs: Sequence[PathLike] | PathLike,
    truth: Path | str,
    out: Path,
    settings: EvaluateSettings | None,
    **options: Any,
) -> Iterator[Scored]:
    """Segment and evaluate every value of a walk; its maps are computed with the first."""
    out.mkdir(parents=True, exist_ok=True)
    with closing(PredictionCache(walk.predict, out)) as cache:
        for i, value in enumerate(walk.values):
            target = out / "evaluations" / f"{kind}-{value}-seed{seed}"
            with tempfile.TemporaryDirectory(prefix=".ablate-", dir=out) as masks:
                one = Variant(cache, i, walk.settings[i])
                failed = segment(walk.run, inputs, out=masks, seed=seed, using=one, **options).failed
                if not failed:
                    found = _evaluate(Path(masks), Path(truth), target, settings)
                    failed = {case: problem.replace(f"{masks}/", "") for case, problem in found.failed}
            if failed:
                case, problem = next(iter(failed.items()))
                raise InputError(
                    f"{kind} = {value}: {len(failed)} cases failed; the first: {case}: {problem}",
                    repair="Leave it out: every value must be scored on the same slices.",
                )
            yield Scored(value, seed, target, found.summary, walk.seen)


def _evaluate(masks: Path, truth: Path, out: Path, settings: EvaluateSettings | None) -> Evaluation:
    """Evaluate masks that are soon gone: what is wrong is said of the truth, and not of their folder."""
    try:
        return evaluate(masks, truth, out=out, settings=settings)
    except TagmaskError as error:
        if not Path(error.where).is_relative_to(masks):
            raise
        what, repair = (text.replace(f"{masks}/", "") for text in (error.what, error.repair))
        raise type(error)(what, where=truth, repair=repair) from None


def _write(out: Path, drawing: Drawing) -> Iterator[Path]:
    """Write the pictures of a figure and the CSV behind it."""
    for suffix, content in drawing.pictures.items():
        write_bytes(out / f"{drawing.name}.{suffix}", content)
        yield out / f"{drawing.name}.{suffix}"
    write_numbers(out / f"{drawing.name}.csv", drawing.columns, drawing.lines)
    yield out / f"{drawing.name}.csv"
