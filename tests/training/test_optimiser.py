from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tagmask.train_settings import TrainSettings
from tagmask.training.optimiser import learning_rate, make_optimizer


def rates(**settings: Any) -> list[float]:
    s = TrainSettings(learning_rate=2.0, steps=10, **settings)
    return [learning_rate(s, step) for step in range(1, 11)]


def test_the_rates_of_each_schedule() -> None:
    assert rates() == [2.0] * 10
    cosine = rates(schedule="cosine")
    assert cosine[-1] == pytest.approx(0, abs=1e-12)
    assert cosine[4] == pytest.approx(1.0) and cosine == sorted(cosine, reverse=True)
    floored = rates(schedule="cosine", rate_floor=0.5)
    assert floored[-1] == pytest.approx(0.5) and floored[4] == pytest.approx(1.25)
    poly = rates(schedule="poly")
    assert (
        poly[0] == 2.0 and poly[5] == pytest.approx(2 * 0.5**0.9) and poly[-1] == pytest.approx(2 * 0.1**0.9)
    )
    stairs = rates(schedule="milestones", milestones=(3, 8))
    assert stairs == pytest.approx([2, 2, 2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.02, 0.02])
    falls = rates(schedule="restarts", restart_every=4, rate_floor=0.4)
    assert falls[:4] == falls[4:8] and falls[8:] == falls[:2] and falls[0] == 2.0
    assert falls[2] == pytest.approx(0.4 + 0.8) and falls[3] == pytest.approx(
        1.2 + 0.8 * math.cos(math.pi * 3 / 4)
    )


def test_warmup_rises_before_anything_falls() -> None:
    assert rates(warmup=4)[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates(warmup=4, schedule="milestones", milestones=(6,))[5:7] == pytest.approx([2.0, 0.2])


def test_the_rates_are_those_of_torch() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    ours = rates(schedule="restarts", restart_every=3, rate_floor=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=3, eta_min=0.1)
    for rate in ours:
        assert rate == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_an_optimiser_is_the_named_one_and_takes_its_settings(name: Any) -> None:
    settings = TrainSettings(optimizer=name, learning_rate=0.1, weight_decay=0.5, momentum=0.8)
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([weight], settings)
    assert type(optimizer).__name__.lower() == name
    weight.grad = torch.tensor([0.0])
    optimizer.step()
    # AdamW shrinks the weight itself; in the others the decay is a gradient, which Adam scales to 1.
    assert weight.item() == pytest.approx({"adamw": 0.95, "adam": 0.9, "sgd": 0.95}[name])
    weight.grad = torch.tensor([0.0])
    optimizer.step()
    if name == "sgd":  # 0.1 (0.5 0.95 + 0.8 0.5)
        assert weight.item() == pytest.approx(0.95 - 0.1 * (0.475 + 0.4))
