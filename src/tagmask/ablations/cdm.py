"""Fig. 3 of the CDM paper: Dice over Q, R, τ and s, one at a time.

X. Hu, Y.-J. Chen, T.-Y. Ho, Y. Shi, MICCAI 2023. All R come from one walk, since a walk of R stages begins
with every shorter one. Q, τ and s change the walk itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch

from tagmask.ablations.kinds import Ablation, Value, Walk, always, draw_sweep, one_walk_a_value
from tagmask.diffusion.noise import gaussian
from tagmask.methods.cdm import CDM
from tagmask.runs import Run
from tagmask.types import Batch, Prediction

__all__ = ["NOISE_LEVEL", "SCALE", "STAGES", "TAU"]

_BOTH = ("cdm", "cg_cdm")


def _method(run: Run, name: str, device: str, **changes: Value) -> CDM:
    method = run.method(name, device=device, **changes)
    assert isinstance(method, CDM)
    return method


def _all_stages(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
    """Give the one walk of the largest R."""
    methods = [_method(run, name, device, stages=value) for value in values]
    stages = tuple(method.settings.stages for method in methods)
    longest = methods[stages.index(max(stages))]
    settings = tuple(replace(longest.settings, stages=r) for r in stages)
    yield Walk(run, tuple(values), settings, partial(_prefixes, longest, stages))


@torch.no_grad()
def _prefixes(method: CDM, stages: Sequence[int], batch: Batch, seed: int) -> list[Prediction]:
    """Stop one walk at every R, and average over draws as `CDM.predict` does."""
    walks = (method.walk(batch, gaussian(batch, seed, draw)) for draw in range(method.settings.draws))
    kept = [{r: a for r, a in enumerate(walk, 1) if r in stages} for walk in walks]
    return [method.mean([maps[r] for maps in kept]) for r in stages]


def _levels(run: Run, name: str) -> Sequence[Value]:
    """Tenths of T, as far as R stages fit below them."""
    steps = run.experiment.schedule.steps
    stages = _method(run, name, "cpu").settings.stages
    return [q for q in (steps * k // 10 for k in range(1, 10)) if q >= stages]


def _stages(run: Run, name: str) -> Sequence[Value]:
    level = _method(run, name, "cpu").settings.noise_level
    return [r for r in (1, 2, 5, 10, 20, 50, 100) if r <= level]


NOISE_LEVEL = Ablation("noise level Q (steps)", _BOTH, _levels, one_walk_a_value("noise_level"), draw_sweep)
STAGES = Ablation("stages R", _BOTH, _stages, _all_stages, partial(draw_sweep, log=True))
TAU = Ablation(
    "moving weight τ",
    _BOTH,
    always(0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99),
    one_walk_a_value("tau"),
    draw_sweep,
)
SCALE = Ablation(
    "gradient scale s",
    ("cg_cdm",),
    always(0.0, 1.0, 10.0, 50.0, 100.0, 200.0, 500.0),
    one_walk_a_value("scale"),
    partial(draw_sweep, log=True),
)
