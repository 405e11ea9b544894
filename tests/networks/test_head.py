"""What heads share: a backbone beside them and not in them, and convolutions before enlargement."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.config import build, plain
from tagmask.errors import ConfigError
from tagmask.networks.head import (
    FeatureHead,
    HeadSettings,
    initialise,
    pixel_features,
    upsampled_convolution,
)
from tagmask.types import TextTokens
from tests.still import StillFeatures, backbone, largest_tensor, random_features


class Sum(FeatureHead):
    """The least head: all features of a pixel, summed."""

    def decode(self, features: Sequence[Tensor], size: int, text: TextTokens | None = None) -> Tensor:
        self.check_features(features)
        return sum(F.interpolate(f.sum(1, keepdim=True), (size, size)) for f in features)


def head(channels: tuple[int, ...] = (6, 4)) -> Sum:
    return Sum(HeadSettings(backbone(len(channels)), channels, size=8))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize(("side", "size"), [(4, 16), (8, 16), (16, 16), (5, 12), (1, 8)])
def test_convolving_before_enlarging_is_convolving_after(kernel: int, side: int, size: int) -> None:
    h, weight = torch.randn(2, 7, side, side), torch.randn(4, 7, kernel, kernel)
    after = F.interpolate(h, (size, size), mode="bilinear", align_corners=False)
    after = F.conv2d(after, weight, padding=kernel // 2)
    before = upsampled_convolution(h, weight, size)
    assert before.shape == after.shape
    assert float((before - after).abs().max()) < 1e-5 * float(after.abs().max())


def test_nothing_is_held_wide_and_large_at_once() -> None:
    h, weight = torch.randn(1, 64, 8, 8, requires_grad=True), torch.randn(4, 64, 3, 3, requires_grad=True)
    with largest_tensor() as sizes:
        upsampled_convolution(h, weight, 32).sum().backward()
    assert sizes.largest <= 4 * 34 * 34  # the few channels, and not the 64


@pytest.mark.parametrize("size", [4, 8, 12, 16])
def test_features_of_one_pixel_are_those_of_the_enlarged_map(size: int) -> None:
    features = random_features((3, 5), (4, 2))
    large = [F.interpolate(f, (size, size), mode="bilinear", align_corners=False) for f in features]
    expected = torch.cat(large, dim=1).movedim(1, -1).reshape(-1, 8)
    order = torch.randperm(2 * size * size)
    assert torch.allclose(pixel_features(features, size, order), expected[order], atol=1e-6)


@torch.no_grad()
def test_starts_as_both_papers_say() -> None:
    net = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(512), nn.Linear(256, 256), nn.BatchNorm1d(8))
    initialise(net)
    conv, norm, linear, plain_norm = net
    for layer in (conv, linear):
        assert abs(float(layer.weight.std()) - 0.02) < 1e-3 and float(layer.weight.mean().abs()) < 1e-3
        assert not layer.bias.any()
    assert abs(float(norm.weight.std()) - 0.02) < 2e-3 and abs(float(norm.weight.mean()) - 1) < 4e-3
    assert not norm.bias.any() and bool((plain_norm.weight == 1).all())


def test_the_backbone_stands_beside_the_head_and_not_in_it() -> None:
    frozen, net = StillFeatures((6, 4), (4, 8)), head()
    before = set(net.state_dict())
    assert net.attach(frozen) is net
    assert net.features is frozen
    assert set(net.state_dict()) == before and not list(net.parameters()) and not list(net.children())
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    assert torch.equal(net(x), net.decode(frozen(x), 8)) and net(x).dtype == x.dtype
    assert net(x.double()).dtype == torch.float64
    assert "features" not in repr(net)
    assert copy.copy(net).features is frozen


def test_a_head_without_its_backbone_says_so() -> None:
    with pytest.raises(ConfigError, match="has no backbone to look through") as caught:
        head()(torch.zeros(1, 3, 8, 8))
    assert "attach" in caught.value.repair
    with pytest.raises(ConfigError, match="not known yet"):
        Sum(HeadSettings(backbone(2)))


def test_another_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"have \[6, 5\] channels.*\[6, 4\]"):
        head().attach(StillFeatures((6, 5), (4, 8)))
    with pytest.raises(ConfigError, match=r"pictures of 1 channels, but head\.channels = 3"):
        head().attach(StillFeatures((6, 4), (4, 8), image_channels=1))
    with pytest.raises(ConfigError, match=r"the features have \[6\] channels"):
        head().decode(random_features((6,), (4,)), 8)
    with pytest.raises(ConfigError, match="the head takes images"):
        head().attach(StillFeatures((6, 4), (4, 8)))(torch.zeros(1, 3, 4, 4))


def test_settings_learn_their_channels_from_the_backbone_and_survive_a_file() -> None:
    settings = HeadSettings(backbone(2), size=8).resolved(StillFeatures((6, 4), (4, 8)))
    assert settings.feature_channels == (6, 4)
    assert build(HeadSettings, plain(settings)) == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "head.size = 0"),
        ({"channels": 0}, "head.channels = 0"),
        ({"feature_channels": (6,)}, r"feature_channels = \[6\], but there are 2 blocks"),
        ({"feature_channels": (6, 0)}, "at least 1"),
    ],
)
def test_settings_that_make_no_head_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        HeadSettings(backbone(2), **change)
    assert caught.value.repair
