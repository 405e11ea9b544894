from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.methods.anofpdm import AnoFPDM, AnoFPDMSettings
from tagmask.types import Batch
from tests.anofpdm_worlds import SCHEDULE, method, oracle, passage, study, two_tags

GOLDEN = Path(__file__).parents[1] / "golden"

# against the published code


def test_the_published_settings_reproduce_the_published_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(GOLDEN / "anofpdm_published.npz", allow_pickle=False) as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}

    class Toy:  # written down in golden/README.md; i = t - 1
        def embed(self, y: int | None) -> Tensor:
            return torch.tensor([[0.0 if y is None else 1.0]])

        def __call__(self, x: Tensor, t: int, e: Tensor) -> Tensor:
            i, bump = t - 1, golden["bump"].repeat(len(x) // 3, 1, 1, 1)
            null = 0.8 * x * np.tanh(i / 300) + 0.1 * np.sin(i / 50)
            return null + e[:, :, None, None] * 0.5 * bump * np.exp(-(((i - 120) / 80) ** 2))

    monkeypatch.setattr("tagmask.methods.anofpdm.gaussian", lambda *_: golden["noise0"])
    steps = int(golden["steps"])
    settings = AnoFPDMSettings.published(guidance=float(golden["w"]), forward_steps=steps)
    batch = Batch(golden["x0"], ("a", "b", "c"))

    def curves(**changes: Any) -> list[Tensor]:
        found = passage(AnoFPDM(Toy(), NoiseSchedule.linear(), replace(settings, **changes)), batch)  # type: ignore[arg-type]
        return [found.m, found.mse_h, found.mse_0]

    def close(ours: list[Tensor]) -> bool:
        theirs = [golden[key] for key in ("m_t", "mse_h", "mse_0")]
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(ours, theirs, strict=True))

    assert close(curves())
    # Each deviation is needed: none of the settings does nothing.
    for change in ({"offset": 0}, {"ugp": "null"}, {"clip": False}, {"start": "image"}):
        assert not close(curves(**change)), change

    made = AnoFPDM(Toy(), NoiseSchedule.linear(), settings)  # type: ignore[arg-type]
    for (step,) in made.trace(batch):
        if step.t % 5 == 1:  # the arrays keep every fifth index
            hgp, ugp = golden["xstart"][:, step.t // 5], golden["xstart_null"][:, step.t // 5]
            assert torch.allclose(step.sam, (hgp - batch.image) ** 2, atol=1e-4)
            assert torch.allclose(step.shift, hgp - ugp, atol=1e-4)
    # The map leaves out the SAM at the first maximum of M, as a Python slice does.
    sams = torch.stack([step.sam for (step,) in made.trace(batch)], dim=1)
    found = passage(made, batch)
    for b in range(3):
        for c in range(2):
            i = int(golden["m_t"][b, :, c].argmax())
            assert int(found.end[b, c]) == i + 1
            assert torch.allclose(found.maps[b, c], sams[b, :i, c].mean(dim=0), rtol=1e-4)


# against closed forms


@pytest.mark.parametrize("peaks", [(25.0, 9.0), (1.0, 40.0), (-5.0, 60.0)])
def test_every_modality_ends_where_its_divergence_is_largest(peaks: tuple[float, float]) -> None:
    world, batch = oracle(*peaks)
    found = passage(method(world, guidance=2.0), batch)
    expected = [min(max(round(p), 1), 40) for p in peaks]
    assert found.end.tolist() == [expected] * 2
    for c, end in enumerate(expected):
        weight = np.mean([float(world.rate(t)[c]) ** 2 for t in range(1, end + 1)])
        assert torch.allclose(found.maps[0, c], 9 * world.bump[c] ** 2 * weight, rtol=1e-3, atol=1e-7)
        height = 9 * world.bump[c].square().mean() * world.rate(end)[c].square()
        assert torch.allclose(found.peak[:, c], height.flatten(), rtol=1e-3)


@pytest.mark.parametrize(
    ("exclusive", "ratio", "lasts"),
    [(False, 1.0, (26, 9, 1)), (True, 1.0, (25, 8, 0)), (False, 0.5, (13, 4, 1)), (True, 0.5, (12, 4, 0)),
     (False, 4.0, (40, 36, 4)), (True, 4.0, (40, 32, 0))],
)  # fmt: skip
@pytest.mark.parametrize("single", [False, True])
def test_where_aggregation_ends(exclusive: bool, ratio: float, lasts: tuple[int, ...], single: bool) -> None:
    """Up to the ratio of t_e, or of the step before it; where that leaves nothing the map is 0."""
    world, batch = oracle(26.0, 9.0, 1.0)
    kind = "single" if single else "aggregated"
    found = passage(method(world, map=kind, end_exclusive=exclusive, end_ratio=ratio), batch)
    assert found.end.tolist() == [[26, 9, 1]] * 2
    for c, last in enumerate(lasts):
        steps = [last] if single and last else range(1, last + 1)
        weight = np.mean([float(world.rate(t)[c]) ** 2 for t in steps]) if last else 0.0
        assert torch.allclose(found.maps[1, c], 9 * world.bump[c] ** 2 * weight, rtol=2e-3, atol=1e-6)


def test_the_divergence_is_the_weighted_difference_of_the_noises() -> None:
    """X^h - X^0 = -(1 + w) √(1 - ᾱ) / √ᾱ (ε_h - ε_∅), so that M and the gradient as SAM follow from it."""
    world = two_tags(channels=2)
    batch = study(world)
    made = method(world, guidance=3.0, clip=False, sam="plain")
    weighted = method(world, guidance=3.0, clip=False, sam="weighted").trace(batch)
    for (step,), (other,), (t, x, e_h, e_0) in zip(
        made.trace(batch), weighted, made._encode(batch, 0), strict=True
    ):
        signal, sigma = SCHEDULE.signal_noise(t, x)
        expected = -4 * sigma / signal * (e_h - e_0)
        assert step.t == t and torch.allclose(step.shift, expected, atol=2e-5)
        gradient = -(e_h - e_0) / sigma  # ∇ log p(h | x_t)
        assert torch.allclose(step.sam, gradient**2, atol=1e-2 * float(gradient.square().amax()))
        assert torch.equal(other.sam, other.shift**2)
        assert torch.allclose(step.m, expected.square().mean(dim=(2, 3)), rtol=1e-3, atol=1e-9)
    ratio = step.sam / other.sam
    inside = world.lesion.bool().expand(3, -1, -1, -1)
    b_t = float(sigma**2 / signal)
    assert torch.allclose(ratio[:1][inside[:1]], torch.tensor((4 * b_t) ** -2), rtol=1e-3)


def test_without_guidance_the_two_predictions_differ_by_the_condition_alone() -> None:
    world = two_tags()
    batch = study(world)
    (null,) = next(method(world).trace(batch, weights=[-1.0]))  # e_w = ε_∅
    assert float(null.m.max()) == 0 and torch.equal(null.mse_h, null.mse_0)


@pytest.mark.parametrize("encoding", ["ddim", "ddpm"])
def test_in_a_world_of_two_tags_the_lesion_is_found(encoding: str) -> None:
    world = two_tags()
    batch = study(world, tags=(1, 0, 1, 0))
    made = method(world, encoding=encoding, forward_steps=60, stride=5, healthy_threshold=0.99)
    found = made.predict(batch)
    inside = world.lesion.bool()[0]
    for i in (0, 2):
        score = found.score_map[i, 0]
        assert float(score[inside].min()) > 5 * float(score[~inside].max())
    if encoding == "ddim":
        assert found.present is not None and found.score is not None
        assert found.present.tolist() == [True, False, True, False]
        assert float(found.score[1::2].max()) < 1e-3 < 1e-2 < float(found.score[::2].min())


def test_a_slice_that_nothing_changes() -> None:
    """A constant image of a world without lesions: a flat map, a threshold on it, and a healthy slice."""
    world, batch = oracle(20.0)
    world.bump.zero_()
    flat = replace(batch, image=torch.full_like(batch.image, 0.25))
    world.x0 = flat.image
    found = method(world, m_max=(1.0,), healthy_threshold=0.5).predict(flat)
    assert found.score_map.isfinite().all() and float(found.score_map.amax()) < 1e-10
    assert (
        found.threshold is not None
        and not (found.score_map > found.threshold[:, None, None, None] + 1e-12).any()
    )
    exact = replace(passage(method(world), flat), mse_h=torch.zeros(2, 5, 1), mse_0=torch.zeros(2, 5, 1))
    assert exact.similarity.tolist() == [1.0, 1.0]  # no error in either: no difference
    one_sided = replace(exact, mse_h=torch.ones(2, 5, 1))
    assert one_sided.similarity.tolist() == [0.0, 0.0]


def test_similarity_is_the_cosine_of_the_mean_curves() -> None:
    world = two_tags(channels=2)
    found = passage(method(world), study(world))
    u, v = found.mse_h.mean(dim=2), found.mse_0.mean(dim=2)
    expected = torch.nn.functional.cosine_similarity(u.double(), v.double(), dim=1, eps=0)
    assert torch.allclose(found.similarity, expected) and float(found.similarity.min()) < 0.999


def test_a_broken_network_shows_itself() -> None:
    world, batch = oracle(20.0)
    world.bump.fill_(torch.nan)
    assert method(world).predict(batch).score_map.isnan().all()


def test_the_quantile_falls_as_the_divergence_rises() -> None:
    made = method(oracle(9.0)[0], m_max=(2.0, 4.0))
    peak = torch.tensor([[0.0, 0.0], [2.0, 4.0], [1.0, 4e9], [0.029, 0.1]])
    expected = torch.tensor([[0.98, 0.98], [0.90, 0.90], [0.94, 0.90], [0.9792, 0.978]])
    found = made.quantile(peak)
    expected[3, 0] = 0.98 - 0.0008  # round(1.45) = 1
    expected[3, 1] = 0.98 - 2 * 0.0008  # round(2.5): halves go to the even number
    assert torch.allclose(found, expected, atol=1e-6)
    with pytest.raises(ConfigError, match="m_max has 2 values, but 1 modalities"):
        made.quantile(peak[:, :1])


def test_truncation_repeats_the_published_slip() -> None:
    share = torch.arange(101)[:, None] / 100
    rounded = method(oracle(9.0)[0], m_max=(1.0,)).quantile(share)
    cut = method(oracle(9.0)[0], m_max=(1.0,), quantile_index="truncate").quantile(share)
    assert torch.equal(rounded[:, 0], torch.linspace(0.98, 0.90, 101))
    assert (cut != rounded)[:, 0].nonzero()[:, 0].tolist() == [53, 59]
    assert torch.equal(cut[[53, 59]], rounded[[52, 58]])


def test_the_threshold_is_the_quantile_of_the_unfiltered_map() -> None:
    world = two_tags(channels=2)
    batch = study(world)
    made = method(world, m_max=(0.05, 0.5), forward_steps=120, stride=10)
    found, seen = made.predict(batch), passage(made, batch)
    q = made.quantile(seen.peak)
    assert len(q.unique()) > 2
    expected = [
        np.mean([np.quantile(seen.maps[b, c].numpy(), float(q[b, c])) for c in (0, 1)]) for b in range(3)
    ]
    assert found.threshold is not None and np.allclose(found.threshold, expected, rtol=1e-4)
    assert made.predict(Batch(batch.image[1:2], batch.ids[1:2])).threshold == pytest.approx(
        expected[1], rel=1e-4
    )


def test_the_quantile_can_be_counted_over_the_foreground() -> None:
    world = two_tags()
    batch = study(world)
    image = batch.image.clone()
    image[0, :, 10:] = -1.0
    image[2] = -1.0  # nothing but background: all of it counts
    batch = replace(batch, image=image)
    made = method(world, m_max=(0.5,), quantile_domain="foreground")
    whole, found = method(world, m_max=(0.5,)).predict(batch), made.predict(batch)
    assert found.threshold is not None and whole.threshold is not None
    q = made.quantile(passage(made, batch).peak)
    expected = torch.quantile(found.score_map[0, 0, :10], q[0, 0])
    assert torch.allclose(found.threshold[0], expected) and found.threshold[0] != whole.threshold[0]
    assert torch.equal(found.threshold[2], whole.threshold[2])


def test_what_tags_have_not_chosen_is_left_open() -> None:
    world = two_tags()
    found = method(world).predict(study(world))
    assert found.threshold is None and found.present is None and found.score is not None
    score = float(found.score[0])
    for threshold, present in ((1 - score + 1e-6, True), (1 - score - 1e-6, False)):
        judged = method(world, healthy_threshold=threshold).predict(study(world))
        assert judged.present is not None and bool(judged.present[0]) == present
