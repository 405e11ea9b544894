"""What one walk remembers for all that use it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tagmask.segmenting import prediction_cache
from tagmask.segmenting.prediction_cache import PredictionCache, Variant
from tagmask.types import Batch, Prediction


class Walk:
    """Two variants: the picture, and its negative with a threshold, a score and a decision. Counts slices."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, batch: Batch, seed: int) -> Sequence[Prediction]:
        self.seen += batch.ids
        x, per_slice = batch.image + seed, batch.image.flatten(1)
        present = per_slice.sum(1) > 0
        return [Prediction(x), Prediction(-x, per_slice.mean(1), per_slice.amax(1), present, x.abs())]


def batch_of(*names: str) -> Batch:
    pictures = [torch.randn(1, 4, 5, generator=torch.Generator().manual_seed(ord(n))) for n in names]
    return Batch(torch.stack(pictures), names, torch.zeros(len(names), dtype=torch.int64))


@pytest.fixture
def walk() -> Walk:
    return Walk()


def test_every_variant_is_what_it_would_be_alone(walk: Walk, tmp_path: Path) -> None:
    batch = batch_of("a", "b", "c")
    expected = Walk()(batch, 2)
    with closing(PredictionCache(walk, tmp_path)) as cache:
        for index in (1, 0, 1):
            found = Variant(cache, index, None).predict(batch, 2)
            assert torch.equal(found.score_map, expected[index].score_map)
            for name in (field.name for field in fields(Prediction)):
                a, b = getattr(found, name), getattr(expected[index], name)
                assert (a is None and b is None) or (torch.equal(a, b) and a.dtype == b.dtype)
    assert walk.seen == ["a", "b", "c"]


def test_only_new_slices_are_computed(walk: Walk, tmp_path: Path) -> None:
    with closing(PredictionCache(walk, tmp_path)) as cache:
        cache.recall(batch_of("a", "b"), 0, 0)
        found = cache.recall(batch_of("c", "a", "d"), 0, 1)
        assert walk.seen == ["a", "b", "c", "d"]
        assert torch.equal(found.score_map, -batch_of("c", "a", "d").image)
        cache.recall(batch_of("a"), 1, 0)
        assert walk.seen[4:] == ["a"], "another seed is another walk"


def test_what_recalling_spared_is_what_computing_took(
    walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(prediction_cache, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def slow(batch: Batch, seed: int) -> Sequence[Prediction]:
        clock[0] += 2.0 * len(batch)
        return walk(batch, seed)

    with closing(PredictionCache(slow, tmp_path)) as cache:
        for _ in range(2):  # the second look at what one use computed is its own
            cache.recall(batch_of("a", "b"), 0, 0)
            assert cache.spared == 0
        cache.start(slow)
        cache.recall(batch_of("a"), 0, 1)
        assert cache.spared == 2
        cache.recall(batch_of("c", "b", "a"), 0, 0)
        assert cache.spared == 4, "a is charged once, and c was computed"
        cache.recall(batch_of("a"), 1, 0)
        assert cache.spared == 4, "no walk of another seed was spared"
    assert clock[0] == 2.0 * 4


def test_nothing_is_left_on_the_disk(walk: Walk, tmp_path: Path) -> None:
    with closing(PredictionCache(walk, tmp_path / "new")) as cache:
        cache.recall(batch_of("a"), 0, 0)
        assert list((tmp_path / "new").iterdir()) == [], "the file has no name, so a killed job leaves none"
