"""The bound by which a variance is learnt, against Bayes' rule and the divergence of two normals."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.objectives import StepNoise, denoise, variational_bound

SCHEDULE = NoiseSchedule.linear()


def posterior(x0: Tensor, x: Tensor, t: int) -> tuple[Tensor, float]:
    """Mean and variance of q(x_{t-1} | x_t, x_0): what is known of x_{t-1} from both sides, by their precisions."""
    a, before = (float(SCHEDULE.alpha_bar[i]) for i in (t, t - 1))
    alpha = a / before
    precision = 1 / (1 - before) + alpha / (1 - alpha)
    mean = (before**0.5 * x0 / (1 - before) + alpha**0.5 * x / (1 - alpha)) / precision
    return mean, 1 / precision


def noisy(t: int, off: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """Give x0 in [-1, 1], x_t, and an ε that is `off` standard deviations from the one that was added."""
    generator = torch.Generator().manual_seed(t)
    x0 = torch.rand(1, 2, 8, 8, generator=generator) * 2 - 1
    eps, error = torch.randn(2, 1, 2, 8, 8, generator=generator)
    return x0, SCHEDULE.add_noise(x0, torch.tensor([t]), eps), eps + off * error


@pytest.mark.parametrize("t", [2, 50, 300, 600, 900, 1000])
def test_it_is_the_divergence_between_the_true_step_back_and_the_networks(t: int) -> None:
    x0, x, eps = noisy(t)
    v = torch.full_like(x0, 0.25)
    a = float(SCHEDULE.alpha_bar[t])
    guess = (x - (1 - a) ** 0.5 * eps) / a**0.5
    assert t < 300 or guess.abs().max() > 1  # what clipping would change
    (true, narrow), (model, _) = posterior(x0, x, t), posterior(guess, x, t)
    beta = 1 - a / float(SCHEDULE.alpha_bar[t - 1])
    spread = math.exp(0.625 / 2 * math.log(beta) + 0.375 / 2 * math.log(narrow))
    wanted = kl_divergence(Normal(true, narrow**0.5), Normal(model, spread)).mean() / math.log(2)
    torch.testing.assert_close(
        variational_bound(SCHEDULE, x0, x, torch.tensor([t]), eps, v)[0], wanted, rtol=2e-3, atol=1e-7
    )


@pytest.mark.parametrize("t", [2, 500, 1000])
def test_nothing_is_lost_by_the_true_noise_and_the_posterior_variance(t: int) -> None:
    x0, x, eps = noisy(t, off=0.0)
    bound = variational_bound(SCHEDULE, x0, x, torch.tensor([t]), eps, torch.full_like(x0, -1.0))
    assert float(bound.abs().max()) < 1e-5


def test_the_bound_teaches_the_variance_alone() -> None:
    """Gradients of the noise are those of the squared error; a network without a variance has the same."""
    settings = DenoiserSettings(
        size=8, widths=(8,), blocks=1, attention=(), head_channels=8, classes=0, learn_sigma=True
    )
    torch.manual_seed(0)
    denoiser = Denoiser(settings)
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x0 = torch.rand(2, 1, 8, 8) * 2 - 1
    noise = StepNoise(torch.tensor([40, 700]), torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.bool))
    denoise(denoiser, SCHEDULE, x0, torch.zeros(2, dtype=torch.int64), noise).backward()  # type: ignore[no-untyped-call]
    last = list(denoiser.parameters())[-1].grad  # the bias of both channels out
    assert last is not None and last.shape == (2,) and last.abs().min() > 0
    x = SCHEDULE.add_noise(x0, noise.t, noise.eps)
    eps, _ = denoiser.eps_and_variance(x, noise.t, denoiser.embed(torch.zeros(2, dtype=torch.int64)))
    torch.testing.assert_close(last[0], 2 * (eps.detach() - noise.eps).mean(), rtol=1e-4, atol=1e-6)
