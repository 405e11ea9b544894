from __future__ import annotations

import torch

from tagmask.diffusion.noise import gaussian
from tagmask.types import Batch


def batch(*ids: str) -> Batch:
    return Batch(torch.zeros(len(ids), 1, 32, 32), ids)


def test_noise_belongs_to_the_slice_not_to_its_company() -> None:
    alone, together = gaussian(batch("a/1"), 7), gaussian(batch("b/0", "a/1"), 7)
    assert torch.equal(alone[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_seed_and_draw_change_the_noise() -> None:
    fields = [gaussian(batch("a/1"), seed, draw) for seed in (0, 1) for draw in (0, 1)]
    assert all(not torch.equal(p, q) for i, p in enumerate(fields) for q in fields[:i])


def test_noise_is_standard_normal() -> None:
    field = gaussian(batch(*(f"a/{i}" for i in range(64))), 0)
    assert abs(float(field.mean())) < 0.02 and abs(float(field.std()) - 1) < 0.02
