"""The figures of the AnoFPDM paper: Dice over w, end step and threshold; curves, M and target, regions, SAMs.

Y. Che et al. 2024, https://arxiv.org/abs/2404.15683, Figs. 2, 3, 5b to 5d. (Fig. 5a needs no mask: it is
RUN/tune-anofpdm.svg, which `tagmask tune` draws.) Fig. 2c parts each SAM by the exact mask, which no walk may see:
here the SAM at a share of t_e is a score map like any other, and `evaluate` parts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tagmask.ablations.anofpdm_draw import SamSlice, draw_curves, draw_regions, draw_sam, draw_size
from tagmask.ablations.kinds import (
    CSV_COLUMNS,
    Ablation,
    Drawing,
    Scored,
    Seen,
    Value,
    Walk,
    always,
    draw_sweep,
    sweep_lines,
    sweep_table,
)
from tagmask.config import plain
from tagmask.drawing.charts import sweep
from tagmask.errors import ConfigError
from tagmask.methods.anofpdm import AnoFPDM
from tagmask.methods.anofpdm_passage import Passage
from tagmask.runs import Run
from tagmask.runs.chosen import tried
from tagmask.types import Batch, Prediction

__all__ = ["CURVES", "END", "GUIDANCE", "REGIONS", "SAM", "SIZE", "THRESHOLD"]

_SETUPS = {("mixed", "dice"): "Dice, mixed", ("positives", "dice"): "Dice, unhealthy"}
SHOWN_SLICES = 4
JUDGED_BY = ("healthy_threshold", "m_max")


def _method(run: Run, name: str, device: str, **changes: Any) -> AnoFPDM:
    method = run.method(name, device=device, **changes)
    assert isinstance(method, AnoFPDM)
    return method


def _masked(run: Run, name: str, **changes: Any) -> Run:
    """Give the run with these changes to the method's mask settings."""
    experiment = run.experiment
    methods = {**experiment.methods, name: experiment.settings_table(name)}
    mask = replace(experiment.mask_of(name), **changes)
    return replace(run, experiment=replace(experiment, mask=mask, methods=methods))


def _guidances(
    run: Run, name: str, values: Sequence[Value], device: str, *, judged: bool = False
) -> Iterator[Walk]:
    """Give the one walk of all w. It puts the curves aside, (3, K) float32 a slice: M, MSE^h, MSE^0.

    With `judged` the healthy threshold and M_max go with w, as tags chose them (Sects. 4.2, 5.4).
    """
    own = [_judged_by(run, name, w) if judged else {} for w in values]
    methods = [_method(run, name, device, guidance=float(w), **o) for w, o in zip(values, own, strict=True)]
    seen: Seen = {}

    def predict(batch: Batch, seed: int) -> list[Prediction]:
        passages = methods[0].sweep(batch, seed, [float(w) for w in values])
        for w, passage in zip(values, passages, strict=True):
            curves = _curves(passage)
            seen.update({(one, seed, w): (passage.steps, curves[i]) for i, one in enumerate(batch.ids)})
        return [method.conclude(passage, batch) for method, passage in zip(methods, passages, strict=True)]

    yield Walk(run, tuple(values), tuple(m.settings for m in methods), predict, seen)


def _tuned(run: Run, name: str) -> list[dict[str, Any]]:
    """Give what `tune` chose under each w with the run's values of the other settings that it tried."""
    own = plain(run.settings(name))
    return [
        record
        for record in tried(run.path, name)
        if record.keys() >= {"guidance", *JUDGED_BY}
        and all(own[key] == record[key] for key in record.keys() & own.keys() - {"guidance", *JUDGED_BY})
    ]


def _judged_by(run: Run, name: str, w: Value) -> dict[str, Any]:
    own = run.settings(name)
    if w == own.guidance or all(getattr(own, key) is None for key in JUDGED_BY):
        return {}
    for record in _tuned(run, name):
        if record["guidance"] == w:
            return {key: record[key] for key in JUDGED_BY}
    raise ConfigError(
        f"w = {w:g} has no healthy threshold and M_max of its own; the run's are those of w = {own.guidance:g}.",
        where=run.path,
        repair=f"Let tags choose them: tagmask tune {run.path} --method {name} --criterion own, with w among the "
        f"candidates. (A search with a grid alone writes over tune-{name}.csv.)",
    )


