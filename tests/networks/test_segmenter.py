"""The supervised baseline is the U-Net of the papers by its size, and learns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tagmask.config import build, plain
from tagmask.errors import ConfigError
from tagmask.networks.segmenter import Segmenter, SegmenterSettings

PAPER = (64, 128, 256, 512, 1024)


@pytest.mark.parametrize(("channels", "count"), [(3, 31_037_633), (1, 31_036_481)])
def test_has_the_published_number_of_parameters(channels: int, count: int) -> None:
    with torch.device("meta"):
        net = Segmenter(SegmenterSettings(channels=channels, widths=PAPER))
    assert sum(p.numel() for p in net.parameters()) == count


def test_learns_a_bright_square_and_judges_slices_alone() -> None:
    torch.manual_seed(0)
    net = Segmenter(SegmenterSettings(size=16, widths=(8, 16)))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-2)
    mask = torch.zeros(4, 1, 16, 16)
    for i, (row, column) in enumerate([(2, 3), (8, 8), (5, 1), (0, 9)]):
        mask[i, :, row : row + 5, column : column + 5] = 1
    for _ in range(60):
        x = mask + 0.3 * torch.randn(mask.shape)
        loss = F.binary_cross_entropy_with_logits(net(x), mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.eval()
    with torch.no_grad():
        together = net(mask)
        alone = torch.cat([net(mask[i : i + 1]) for i in range(4)])
    assert together.shape == mask.shape
    assert ((together > 0) == (mask > 0)).float().mean() > 0.95
    assert torch.allclose(together, alone, atol=1e-4)


def test_skips_carry_detail_past_the_lowest_level() -> None:
    net = Segmenter(SegmenterSettings(size=16, widths=(8, 16, 32))).eval()
    x = torch.zeros(1, 1, 16, 16)
    dot = x.clone()
    dot[..., 7, 7] = 1
    with torch.no_grad():
        change = (net(dot) - net(x)).abs()[0, 0]
    assert change[7, 7] > 0
    for enlarge in net.enlarge:
        torch.nn.init.zeros_(enlarge.weight)
    with torch.no_grad():
        near = (net(dot) - net(x)).abs()[0, 0]
    assert near[7, 7] > 0
    assert near[:2].max() == 0


def test_bf16_keeps_the_dtype() -> None:
    net = Segmenter(SegmenterSettings(size=16, widths=(8, 16))).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(torch.zeros(1, 1, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 20}, "size = 20 does not divide by 8 .*Use size = 16"),
        ({"size": 0}, "size = 0"),
        ({"channels": 0}, "channels = 0"),
        ({"widths": ()}, r"widths = \[\]"),
        ({"widths": (8, 0)}, "at least 1"),
        ({"dropout": -0.1}, "dropout = -0.1"),
    ],
)
def test_refuses_settings_that_make_no_network(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SegmenterSettings(**change)
    assert caught.value.repair


def test_refuses_other_images() -> None:
    with pytest.raises(ConfigError, match="the segmenter takes images"):
        Segmenter(SegmenterSettings(size=16, widths=(8,)))(torch.zeros(1, 1, 8, 8))


def test_settings_survive_a_file() -> None:
    assert build(SegmenterSettings, plain(SegmenterSettings(widths=PAPER))) == SegmenterSettings(widths=PAPER)
