"""What less work costs: Dice and AUPRC over training steps, from the snapshots that a run kept, and over the stride.

Neither is a figure of the papers, who train to the end and take every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from tagmask.ablations.kinds import Ablation, Value, Walk, alone, draw_sweep, one_walk_a_value
from tagmask.errors import ConfigError, RunError
from tagmask.runs import Run

__all__ = ["STEPS", "STRIDE"]


def _kept(run: Run, name: str) -> Sequence[Value]:
    """Steps after which the method's first network was kept.

    Raises
    ------
    RunError
        It kept none.
    """
    network = run.needs(name)[0]
    steps = run.snapshots(network)
    if not steps:
        raise RunError(
            f"kept no snapshots of the {network}.",
            where=run.path,
            repair=f"Train it with train.{network}.snapshot_every above 0.",
        )
    return steps


def _walks(run: Run, name: str, values: Sequence[Value], device: str) -> Iterator[Walk]:
    kept = _kept(run, name)
    for value in values:
        if value not in kept:
            what = f"no weights were kept after {value} steps."
            raise ConfigError(what, where=run.path, repair=f"Kept are {', '.join(map(str, kept))}.")
    for value in values:
        then = replace(run, snapshot=int(value))
        method = then.method(name, device=device)
        yield Walk(then, (value,), (getattr(method, "settings", None),), alone(method))


def _strides(run: Run, name: str) -> Sequence[Value]:
    """Some of each size, as far as two steps remain."""
    settings = run.settings(name)
    reach = getattr(settings, "forward_steps", None) or settings.noise_level
    return [k for k in (1, 2, 5, 10, 25, 50, 100) if 2 * k <= reach]


STEPS = Ablation("training steps", (), _kept, _walks, draw_sweep)
STRIDE = Ablation(
    "stride k (every k-th step)",
    ("anofpdm", "anoddpm", "cg_diff", "ddib"),
    _strides,
    one_walk_a_value("stride"),
    partial(draw_sweep, log=True),
)
