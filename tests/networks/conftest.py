"""What the tests of networks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tagmask.networks.adm_checkpoint import PUBLISHED
from tagmask.networks.denoiser import Denoiser


@pytest.fixture(autouse=True)
def _same_draws_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture
def randomise() -> Callable[[nn.Module], nn.Module]:
    """Give a function that fills a network with small random weights, so that no layer is left at zero."""

    def fill(module: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(7)
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.08, generator=generator)
        return module.eval()

    return fill


@pytest.fixture(scope="session")
def imagenet() -> Denoiser:
    """The published network of 552.8 M parameters, without memory for them. Read only."""
    with torch.device("meta"):
        return Denoiser(PUBLISHED["imagenet-256"]).eval()
