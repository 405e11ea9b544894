"""Streams of randomness by name."""

from __future__ import annotations

import torch

from tagmask.seeds import keyed


def test_keys_make_streams_of_their_own() -> None:
    draws = [
        torch.rand(3, generator=keyed(*key)) for key in [(0, "a", 1), (0, "a", 2), (1, "a", 1), (0, "b", 1)]
    ]
    assert all(not torch.equal(p, q) for i, p in enumerate(draws) for q in draws[:i])
    assert torch.equal(draws[0], torch.rand(3, generator=keyed(0, "a", 1)))
