"""Dice over the steps that are left out: what a cheaper walk costs. Not a figure of the papers, who take every step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from tagmask.ablations.kinds import Ablation, Value, draw_sweep, one_walk_a_value
from tagmask.runs import Run

__all__ = ["STRIDE"]


def _strides(run: Run, name: str) -> Sequence[Value]:
    """Some of each size, as far as two steps remain."""
    settings = run.settings(name)
    reach = getattr(settings, "forward_steps", None) or settings.noise_level
    return [k for k in (1, 2, 5, 10, 25, 50, 100) if 2 * k <= reach]


STRIDE = Ablation(
    "stride k (every k-th step)",
    ("anofpdm", "anoddpm", "cg_diff", "ddib"),
    _strides,
    one_walk_a_value("stride"),
    partial(draw_sweep, log=True),
)
