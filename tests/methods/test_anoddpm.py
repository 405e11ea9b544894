from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.simplex import simplex
from tagmask.errors import ConfigError
from tagmask.methods.anoddpm import AnoDDPM, AnoDDPMSettings
from tagmask.types import Batch
from tests.mixture import MixtureWorld, mixture, slices


def method(world: MixtureWorld, **settings: Any) -> AnoDDPM:
    defaults = {"noise_level": 40, "clip": False}
    return AnoDDPM(world, world.schedule, AnoDDPMSettings(**{**defaults, **settings}))  # type: ignore[arg-type]


def sharp(channels: int = 1) -> MixtureWorld:
    """Healthy slices are all but equal, so the reconstruction of any slice is that one."""
    world = mixture(channels=channels, contrast=0.8)
    world.sigma = 0.01
    return world


def test_a_network_of_healthy_slices_leaves_the_lesion_out() -> None:
    world = sharp()
    batch, inside = slices(world), world.lesion.bool().expand(3, -1, -1, -1)
    maps = method(world).predict(batch).score_map
    assert maps.shape == (3, 1, 16, 16)
    assert torch.allclose(maps[inside], torch.tensor(0.8**2), atol=0.15)
    assert float(maps[~inside].max()) < 0.005
    assert float(method(world).predict(slices(world, label=0)).score_map.max()) < 0.005


def test_the_reconstruction_has_the_spread_of_the_exact_posterior() -> None:
    """Ancestral sampling draws x_0 given x_λ: mean and variance of a product of two Gaussians."""
    world = mixture(size=32)
    batch, level = slices(world, 4, label=0), 40
    draws = torch.stack([method(world, noise_level=level).reconstruct(batch, seed) for seed in range(6)])
    a, v = float(world.schedule.alpha_bar[level]), world.sigma**2
    posterior = v * (1 - a) / (a * v + 1 - a)
    # Over draws of x_λ too: the mean of x_0 given x_λ moves with the noise.
    moved = (a * v / (a * v + 1 - a)) ** 2 * (1 - a) / a
    assert float(draws.var(dim=0).mean()) == pytest.approx(posterior + moved, rel=0.05)


def test_noise_is_drawn_for_each_slice_and_step() -> None:
    world = mixture()
    batch = slices(world)
    for noise in ("gaussian", "simplex"):
        made = method(world, noise_level=5, noise=noise)
        whole = made.reconstruct(batch, 3)
        assert torch.equal(made.reconstruct(batch, 3), whole)
        alone = made.reconstruct(Batch(batch.image[1:2], batch.ids[1:2]), 3)
        assert torch.allclose(alone, whole[1:2], atol=1e-6)
        assert not torch.allclose(made.reconstruct(batch, 4), whole, atol=1e-2)


def test_steps_are_left_out_with_a_stride() -> None:
    world = sharp()
    batch = slices(world)
    asked: list[int] = []
    whole = method(world, noise_level=100).predict(batch).score_map

    class Counted(type(world)):  # type: ignore[misc]
        def __call__(self, x: Tensor, t: int, e: Tensor) -> Tensor:
            asked.append(t)
            return super().__call__(x, t, e)

    world.__class__ = Counted
    strided = method(world, noise_level=100, stride=25).predict(batch).score_map
    assert asked == [100, 75, 50, 25]
    inside = world.lesion.bool().expand(3, -1, -1, -1)
    assert float((strided[inside].mean() - whole[inside].mean()).abs()) < 0.1
    assert float(strided[~inside].max()) < 0.05


@pytest.mark.parametrize("noise", ["gaussian", "simplex"])
@pytest.mark.parametrize("back", [None, "gaussian", "simplex"])
def test_the_kind_of_noise_on_the_way_up_and_down(noise: str, back: str | None) -> None:
    world = mixture()
    batch, schedule, e = slices(world), world.schedule, world.embed(0)

    def draw(kind: str, t: int, number: int) -> Tensor:
        return simplex(batch, 7, number, t=t) if kind == "simplex" else gaussian(batch, 7, number)

    x = schedule.add_noise(batch.image, 3, draw(noise, 3, 0))
    for t in (3, 2):
        x = schedule.ddpm(x, world(x, t, e), t, t - 1, draw(back or noise, t, t))
    expected = schedule.clean(x, 1, world(x, 1, e))  # the last step adds none
    found = method(world, noise_level=3, noise=noise, reverse_noise=back).reconstruct(batch, 7)
    assert torch.allclose(found, expected, atol=1e-5)


def test_clipping_keeps_within_1() -> None:
    world = mixture()
    batch = Batch(slices(world).image + 3, ("a", "b", "c"))
    world.background += 3
    plain, clipped = (method(world, noise_level=20, clip=c).reconstruct(batch) for c in (False, True))
    assert float(plain.max()) > 2 and float(clipped.abs().max()) < 1 + 1e-4


def test_channels_are_averaged_or_left_out() -> None:
    world = sharp(channels=2)
    world.lesion[0] = 0
    batch = slices(world)
    both, first, second = (method(world, modalities=m).predict(batch).score_map for m in (None, (0,), (1,)))
    assert torch.allclose(both, (first + second) / 2)
    assert float(first.max()) < 0.005 and float(second.max()) > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_level": 0}, "noise_level = 0"),
        ({"stride": 0}, "stride = 0"),
        ({"stride": 251}, "stride = 251"),
        ({"modalities": ()}, "modalities"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AnoDDPMSettings(**settings)


def test_a_noise_level_beyond_the_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="250 steps"):
        method(mixture(), noise_level=251)
