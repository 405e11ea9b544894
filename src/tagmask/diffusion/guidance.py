"""Ways to steer a predicted noise towards a label."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule

__all__ = ["classifier_free_guidance", "classifier_guidance", "label_gradient"]

LogitsOf = Callable[[Tensor, int], Tensor]


def label_gradient(classifier: LogitsOf, x: Tensor, t: int, y: Tensor) -> Tensor:
    """∇_x log p(y | x_t) for every member of a batch, in one backward pass.

    Members do not see each other (no batch statistics), so the gradient of the summed log-probabilities
    is the gradient of each.

    Parameters
    ----------
    classifier
        Maps (B, C, S, S) at step t to (B, 2) logits.
    x : (B, C, S, S) float32
    y : (B,) int64
    """
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        log_p = F.log_softmax(classifier(x, t).float(), dim=1)
        return torch.autograd.grad(log_p.gather(1, y[:, None]).sum(), x)[0]


def classifier_guidance(
    eps: Tensor, gradient: Tensor, t: int, scale: float, schedule: NoiseSchedule
) -> Tensor:
    """ε̂ = ε - s √(1 - ᾱ_t) ∇ log p(y | x_t) (Dhariwal & Nichol 2021, Alg. 2, arXiv:2105.05233)."""
    _, sigma = schedule.signal_noise(t, eps)
    return eps - scale * sigma * gradient


def classifier_free_guidance(conditional: Tensor, null: Tensor, weight: float) -> Tensor:
    """(1 + w) ε_y - w ε_∅ (Ho & Salimans 2022, Eq. 6, arXiv:2207.12598)."""
    return (1 + weight) * conditional - weight * null
