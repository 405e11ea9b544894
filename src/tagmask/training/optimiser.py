"""How weights move: the optimiser, and its learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import nn, optim

from tagmask.train_settings import TrainSettings

__all__ = ["learning_rate", "make_optimizer"]

POWER = 0.9
"""Of schedule = "poly", as TransUNet and SwinUNet have it."""
DROP = 0.1
"""What a milestone leaves of the rate."""


def make_optimizer(parameters: Iterable[nn.Parameter], settings: TrainSettings) -> optim.Optimizer:
    """Make the optimiser of some parameters; its rate is set anew at every step."""
    s = settings
    match s.optimizer:
        case "adamw":
            return optim.AdamW(parameters, lr=s.learning_rate, weight_decay=s.weight_decay)
        case "adam":
            return optim.Adam(parameters, lr=s.learning_rate, weight_decay=s.weight_decay)
        case "sgd":
            return optim.SGD(parameters, lr=s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay)


def learning_rate(settings: TrainSettings, step: int) -> float:
    """Give the learning rate of a step (1, 2, ... `settings.steps`).

    Examples
    --------
    >>> s = TrainSettings(learning_rate=1.0, schedule="milestones", milestones=(3,))
    >>> [learning_rate(s, step) for step in (2, 3, 4)]
    [1.0, 1.0, 0.1]
    """
    s = settings
    rate = s.learning_rate * min(1.0, step / s.warmup if s.warmup else 1.0)
    match s.schedule:
        case "cosine":
            return _half_cosine(rate, s.rate_floor, step / s.steps)
        case "poly":
            return rate * float((1 - (step - 1) / s.steps) ** POWER)
        case "milestones":
            return rate * float(DROP ** sum(step > milestone for milestone in s.milestones))
        case "restarts":
            return _half_cosine(rate, s.rate_floor, (step - 1) % s.restart_every / s.restart_every)
    return rate


def _half_cosine(rate: float, floor: float, share: float) -> float:
    return floor + (rate - floor) * 0.5 * (1 + math.cos(math.pi * share))
