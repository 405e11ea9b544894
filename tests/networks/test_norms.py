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


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_normalises_over_pixels_and_perhaps_pictures(norm: str) -> None:
    layer = norm_layer(norm, 3).train()  # type: ignore[arg-type]
    torch.nn.init.constant_(layer.weight, 2.0)
    torch.nn.init.constant_(layer.bias, 5.0)
    x = torch.randn(4, 3, 8, 8) * 3 + torch.arange(4.0)[:, None, None, None]
    over = (0, 2, 3) if norm == "batch" else (2, 3)
    expected = (x - x.mean(over, keepdim=True)) / x.std(over, keepdim=True, correction=0) * 2 + 5
    assert torch.allclose(layer(x), expected, atol=1e-4)


@pytest.mark.parametrize(("norm", "same"), [("batch", False), ("instance", True)])
def test_an_instance_norm_answers_as_it_learnt(norm: str, same: bool) -> None:
    unet = Segmenter(SegmenterSettings(size=16, widths=(8, 16), norm=norm))  # type: ignore[arg-type]
    head, text = network(norm=norm), sentences(1)
    x, features = torch.randn(1, 1, 16, 16), random_features(CHANNELS, SIDES, 1)
    with torch.no_grad():
        for net, answer in ((unet, lambda: unet(x)), (head, lambda: head.decode(features, SIZE, text))):
            learnt, later = (net.train(mode) and answer() for mode in (True, False))
            assert torch.allclose(learnt, later, atol=1e-5) == same


def test_has_as_many_parameters_with_either() -> None:
    for norm in ("batch", "instance"):
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
