from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tagmask.diffusion.guidance import classifier_free_guidance, classifier_guidance
from tagmask.diffusion.schedule import NoiseSchedule, ScheduleSettings
from tagmask.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"

# ᾱ at the array index i = t - 1 of published code.
KNOWN = {
    ("linear", 1000): {
        99: 0.8970,
        200: 0.6563,
        300: 0.3940,
        399: 0.1951,
        400: 0.1936,
        500: 0.0778,
        600: 0.0256,
    },
    ("linear", 4000): {99: 0.9914, 399: 0.8965, 600: 0.7871},
    ("cosine", 1000): {99: 0.9721, 399: 0.6475, 500: 0.4923, 600: 0.3393},
    ("cosine", 4000): {99: 0.9975, 450: 0.9652, 600: 0.9406},
}


@pytest.mark.parametrize("kind,steps", KNOWN)
def test_alpha_bar_has_the_published_values(kind: str, steps: int) -> None:
    schedule = ScheduleSettings(kind, steps).build()
    for index, value in KNOWN[kind, steps].items():
        assert float(schedule.alpha_bar[index + 1]) == pytest.approx(value, abs=6e-5)
    assert schedule.alpha_bar[0] == 1 and schedule.steps == steps


def test_ddim_there_and_back_is_the_identity_for_a_constant_network() -> None:
    schedule, x = NoiseSchedule.linear(), torch.randn(2, 1, 8, 8)
    eps = torch.randn(2, 1, 8, 8)
    there = schedule.ddim(x, eps, 100, 350)
    assert torch.allclose(schedule.ddim(there, eps, 350, 100), x, atol=1e-5)
    assert not torch.allclose(there, x, atol=1e-2)


def test_clip_changes_eps_only_where_x0_leaves_the_range() -> None:
    schedule = NoiseSchedule.linear()
    x0 = torch.tensor([0.5, 1.5]).reshape(1, 1, 1, 2)
    eps = torch.full_like(x0, 0.3)
    x = schedule.add_noise(x0, 200, eps)
    clipped = schedule.clip(x, 200, eps)
    assert float(clipped[..., 0]) == pytest.approx(0.3, abs=1e-5)
    assert float(schedule.clean(x, 200, clipped)[..., 1]) == pytest.approx(1.0, abs=1e-5)


def test_steps_may_differ_within_a_batch() -> None:
    schedule, x, noise = NoiseSchedule.cosine(), torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    together = schedule.add_noise(x, torch.tensor([1, 400, 1000]), noise)
    for i, t in enumerate((1, 400, 1000)):
        assert torch.equal(together[i], schedule.add_noise(x[i : i + 1], t, noise[i : i + 1])[0])


def test_ddpm_step_equals_diffusers() -> None:
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(variance_type="fixed_large", clip_sample=False)
    x, eps = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    step = theirs.step(eps, 249, x, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(NoiseSchedule.linear().ddpm(x, eps, 250, 249, noise), step.prev_sample, atol=1e-5)


def test_ddim_equals_diffusers() -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(clip_sample=False, set_alpha_to_one=True)
    theirs.set_timesteps(1000)
    x, eps = torch.randn(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    step = theirs.step(eps, 249, x).prev_sample
    assert torch.allclose(NoiseSchedule.linear().ddim(x, eps, 250, 249), step, atol=1e-5)


@pytest.mark.parametrize("i", [0, 1, 50, 399, 998])
@pytest.mark.parametrize("clip", [0, 1])
def test_one_step_equals_the_published_code(i: int, clip: int) -> None:
    golden = np.load(GOLDEN / "steps.npz")
    x, eps, grad = (torch.from_numpy(golden[k]) for k in ("x", "eps", "grad"))
    schedule, t = NoiseSchedule.linear(), i + 1

    def equal(ours: torch.Tensor, key: str) -> None:
        theirs = torch.from_numpy(golden[key])
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max())), key

    used = schedule.clip(x, t, eps) if clip else eps
    equal(schedule.clean(x, t, used), f"x0hat_i{i}_clip{clip}")
    equal(schedule.ddim(x, used, t, t - 1), f"ddim_i{i}_clip{clip}")
    equal(schedule.ddim(x, used, t, t + 1), f"ddim_invert_i{i}_clip{clip}")
    equal(schedule.add_noise(x, t, eps), f"qsample_i{i}")
    equal(schedule.ddpm(x, used, t, t - 1, torch.zeros_like(x)), f"ddpm_mean_i{i}_clip{clip}")
    # The published guided step takes the gradient as it stands, scale included.
    equal(
        schedule.ddim(x, classifier_guidance(used, grad, t, 1.0, schedule), t, t - 1),
        f"ddim_guided_i{i}_clip{clip}",
    )


def test_guidance_formulas() -> None:
    schedule, eps, other = NoiseSchedule.linear(), torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert torch.equal(classifier_guidance(eps, other, 10, 5.0, schedule), eps)
    assert torch.equal(classifier_free_guidance(eps, other, -1.0), other)
    assert torch.equal(classifier_free_guidance(eps, other, 0.0), eps)


@pytest.mark.parametrize(("kind", "least"), [("linear", 21), ("cosine", 2)])
def test_a_schedule_too_short_for_its_betas_is_refused(kind: Literal["linear", "cosine"], least: int) -> None:
    with pytest.raises(ConfigError, match=f"steps = {least - 1}, .*at least {least}"):
        ScheduleSettings(kind, least - 1)
    alpha_bar = ScheduleSettings(kind, least).build().alpha_bar
    assert (alpha_bar.diff() < 0).all() and alpha_bar[-1] > 0


def test_steps_left_out_make_the_chain_of_those_that_stay() -> None:
    whole, kept = NoiseSchedule.linear(), [0, 10, 40, 90, 160, 250]
    thin = NoiseSchedule(whole.alpha_bar[kept])
    x, eps, noise = (torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    for k in range(1, len(kept)):
        found = whole.ddpm(x, eps, kept[k], kept[k - 1], noise)
        torch.testing.assert_close(found, thin.ddpm(x, eps, k, k - 1, noise))
    torch.testing.assert_close(
        whole.ddpm(x, eps, 10, 0, noise), whole.clean(x, 10, eps)
    )  # no noise at the end
