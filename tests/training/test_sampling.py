from __future__ import annotations

from collections import Counter

import pytest
import torch

from tagmask.errors import ConfigError
from tagmask.training.sampling import Sampler

LABELS = torch.tensor([0] * 7 + [1] * 3)


def test_an_epoch_sees_every_slice_once() -> None:
    sampler = Sampler(LABELS, batch=5, balance=False, seed=0)
    for epoch in range(3):
        seen = torch.cat([sampler.indices(2 * epoch + 1), sampler.indices(2 * epoch + 2)])
        assert sorted(seen.tolist()) == list(range(10))
    assert sampler.indices(1).tolist() != sampler.indices(3).tolist()


def test_balanced_batches_hold_both_tags_and_use_all_slices() -> None:
    sampler = Sampler(LABELS, batch=5, balance=True, seed=0)
    batches = [sampler.indices(step) for step in range(1, 22)]
    assert all(int(LABELS[b].sum()) == 2 for b in batches)
    counts = Counter(torch.cat(batches).tolist())
    assert set(counts) == set(range(10))
    negatives = [counts[i] for i in range(7)]
    assert max(negatives) - min(negatives) <= 1


def test_any_step_can_be_asked_for_first() -> None:
    ahead = Sampler(LABELS, batch=4, balance=True, seed=3).indices(50)
    walked = Sampler(LABELS, batch=4, balance=True, seed=3)
    for step in range(1, 50):
        walked.indices(step)
    assert torch.equal(walked.indices(50), ahead)


def test_one_tag_cannot_be_balanced() -> None:
    with pytest.raises(ConfigError, match="all 4 training slices have tag 1"):
        Sampler(torch.ones(4, dtype=torch.int64), batch=2, balance=True, seed=0)
