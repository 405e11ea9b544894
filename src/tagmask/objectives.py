"""The losses, one function each: of a network and a batch, or, for mask learners, of logits and masks.

All randomness arrives as an argument, so that a step is a function of its number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.networks.classifier import Classifier
from tagmask.networks.cnn import CNN
from tagmask.networks.denoiser import Denoiser

__all__ = ["StepNoise", "classify", "classify_clean", "denoise", "segment", "variational_bound"]


@dataclass(frozen=True)
class StepNoise:
    """The randomness of one step, one entry a slice.

    Parameters
    ----------
    t : (B,) int64
        Steps 1 ... T.
    eps : (B, C, S, S) float32
        The noise that is added: standard normal, or simplex where the training says so.
    drop : (B,) bool
        Slices whose label is hidden, so that one network serves conditional and unconditional use.
    """

    t: Tensor
    eps: Tensor
    drop: Tensor


def denoise(
    denoiser: Denoiser, schedule: NoiseSchedule, image: Tensor, label: Tensor, noise: StepNoise
) -> Tensor:
    """Mean of (ε - ε_θ(x_t, t, y))², with a learnt variance its bound besides (Nichol & Dhariwal 2021, Eq. 16).

    Parameters
    ----------
    image : (B, C, S, S) float32 in [-1, 1]
    label : (B,) int64

    Returns
    -------
    Tensor : () float32
    """
    x = schedule.add_noise(image, noise.t, noise.eps)
    y = torch.where(noise.drop, denoiser.settings.classes, label)  # the row after the classes is "no label"
    eps, v = denoiser.eps_and_variance(x, noise.t, denoiser.embed(y))
    loss = F.mse_loss(eps.float(), noise.eps)
    if v is not None:
        loss = loss + variational_bound(schedule, image, x, noise.t, eps.detach().float(), v.float()).mean()
    return loss


def variational_bound(
    schedule: NoiseSchedule, x0: Tensor, x: Tensor, t: Tensor, eps: Tensor, v: Tensor
) -> Tensor:
    """L_vlb of one step in bits a pixel, for the variance interpolated by v (Nichol & Dhariwal 2021, Eq. 15).

    For t > 1 the divergence between q(x_{t-1} | x_t, x_0) and p_θ(x_{t-1} | x_t); for t = 1 the negative
    log-likelihood of 8-bit pixels.

    Parameters
    ----------
    x0, x, eps, v : (B, C, S, S) float32
        v in [-1, 1]: -1 is the posterior variance, 1 is β_t.
    t : (B,) int64

    Returns
    -------
    Tensor : (B,) float32
    """
    a, before = (schedule.alpha_bar[i.cpu()].reshape(-1, 1, 1, 1).to(x) for i in (t, t - 1))
    beta = 1 - a / before
    # At t = 1 the posterior variance is 0; its logarithm is taken from t = 2, as the published code does.
    a2, b2 = schedule.alpha_bar[2], schedule.alpha_bar[1]
    floor = ((1 - a2 / b2) * (1 - b2) / (1 - a2)).to(x)
    posterior = torch.where(t.reshape(-1, 1, 1, 1) > 1, beta * (1 - before) / (1 - a), floor)

    def mean(clean: Tensor) -> Tensor:
        return beta * before.sqrt() / (1 - a) * clean + (1 - before) * (1 - beta).sqrt() / (1 - a) * x

    share = (v + 1) / 2
    log_model = share * beta.log() + (1 - share) * posterior.log()
    true, model = mean(x0), mean(schedule.clean(x, t, eps))  # not clipped, as the published code trains
    divergence = 0.5 * (
        log_model - posterior.log() - 1 + (posterior.log() - log_model).exp()
        + (true - model) ** 2 * (-log_model).exp()
    )  # fmt: skip
    decoder = -_log_likelihood(x0, model, (0.5 * log_model).exp())
    terms = torch.where(t.reshape(-1, 1, 1, 1) > 1, divergence, decoder)
    return terms.flatten(1).mean(dim=1) / math.log(2)


def _log_likelihood(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """Log-probability of the 8-bit bin around x in [-1, 1] under N(mean, sigma²)."""
    upper = torch.special.ndtr((x - mean + 1 / 255) / sigma)
    lower = torch.special.ndtr((x - mean - 1 / 255) / sigma)
    inside = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    return inside.clamp(min=1e-12).log()


def classify(
    classifier: Classifier, schedule: NoiseSchedule, image: Tensor, label: Tensor, noise: StepNoise
) -> Tensor:
    """Cross-entropy of the tag, seen through noise of every level (Dhariwal & Nichol 2021, Sect. 4.1)."""
    x = schedule.add_noise(image, noise.t, noise.eps)
    return F.cross_entropy(classifier(x, noise.t).float(), label)


def classify_clean(cnn: CNN, image: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the tag, seen on the clean image."""
    return F.cross_entropy(cnn(image).float(), label)


def segment(
    logits: Tensor, mask: Tensor, *, cross_entropy: float = 1.0, dice: float = 1.0, per_image: bool = False
) -> Tensor:
    """Binary cross-entropy and one minus the Dice of the probabilities, weighted; reads masks.

    Parameters
    ----------
    logits : (B, 1, S, S) float
        What a mask learner says.
    mask : (B, 1, S, S) float32 in {0, 1}
    cross_entropy, dice
        The weights.
    per_image
        Take the Dice of each image and their mean; else that of all pixels together.
    """
    logits = logits.float()
    p = logits.sigmoid()
    pixels = (1, 2, 3) if per_image else (0, 1, 2, 3)
    overlap = (2 * (p * mask).sum(pixels) + 1) / (p.sum(pixels) + mask.sum(pixels) + 1)
    return cross_entropy * F.binary_cross_entropy_with_logits(logits, mask) + dice * (1 - overlap.mean())
