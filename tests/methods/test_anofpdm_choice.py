from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import InputError
from tagmask.methods import METHODS, settings_of
from tagmask.methods.anofpdm import AnoFPDM, AnoFPDMSettings
from tagmask.methods.anofpdm_choice import choose, healthy_threshold
from tagmask.types import Batch


class Divided:
    """Moves a slice under "healthy" by as much as its mean tells, at step 9 alone; counts its evaluations."""

    def __init__(self) -> None:
        self.calls = 0

    def embed(self, y: int | None) -> Tensor:
        return torch.tensor([[0.0 if y is None else 1.0]])

    def __call__(self, x: Tensor, t: int, e: Tensor) -> Tensor:
        self.calls += 1
        null = 0.1 * torch.sin(x + t / 5)
        return null + e[:, :, None, None] * (x.mean(dim=(1, 2, 3), keepdim=True) + 1) ** 2 * (t == 9)


def method(**settings: Any) -> AnoFPDM:
    made: Any = Divided()
    return AnoFPDM(made, NoiseSchedule.linear(100), AnoFPDMSettings(forward_steps=12, clip=False, **settings))


def batches(levels: list[float], tags: list[int] | None, size: int = 4, channels: int = 1) -> list[Batch]:
    """Slices of the given mean level, in batches."""
    noise = torch.randn(len(levels), channels, 8, 8, generator=torch.Generator().manual_seed(3)) / 20
    image = noise - noise.mean(dim=(1, 2, 3), keepdim=True) + torch.tensor(levels)[:, None, None, None]
    label = None if tags is None else torch.tensor(tags)
    return [
        Batch(image[i : i + size], tuple(f"s/{k}" for k in range(i, min(i + size, len(levels)))),
              None if label is None else label[i : i + size])
        for i in range(0, len(levels), size)
    ]  # fmt: skip


LEVELS = [-0.9, 0.5, -0.8, 0.7, -0.7, 0.6, -0.85]
TAGS = [0, 1, 0, 1, 0, 1, 0]


def test_tags_choose_strength_threshold_and_largest_divergence() -> None:
    made = method(candidates=(0.5, 2.0, 1.0))
    found = choose(made, batches(LEVELS, TAGS))
    assert [c["guidance"] for c in found.candidates] == [0.5, 2.0, 1.0]  # in the order tried
    assert [c["accuracy"] for c in found.candidates] == [1.0, 1.0, 1.0]
    assert (
        set(found.settings) == {"guidance", "healthy_threshold", "m_max"}
        and found.settings["guidance"] == 2.0
    )
    assert found.score == 1.0
    chosen = replace(made, settings=replace(made.settings, **found.settings))
    peaks = []
    for batch in batches(LEVELS, TAGS):
        judged = chosen.predict(batch)
        assert judged.present is not None and judged.present.tolist() == [tag == 1 for tag in batch.label]  # type: ignore[union-attr]
        peaks.append(chosen.sweep(batch)[0].peak)
    assert found.settings["m_max"] == (float(torch.cat(peaks).max()),)


def test_what_is_chosen_fits_the_settings_of_the_method() -> None:
    """As `tagmask tune` writes it down and a run reads it."""
    recipe = METHODS["anofpdm"]
    assert recipe.choose is not None
    found = recipe.choose(method(), batches(LEVELS, TAGS, channels=2))
    table = {key: list(v) if isinstance(v, tuple) else v for key, v in found.settings.items()}
    settings = settings_of("anofpdm", table)
    assert settings.m_max == found.settings["m_max"] and len(settings.m_max) == 2
    assert all(isinstance(record["accuracy"], float) for record in found.candidates)


def test_any_number_of_candidates_costs_one_pass() -> None:
    for candidates, ratio in (((1.0,), 1.0), ((0.1, 0.5, 1.0, 2.0, 30.0), 0.5)):
        made: Any = method(candidates=candidates, end_ratio=ratio)
        choose(made, batches(LEVELS, TAGS))
        assert made.denoiser.calls == 12 * 2  # steps, batches


def test_one_pass_or_batch_by_batch_is_the_same_choice() -> None:
    made = method()
    one, two = (choose(made, batches(LEVELS, TAGS, size=size)) for size in (7, 2))
    for a, b in zip(one.candidates, two.candidates, strict=True):
        assert a == {key: pytest.approx(value, rel=1e-5) for key, value in b.items()}


