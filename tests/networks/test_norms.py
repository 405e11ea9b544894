"""Norms of few pictures: what a network has learnt with, it answers with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tagmask.errors import ConfigError
from tagmask.networks.features import FeatureSettings
from tagmask.networks.norms import norm_layer
from tagmask.networks.segmenter import Segmenter, SegmenterSettings
from tagmask.networks.textdiff import TextDiffSettings
from tests.networks.test_textdiff import CHANNELS, SIDES, SIZE, network, random_features, sentences


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_normalises_over_pixels_and_perhaps_pictures(norm: str) -> None:
    layer = norm_layer(norm, 3).train()  # type: ignore[arg-type]
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 5.0)
    x = torch.randn(4, 3, 8, 8) * 3 + torch.arange(4.0)[:, None, None, None]
    over = {"batch": (0, 2, 3), "instance": (2, 3), "group": (1, 2, 3)}[norm]
    expected = (x - x.mean(over, keepdim=True)) / x.std(over, keepdim=True, correction=0) * 2 + 5
    assert torch.allclose(layer(x), expected, atol=1e-4)


@pytest.mark.parametrize(("norm", "same"), [("batch", False), ("instance", True), ("group", True)])
def test_an_instance_norm_answers_as_it_learnt(norm: str, same: bool) -> None:
    unet = Segmenter(SegmenterSettings(size=16, widths=(8, 16), norm=norm))  # type: ignore[arg-type]
    head, text = network(norm=norm), sentences(1)
    x, features = torch.randn(1, 1, 16, 16), random_features(CHANNELS, SIDES, 1)
    with torch.no_grad():
        for net, answer in ((unet, lambda: unet(x)), (head, lambda: head.decode(features, SIZE, text))):
            learnt, later = (net.train(mode) and answer() for mode in (True, False))
            assert torch.allclose(learnt, later, atol=1e-5) == same


def test_what_a_whole_channel_says_outlives_a_group_norm_alone() -> None:
    """A sentence moves all pixels of a channel alike; an instance norm takes that away."""
    x, offset = torch.randn(1, 32, 8, 8), torch.randn(1, 32, 1, 1)
    moved = {
        norm: norm_layer(norm, 32)(x + offset) - norm_layer(norm, 32)(x) for norm in ("instance", "group")
    }  # type: ignore[arg-type]
    assert moved["instance"].abs().max() < 1e-5
    assert moved["group"].mean(dim=(2, 3)).std() > 0.1
    halves = norm_layer("group", 32)(torch.cat([x[:, :16], 9 * x[:, 16:] + 5], dim=1))
    assert torch.allclose(
        halves.unflatten(1, (2, 16)).std(dim=(2, 3, 4), correction=0), torch.ones(1, 2), atol=1e-3
    )


def test_has_as_many_parameters_with_either() -> None:
    for norm in ("batch", "instance", "group"):
        with torch.device("meta"):
            net = Segmenter(SegmenterSettings(channels=3, widths=(64, 128, 256, 512, 1024), norm=norm))  # type: ignore[arg-type]
        assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == 31.04


def test_what_cannot_be_normalised_is_refused() -> None:
    with pytest.raises(ConfigError, match=r'segmenter\.norm = "layer"'):
        SegmenterSettings(norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'textdiff\.norm = "layer"'):
        TextDiffSettings(FeatureSettings(Path("x")), norm="layer")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="of one pixel"):
        SegmenterSettings(size=4, widths=(4, 4, 4), norm="instance")
    SegmenterSettings(size=4, widths=(4, 4, 4))
