"""Pictures that a denoiser makes of noise: whether it has learnt the two tags can be seen in them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.diffusion.simplex import NoiseKind, noise_like
from tagmask.networks.denoiser import Denoiser
from tagmask.seeds import keyed

__all__ = ["draw_samples"]

COLUMNS = 6
STEPS = 25


@torch.no_grad()
def draw_samples(
    denoiser: Denoiser, schedule: NoiseSchedule, noise: NoiseKind, seed: int, device: torch.device | str
) -> np.ndarray:
    """Walk the same noise down under each condition, 25 steps: one row a condition.

    Returns
    -------
    ndarray : (K S, 6 S) or (K S, 6 S, 3) uint8
        K = 2 tags, or 1 for an unconditional denoiser. Three channels are shown in colour, of others the first.
    """
    size, channels = denoiser.settings.size, denoiser.settings.channels
    tags = range(denoiser.settings.classes or 1)
    last, blank = torch.full((COLUMNS,), schedule.steps), torch.zeros(COLUMNS, channels, size, size)
    start = noise_like(blank, last, noise, keyed(seed, "samples"))
    x = start.repeat(len(tags), 1, 1, 1).to(device)
    e = torch.cat([denoiser.embed(tag).expand(COLUMNS, -1) for tag in tags])
    for t, s in pairwise(torch.linspace(schedule.steps, 0, STEPS + 1).round().int().tolist()):
        x = schedule.ddim(x, schedule.clip(x, t, denoiser(x, t, e)), t, s)
    shown = x if channels == 3 else x[:, :1]
    tiles = shown.cpu().reshape(len(tags), COLUMNS, -1, size, size)
    tiles = tiles.permute(0, 3, 1, 4, 2)  # tag, row, column of tiles, column, channel
    picture = tiles.reshape(len(tags) * size, COLUMNS * size, -1).squeeze(-1)
    return ((picture.clamp(-1, 1) + 1) * 127.5).byte().numpy()
