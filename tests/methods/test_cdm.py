from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.masks import MaskSettings, binarise
from tagmask.methods.cdm import CDM, CDMSettings
from tagmask.types import Batch
from tests.published import published_classifier, published_denoiser
from tests.worlds import GaussianWorld, square_world


def study(world: GaussianWorld, count: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(5)
    shape = (count, *world.lesion.shape)
    image = world.mean(torch.ones(count, 1)) + world.sigma * torch.randn(shape, generator=generator)
    return Batch(image, tuple(f"s/{i}" for i in range(count)))


def method(world: GaussianWorld, *, guided: bool = False, **settings: object) -> CDM:
    classifier = world.logits if guided else None
    return CDM(world, world.schedule, classifier, CDMSettings(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("guided", [False, True])
def test_in_a_gaussian_world_the_map_is_the_lesion(guided: bool) -> None:
    world = square_world()
    maps = method(world, guided=guided, scale=1.0).predict(study(world)).score_map
    inside = world.lesion.bool().expand(3, -1, -1, -1)
    assert maps.shape == (3, 1, 16, 16)
    assert float(maps[inside].min()) > 0
    assert float(maps[~inside].abs().max()) < 1e-4 * float(maps[inside].min())
    if not guided:  # the same number on every pixel of the lesion
        assert float(maps[inside].std()) < 1e-3 * float(maps[inside].mean())


@pytest.mark.parametrize("change", [{"tau": 0.0}, {"tau": 0.5}, {"tau_convention": "formula"}, {"draws": 3}])
def test_in_a_linear_world_tau_and_noise_do_not_matter(change: dict[str, object]) -> None:
    world = square_world()
    reference = method(world).predict(study(world)).score_map
    assert torch.allclose(method(world, **change).predict(study(world)).score_map, reference, atol=2e-4)


def test_a_dark_target_needs_its_sign() -> None:
    world = square_world(contrast=-0.8)
    inside = world.lesion.bool().expand(3, -1, -1, -1)
    assert float(method(world).predict(study(world)).score_map[inside].max()) < 0
    for sign in ("negative", "absolute"):
        maps = method(world, sign=sign).predict(study(world)).score_map
        assert float(maps[inside].min()) > 0 and float(maps[~inside].abs().max()) < 1e-4


def test_equal_conditions_give_an_empty_map() -> None:
    world = square_world(contrast=0.0)
    assert float(method(world).predict(study(world)).score_map.abs().max()) < 1e-4


def test_one_walk_serves_every_smaller_number_of_stages() -> None:
    world = square_world()
    batch = study(world)
    long = list(method(world, stages=7).walk(batch, gaussian(batch, 0)))
    for stages in (1, 4, 7):
        short = method(world, stages=stages).predict(batch, 0).score_map
        assert torch.equal(short, long[stages - 1])


def test_each_map_can_be_scaled_by_itself_which_otsu_does_not_mind() -> None:
    world = square_world()
    batch = study(world)
    plain = method(world, draws=2).predict(batch).score_map
    scaled = method(world, draws=2, min_max=True).predict(batch).score_map
    assert scaled.amin(dim=(1, 2, 3)).tolist() == [0, 0, 0] and scaled.amax(dim=(1, 2, 3)).tolist() == [
        1,
        1,
        1,
    ]
    low, high = plain.amin(dim=(1, 2, 3), keepdim=True), plain.amax(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(low + scaled * (high - low), plain)
    masks = [binarise(m, batch.image, MaskSettings()).mask for m in (plain, scaled)]
    assert torch.equal(*masks) and masks[0].any()
    flat = torch.zeros(2, 1, 4, 4)
    assert torch.equal(
        method(world, min_max=True).mean([flat]).score_map, flat
    )  # a map without contrast stays so


def test_channels_are_summed() -> None:
    one, two = square_world(channels=1), square_world(channels=2)
    single = method(one).predict(study(one)).score_map
    double = method(two).predict(study(two)).score_map
    assert double.shape == single.shape
    assert torch.allclose(double.amax(), 2 * single.amax(), rtol=1e-3)


def test_the_published_offset_and_clipping_change_the_map() -> None:
    world = square_world()
    # Bend the denoiser, or clipping and offset would cancel in the difference.
    world = replace(world, sigma=0.9)
    reference = method(world).predict(study(world)).score_map
    for change in ({"clip": True}, {"offset": 1}):
        changed = method(world, **change).predict(study(world)).score_map
        if change.get("clip"):
            assert not torch.allclose(changed, reference, rtol=1e-3)
        assert torch.isfinite(changed).all()


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"stages": 0}, "stages = 0"),
        ({"stages": 500}, "stages = 500"),
        ({"tau": 0.0, "tau_convention": "formula"}, "tau = 0.0, but 0 < tau <= 1"),
        ({"tau": 1.0}, "tau = 1.0"),
        ({"scale": -1.0}, "scale = -1.0"),
        ({"draws": 0}, "draws = 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CDMSettings(**settings)  # type: ignore[arg-type]


def test_a_noise_level_beyond_the_schedule_is_refused() -> None:
    world = square_world()
    with pytest.raises(ConfigError, match="1000 steps"):
        method(world, noise_level=1001)


@pytest.mark.parametrize("guided", [0, 1])
@pytest.mark.parametrize("clip", [0, 1])
@pytest.mark.parametrize("offset", [0, 1])
def test_maps_equal_the_published_code(shared: Path, guided: int, clip: int, offset: int) -> None:
    golden = np.load(shared / "golden" / "cdm.npz")
    image, noise = torch.from_numpy(golden["image"]), torch.from_numpy(golden["noise"])
    kappa = float(golden["kappa"])
    settings = CDMSettings(
        noise_level=int(golden["Q"]), stages=int(golden["R"]), tau=kappa, scale=float(golden["scale"]),
        clip=bool(clip), offset=offset,
    )  # fmt: skip
    classifier = published_classifier(shared) if guided else None
    cdm = CDM(published_denoiser(shared), NoiseSchedule.linear(), classifier, settings)
    ours = torch.stack(list(cdm.walk(Batch(image, ("a", "b")), noise))) * (1 - kappa)
    theirs = torch.from_numpy(golden[f"map_guided{guided}_clip{clip}_offset{offset}"])
    # Two walks of order 1 that nearly cancel: float32 leaves about 3 of its 7 digits.
    assert float((ours - theirs).abs().max()) < 3e-3 * float(theirs.abs().max())
    assert float((ours - theirs).abs().max()) < 1e-4