def _curves(passage: Passage) -> np.ndarray:
    """Means over modalities: (B, 3, K) float32."""
    three = torch.stack([passage.m, passage.mse_h, passage.mse_0], dim=1)
    return three.mean(dim=3).cpu().numpy()


def _ends(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
    """Give the walks of all end steps: one finds t_e, one serves every share of it."""
    methods = [_method(run, name, device, end_ratio=float(share)) for share in values]

    def predict(batch: Batch, seed: int) -> list[Prediction]:
        passages = methods[0].ends(batch, seed, [float(share) for share in values])
        return [methods[0].conclude(passage, batch) for passage in passages]

    yield Walk(run, tuple(values), tuple(m.settings for m in methods), predict)


def _shares(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
    """Give the walks of the single SAMs at shares of t_e: one finds t_e, one serves every share but 1.

    It puts M_t aside, the mean over modalities, where the share is within T'; beyond it there is no such SAM. Maps
    are left as they are: the run's median filter and foreground would move the magnitudes.
    """
    then = _masked(run, name, median=1, foreground="none", erode=0)
    single = {"map": "single", "interval": 1, "end_exclusive": False}
    methods = [_method(then, name, device, **single, end_ratio=float(share)) for share in values]
    seen: Seen = {}

    def predict(batch: Batch, seed: int) -> list[Prediction]:
        passages = methods[0].ends(batch, seed, [float(share) for share in values])
        for share, passage in zip(values, passages, strict=True):
            last = methods[0].last(passage.end, float(share))
            there = torch.searchsorted(torch.tensor(passage.steps, device=last.device), last)
            m = passage.m.gather(1, there[:, None]).mean(dim=(1, 2))  # (B,)
            within = ((passage.end * share).round() <= methods[0].settings.forward_steps).all(dim=1)
            seen.update({(one, seed, share): float(m[i]) for i, one in enumerate(batch.ids) if within[i]})
        return [methods[0].conclude(passage, batch) for passage in passages]

    yield Walk(then, tuple(values), tuple(m.settings for m in methods), predict, seen)


def _thresholds(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
    """Give the one walk of all thresholds: the mask rule becomes the method's own, and 0 leaves it dynamic."""
    if min(values) < 0:
        raise ConfigError(
            f"values = {list(values)}.", repair="Use thresholds above 0, and 0 for the dynamic."
        )
    then = _masked(run, name, rule="method", value=None)
    method = _method(then, name, device)
    if method.settings.m_max is None:
        raise ConfigError(
            "m_max is not known, so there is no dynamic threshold to compare with.",
            where="[methods.anofpdm]",
            repair="Let tagmask tune choose it, or give a value for each modality.",
        )

    def predict(batch: Batch, seed: int) -> list[Prediction]:
        dynamic = method.predict(batch, seed)
        own = dynamic.threshold
        assert own is not None
        return [dynamic if v == 0 else replace(dynamic, threshold=torch.full_like(own, v)) for v in values]

    yield Walk(then, tuple(values), (method.settings,) * len(values), predict)


def _draw_thresholds(kind: str, axis: str, scored: Sequence[Scored]) -> Sequence[Drawing]:
    """Draw Dice over fixed thresholds, and the dynamic one as a level line."""
    lines = sweep_table(scored)
    found = {}
    for name, line in sweep_lines(lines, _SETUPS).items():
        fixed = line.x > 0
        across = line.x[fixed] if fixed.any() else line.x
        if fixed.any():
            found[f"{name}, fixed"] = line._replace(
                x=across, y=line.y[fixed], low=line.low[fixed], high=line.high[fixed]
            )
        if not fixed.all():
            level = [np.full(len(across), each[~fixed][0]) for each in line[1:]]
            found[f"{name}, dynamic"] = line._replace(x=across, y=level[0], low=level[1], high=level[2])
    pictures = sweep(found, x=axis, y="mean over slices", log=True)
    return [Drawing(kind, pictures, CSV_COLUMNS, lines)]


def _sams(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
    """Give the one walk of all steps: the SAM of each is scored as a map of its own.

    Maps are kept of the few slices in which M is largest, so that no mask says which are shown.
    """
    method = _method(run, name, device)
    steps = method.settings.steps
    if wrong := [t for t in values if t not in steps]:
        raise ConfigError(
            f"step {wrong[0]} is not visited.",
            where="[methods.anofpdm]",
            repair=f"Visited are {steps[0]}, {steps[1]}, ..., {steps[-1]}.",
        )
    seen: Seen = {}

    @torch.no_grad()
    def predict(batch: Batch, seed: int) -> list[Prediction]:
        s, x0 = method.settings, batch.image
        sams, gradients = {}, {}
        curves: list[tuple[torch.Tensor, ...]] = []
        for (step,) in method.trace(batch, seed):
            curves.append((step.m, step.mse_h, step.mse_0))
            if step.t in values:
                weight = method.gradient_weight(step.t, s.guidance, x0)
                sams[step.t], gradients[step.t] = step.sam, (step.shift / weight) ** 2  # Eqs. 8, 11, 19
        m, mse_h, mse_0 = (torch.stack(each, dim=1) for each in zip(*curves, strict=True))
        end = torch.tensor(s.steps, device=m.device)[m.argmax(dim=1)]  # Eq. 21
        for i, one in enumerate(batch.ids):
            for t in values:
                sam, gradient = (maps[int(t)][i].mean(dim=0).cpu().numpy() for maps in (sams, gradients))
                image, ends = x0[i].mean(dim=0).cpu().numpy(), tuple(end[i].tolist())
                seen[one, seed, t] = SamSlice(float(m[i].amax()), ends, image, sam, gradient)
        _keep(seen, seed)
        passage = Passage(s.guidance, s.steps, m, mse_h, mse_0, end, sams[int(values[0])])
        return [method.conclude(replace(passage, maps=sams[int(t)]), batch) for t in values]

    yield Walk(run, tuple(values), (method.settings,) * len(values), predict, seen)


def _keep(seen: Seen, seed: int) -> None:
    """Forget all slices of this seed but those with the largest M."""
    peaks = {one: kept.peak for (one, of, _), kept in seen.items() if of == seed}
    best = set(sorted(peaks, key=lambda one: (-peaks[one], one))[:SHOWN_SLICES])
    for key in [key for key in seen if key[1] == seed and key[0] not in best]:
        del seen[key]


def _candidates(run: Run, name: str) -> Sequence[Value]:
    return [record["guidance"] for record in _tuned(run, name)] or run.settings(name).candidates


def _own_guidance(run: Run, name: str) -> Sequence[Value]:
    return [_method(run, name, "cpu").settings.guidance]


def _some_steps(run: Run, name: str) -> Sequence[Value]:
    """Five visited steps, evenly spread, the last among them."""
    steps = _method(run, name, "cpu").settings.steps
    return sorted({steps[(len(steps) - 1) * k // 5] for k in range(1, 6)})


_ONLY = ("anofpdm",)
_sweep = partial(draw_sweep, shown=_SETUPS)
GUIDANCE = Ablation("guidance strength w", _ONLY, _candidates, partial(_guidances, judged=True), _sweep)
_SHARES = always(0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.6, 2.0)
END = Ablation("end step / t_e", _ONLY, _SHARES, _ends, _sweep)
THRESHOLD = Ablation(
    "threshold of the map",
    _ONLY,
    always(0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    _thresholds,
    _draw_thresholds,
)
CURVES = Ablation("step t", _ONLY, _own_guidance, _guidances, draw_curves)
SIZE = Ablation("size of the target (pixels)", _ONLY, _own_guidance, _guidances, draw_size)
REGIONS = Ablation("t / t_e", _ONLY, _SHARES, _shares, draw_regions)
SAM = Ablation("step t", _ONLY, _some_steps, _sams, draw_sam)