def test_the_largest_strength_that_keeps_the_accuracy_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = {0.5: 0.9, 1.0: 0.995, 2.0: 1.0, 3.0: 0.991, 4.0: 0.98}
    order = iter(accuracy.values())
    monkeypatch.setattr("tagmask.methods.anofpdm_choice.healthy_threshold", lambda *_: (0.5, next(order)))
    made = method(candidates=tuple(accuracy))
    assert choose(made, batches(LEVELS, TAGS)).settings["guidance"] == 3.0
    order = iter(accuracy.values())
    strict = replace(made, settings=replace(made.settings, accuracy_kept=1.0))
    assert choose(strict, batches(LEVELS, TAGS)).settings["guidance"] == 2.0


def test_the_largest_divergence_is_taken_over_all_slices_or_the_unhealthy_ones() -> None:
    levels, tags = [*LEVELS, 0.9], [*TAGS, 0]  # a healthy slice that moves most
    everything = choose(method(candidates=(2.0,)), batches(levels, tags)).settings["m_max"]
    unhealthy = choose(method(candidates=(2.0,), m_max_over="unhealthy"), batches(levels, tags)).settings[
        "m_max"
    ]
    without = choose(method(candidates=(2.0,)), batches(LEVELS, TAGS)).settings["m_max"]
    assert everything[0] > 1.1 * unhealthy[0]
    assert unhealthy == pytest.approx(without, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_sweep_finds_the_best_of_all_splits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random(60) < 0.4
    similarity = np.round(np.where(present, rng.beta(4, 2, 60), rng.beta(6, 1.5, 60)), 2)  # with ties
    threshold, accuracy = healthy_threshold(similarity, present, "sweep")
    assert accuracy == pytest.approx(np.mean((similarity <= threshold) == present))
    every = [-1.0, *similarity, *(similarity - 1e-9)]
    assert accuracy == pytest.approx(max(np.mean((similarity <= t) == present) for t in every))
    assert not np.isclose(similarity, threshold, atol=1e-6, rtol=0).any()  # it lies between two slices


@pytest.mark.parametrize("ties", [False, True])
def test_a_grid_of_quantiles_of_the_healthy_slices_as_in_the_published_code(ties: bool) -> None:
    rng = np.random.default_rng(0)
    present = np.arange(402) % 2 == 1
    healthy = (
        np.linspace(0, 1, 201) if ties else rng.beta(9, 1, 201)
    )  # whose quantiles are slices, now and then
    similarity = np.empty(402)
    similarity[present], similarity[~present] = rng.beta(2, 9, 201), healthy
    best, fewest = None, 1e6
    for q in np.linspace(0.005, 0.095, 100):
        at = np.quantile(similarity[~present], q)
        wrong = int((similarity[present] > at).sum() + (similarity[~present] < at).sum())
        if wrong < fewest:
            best, fewest = at, wrong
    assert healthy_threshold(similarity, present, "grid") == pytest.approx((best, 1 - fewest / 402))
    assert healthy_threshold(similarity, present, "sweep")[1] >= 1 - fewest / 402


def test_ends_of_the_sweep() -> None:
    """Where the tags cannot be told apart, the commoner one is said of every slice."""
    for level, present, threshold in (
        (0.2, [True, False, False], -1.0),
        (0.2, [True, True, False], 1.0),
        (1.0, [True, False, False], -1.0),
    ):
        found = healthy_threshold(np.full(3, level), np.array(present), "sweep")
        assert found == (threshold, pytest.approx(2 / 3))


@pytest.mark.parametrize("tags", [[0] * 7, [1] * 7])
def test_one_tag_alone_is_refused(tags: list[int]) -> None:
    with pytest.raises(InputError, match=rf"{sum(tags)} of 7 validation slices have tag 1.*both tags"):
        choose(method(), batches(LEVELS, tags))


def test_no_slices_and_no_tags_are_refused() -> None:
    with pytest.raises(InputError, match="0 of 0 validation slices"):
        choose(method(), [])
    with pytest.raises(InputError, match=r"s/0: .*no tags"):
        choose(method(), batches(LEVELS, None))


def test_a_network_that_has_learnt_nothing_is_refused() -> None:
    """An untrained denoiser answers 0, whatever the condition."""
    made: Any = method()
    silent: Any = type("Silent", (), {"embed": made.denoiser.embed, "__call__": lambda _, x, t, e: 0 * x})()
    with pytest.raises(InputError, match="equal on every slice"):
        choose(replace(made, denoiser=silent), batches(LEVELS, TAGS))
