"""Streams of randomness by name."""

from __future__ import annotations

import pytest
import torch

from tagmask.errors import ConfigError
from tagmask.scoring.protocol import EvaluateSettings
from tagmask.seeds import keyed
from tagmask.train_settings import TrainSettings


def test_keys_make_streams_of_their_own() -> None:
    draws = [
        torch.rand(3, generator=keyed(*key)) for key in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]
    ]
    assert all(not torch.equal(p, q) for i, p in enumerate(draws) for q in draws[:i])
    assert torch.equal(draws[0], torch.rand(3, generator=keyed(0, "a", 1)))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_a_seed_that_some_generator_refuses_is_refused_by_name(seed: int) -> None:
    for settings, where in ((EvaluateSettings, "evaluate.seed"), (TrainSettings, "[train]")):
        with pytest.raises(ConfigError) as caught:
            settings(seed=seed)
        assert str(caught.value).startswith(
            f"{where}: seed = {seed} is not allowed. Use a whole number from 0"
        )
        assert settings(seed=0) and settings(seed=2**63 - 1)
