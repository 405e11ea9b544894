from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tagmask.diffusion.noise import gaussian
from tagmask.errors import ConfigError
from tagmask.methods.anofpdm import AnoFPDM, AnoFPDMSettings
from tagmask.methods.anofpdm_passage import Gatherer, Step
from tagmask.methods.anofpdm_settings import READ_OFF
from tagmask.types import Batch
from tests.anofpdm_worlds import Bent, TwoTags, method, oracle, passage, study, two_tags


def stacked(made: AnoFPDM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Sect. 4 as one reads it: every map kept, conditions one after the other, slices cut at the end."""
    s, d, schedule = made.settings, made.denoiser, made.schedule
    x, sams, m = batch.image, [], []
    for k, t in enumerate(s.steps):
        if s.encoding == "ddpm":
            x = schedule.add_noise(batch.image, t, gaussian(batch, 0, t))
        elif k:
            x = schedule.ddim(x, schedule.clip(x, before, e_0), before, t)  # noqa: F821
        e_h, e_0 = (d(x, t, d.embed(y).expand(len(x), -1)) for y in (0, None))
        before = t  # noqa: F841
        hgp = schedule.clean(x, t, (1 + s.guidance) * e_h - s.guidance * e_0).clamp(-1, 1)
        ugp = schedule.clean(x, t, e_0).clamp(-1, 1)
        sams.append((hgp - batch.image) ** 2 if s.sam == "error" else (hgp - ugp) ** 2)
        m.append((hgp - ugp).square().mean(dim=(2, 3)))
    all_sams, all_m = torch.stack(sams), torch.stack(m)
    maps, ends = torch.zeros_like(batch.image), torch.zeros(batch.image.shape[:2], dtype=torch.int64)
    for b in range(len(batch)):
        for c in range(batch.image.shape[1]):
            ends[b, c] = s.steps[int(all_m[:, b, c].argmax())]
            last = int(ends[b, c]) - s.end_exclusive
            if s.end_ratio != 1:
                last = min(max(round(last * s.end_ratio), 1), s.steps[-1])
            picked = [k for k, t in enumerate(s.steps) if t <= last]
            if s.map == "single":
                picked = picked[-1:]
            if s.interval > 1:
                picked = sorted({*picked[:: s.interval], picked[-1]})
            chosen = all_sams[picked, b, c]
            maps[b, c] = chosen.mean(dim=0) if s.aggregate == "mean" else chosen.sum(dim=0)
    return maps, ends


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"aggregate": "sum"},
        {"map": "single"},
        {"map": "single", "end_exclusive": True},
        {"end_exclusive": True},
        {"interval": 3},
        {"interval": 3, "aggregate": "sum"},
        {"stride": 4, "forward_steps": 60},
        {"stride": 4, "forward_steps": 60, "map": "single"},
        {"end_ratio": 0.4},
        {"end_ratio": 0.4, "stride": 3, "forward_steps": 60},
        {"end_ratio": 1.3, "forward_steps": 60, "stride": 5},
        {"end_ratio": 0.5, "map": "single"},
        {"end_ratio": 0.5, "end_exclusive": True},
        {"encoding": "ddpm"},
        {"encoding": "ddpm", "map": "single", "sam": "weighted"},
    ],
)
def test_streaming_equals_every_map_kept(changes: dict[str, Any]) -> None:
    image = torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(image, ("a", "b", "c"))
    made = method(Bent(), **{"forward_steps": 20, **changes}, guidance=1.0)
    found = passage(made, batch)
    maps, ends = stacked(made, batch)
    assert torch.equal(found.end, ends) and int(found.end.min()) > 1 and int(found.end.max()) < 20
    assert torch.allclose(found.maps, maps, rtol=1e-5, atol=1e-7)


def test_of_equal_divergences_the_first_counts() -> None:
    gatherer = Gatherer(AnoFPDMSettings(forward_steps=4), torch.zeros(1, 1, 2, 2))
    for t, m in enumerate((1.0, 3.0, 3.0, 2.0), start=1):
        level = torch.full((1, 1), m)
        gatherer.add(
            Step(t, level, level, level, torch.full((1, 1, 2, 2), float(t)), torch.zeros(1, 1, 2, 2))
        )
    found = gatherer.passage(2.0)
    assert found.end.tolist() == [[2]] and found.maps.unique().tolist() == [1.5]


@pytest.mark.parametrize(
    "changes", [{}, {"map": "single", "end_exclusive": True}, {"encoding": "ddpm", "chunk": 2}]
)
def test_memory_does_not_grow_with_the_steps(changes: dict[str, Any]) -> None:
    seen: list[int] = []

    class Watched(TwoTags):
        def __call__(self, x: Tensor, t: int | Tensor, e: Tensor) -> Tensor:
            first = int(t if isinstance(t, int) else t[0])
            if first in (11, 61):
                maps = (o for o in gc.get_objects() if type(o) is Tensor and o.shape[-2:] == (16, 16))
                seen.append(sum(o.numel() for o in maps))
            return super().__call__(x, t, e)

    world = two_tags()
    watched = Watched(world.background, world.lesion, world.sigma, world.schedule)
    made = method(watched, forward_steps=64, **changes)
    weights = (1.0, 2.0)
    made.sweep(study(world), 0, weights)
    assert len(seen) == 2 and seen[0] == seen[1] > 0


# one evaluation a step, all strengths from one pass, noise that belongs to a slice and a step


def test_a_step_takes_one_evaluation_of_both_conditions() -> None:
    world, batch = oracle(20.0, count=3)
    method(world, candidates=(1.0, 2.0, 3.0)).sweep(batch, 0, (1.0, 2.0, 3.0))
    assert world.calls == [6] * 40
    world.calls.clear()
    method(world, offset=1).predict(batch)  # the published slip inverts under the next step's label
    assert world.calls == [6] + [3, 6] * 39


@pytest.mark.parametrize("encoding", ["ddim", "ddpm"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_all_strengths_from_one_pass_are_what_each_would_be_alone(encoding: str, ratio: float) -> None:
    batch = Batch(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1, ("a", "b"))
    made = method(Bent(), encoding=encoding, forward_steps=8, end_ratio=ratio)
    weights = (0.0, 0.5, 2.0, 30.0)
    for w, found in zip(weights, made.sweep(batch, 3, weights), strict=True):
        alone = passage(replace(made, settings=replace(made.settings, guidance=w)), batch, 3)
        assert found.guidance == alone.guidance == w
        for name in ("m", "mse_h", "mse_0", "end", "maps", "similarity"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), name


@pytest.mark.parametrize("encoding", ["ddim", "ddpm"])
@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_what_is_read_off_one_walk_is_what_each_would_say_alone(encoding: str, ratio: float) -> None:
    world = Bent()
    batch = Batch(torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1, ("a", "b"))
    made = method(world, encoding=encoding, forward_steps=8, end_ratio=ratio, healthy_threshold=0.5)
    differ: list[dict[str, Any]] = [
        {},
        {"map": "single"},
        {"guidance": 3.0, "m_max": (0.5,)},
        {"guidance": 3.0, "healthy_threshold": 0.999999, "m_max": (0.01,)},
    ]
    assert {key for one in differ for key in one} == READ_OFF
    settings = [replace(made.settings, **one) for one in differ]
    for one, found in zip(settings, made.predict_all(batch, 3, settings), strict=True):
        alone = replace(made, settings=one).predict(batch, 3)
        for name in ("score_map", "threshold", "score", "present"):
            a, b = getattr(found, name), getattr(alone, name)
            assert (a is b is None) or torch.equal(a, b), name
    counted, slices = oracle(20.0, count=2)
    method(counted, forward_steps=8, end_ratio=ratio).predict_all(slices, 0, settings[:3])
    assert len(counted.calls) == (8 if ratio == 1 else 16), "one walk, or one more where t_e has to be known"


def test_steps_encoded_together_are_as_one_by_one() -> None:
    world = two_tags()
    batch = study(world, tags=(1, 0, 1, 1, 0))
    made = method(world, encoding="ddpm", forward_steps=20, chunk=1)
    reference = made.predict(batch, 4)
    for chunk in (2, 7, 100, None):
        found = replace(made, settings=replace(made.settings, chunk=chunk)).predict(batch, 4)
        assert torch.equal(found.score_map, reference.score_map) and torch.equal(found.score, reference.score)  # type: ignore[arg-type]
    alone = made.predict(Batch(batch.image[2:3], batch.ids[2:3]), 4)
    assert torch.equal(alone.score_map[0], reference.score_map[2])
    assert not torch.equal(made.predict(batch, 5).score_map, reference.score_map)


def test_the_deterministic_encoding_has_no_noise() -> None:
    world = two_tags()
    batch = study(world)
    maps = [
        method(world, start=start).predict(batch, seed).score_map
        for start in ("image", "noised")
        for seed in (0, 1)
    ]
    assert torch.equal(maps[0], maps[1]) and not torch.equal(maps[2], maps[3])


def test_only_the_modalities_named_are_looked_at() -> None:
    world = two_tags(channels=3)
    batch = study(world)
    everything = passage(method(world), batch)
    found = passage(method(world, modalities=(2, 0)), batch)
    assert torch.equal(found.maps, everything.maps[:, [2, 0]]) and torch.equal(
        found.end, everything.end[:, [2, 0]]
    )
    expected = everything.mse_h[:, :, [2, 0]]
    assert torch.equal(found.mse_h, expected)
    score = method(world, modalities=(2, 0)).predict(batch).score_map
    assert torch.allclose(score[:, 0], found.maps.mean(dim=1))
    with pytest.raises(ConfigError, match=r"modalities = \[1, 3\], but the slices have 3 channels"):
        method(world, modalities=(1, 3)).predict(batch)
