"""Sample pictures, drawn by a denoiser that knows one picture for each tag."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.training.samples import COLUMNS, draw_samples

SIZE = 6


class Knowing:
    """Believes that every image of tag y is `pictures[y]`."""

    def __init__(self, pictures: Tensor, schedule: NoiseSchedule) -> None:
        self.pictures, self.schedule = pictures, schedule
        tags, channels = pictures.shape[:2]
        self.settings = SimpleNamespace(size=SIZE, channels=channels, classes=tags if tags > 1 else 0)

    def embed(self, y: int) -> Tensor:
        return torch.tensor([[float(y)]])

    def __call__(self, x: Tensor, t: int, e: Tensor) -> Tensor:
        mean = self.schedule.add_noise(self.pictures[e[:, 0].long()], t, torch.zeros_like(x))
        spread = self.schedule.add_noise(torch.zeros_like(x), t, torch.ones_like(x))
        return (x - mean) / spread


@pytest.mark.parametrize(("channels", "tags"), [(3, 2), (1, 2), (4, 2), (3, 1)])
def test_a_row_for_each_tag_and_colour_for_three_channels(channels: int, tags: int) -> None:
    schedule = NoiseSchedule.linear()
    pictures = torch.rand(tags, channels, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    knowing: Any = Knowing(pictures, schedule)
    picture = draw_samples(knowing, schedule, "gaussian", 0, "cpu")
    seen = ((pictures if channels == 3 else pictures[:, :1]).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    expected = np.concatenate([np.concatenate([one] * COLUMNS, axis=1) for one in seen]).squeeze()
    assert picture.shape == expected.shape and picture.dtype == np.uint8
    assert np.abs(picture - expected).max() <= 1
