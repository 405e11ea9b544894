"""GLoRIA's encoder is a ResNet-50, and its skips lead where they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tagmask.networks.gloria import Encoder, Gloria, GloriaSettings


def test_the_encoder_is_a_resnet50_without_its_classifier() -> None:
    with torch.device("meta"):
        encoder = Encoder(3, 64, (3, 4, 6, 3))
        features = encoder(torch.zeros(2, 3, 64, 64))
    assert sum(p.numel() for p in encoder.parameters()) == 23_508_032
    assert [tuple(f.shape) for f in features] == [
        *((2, 64, 32, 32), (2, 256, 16, 16), (2, 512, 8, 8), (2, 1024, 4, 4), (2, 2048, 2, 2))
    ]
    # The names under which weights of a ResNet-50 are published.
    assert {"conv1.weight", "bn1.running_var", "layer1.0.downsample.0.weight", "layer4.2.bn3.bias"} <= set(
        encoder.state_dict()
    )


def test_the_encoder_computes_what_a_published_resnet_does() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        num_channels=2, embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[2, 1, 2, 1]
    )
    theirs, ours = transformers.ResNetModel(config).eval(), Encoder(2, 4, (2, 1, 2, 1)).eval()
    state = theirs.state_dict()
    for tensor in state.values():
        if tensor.is_floating_point():  # running variances too
            tensor.copy_(torch.rand_like(tensor) * 0.4 + (0.3 if tensor.ndim == 1 else -0.2))
    names = {"embedder.embedder.convolution": "conv1", "embedder.embedder.normalization": "bn1"}
    for stage, depth in enumerate((2, 1, 2, 1)):
        for k in range(depth):
            a, b = f"encoder.stages.{stage}.layers.{k}", f"layer{stage + 1}.{k}"
            names |= {f"{a}.layer.{i}.convolution": f"{b}.conv{i + 1}" for i in range(3)}
            names |= {f"{a}.layer.{i}.normalization": f"{b}.bn{i + 1}" for i in range(3)}
        a, b = f"encoder.stages.{stage}.layers.0", f"layer{stage + 1}.0"
        names |= {f"{a}.shortcut.convolution": f"{b}.downsample.0"}
        names |= {f"{a}.shortcut.normalization": f"{b}.downsample.1"}
    moved: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, kind = name.rsplit(".", 1)
        moved[f"{names[layer]}.{kind}"] = tensor
    ours.load_state_dict(moved)
    x = torch.randn(2, 2, 64, 64)
    with torch.no_grad():
        features, wanted = ours(x), theirs(x, output_hidden_states=True)
    for feature, hidden in zip(features[1:], wanted.hidden_states[1:], strict=True):
        assert hidden.std() > 0.01
        assert torch.allclose(feature, hidden, rtol=1e-4, atol=1e-4)


def test_the_finest_skip_carries_detail() -> None:
    net = Gloria(
        GloriaSettings(size=64, channels=1, width=4, blocks=(1, 1, 1, 1), decoder=(8, 8, 8, 4, 4))
    ).eval()
    dot = torch.zeros(1, 1, 64, 64)
    dot[..., 31, 31] = 1
    torch.nn.init.zeros_(net.decoder[3][0].weight[:, :8])  # what comes from below
    with torch.no_grad():
        change = (net(dot) - net(torch.zeros_like(dot))).abs()[0, 0]
    assert change[31, 31] > 0
    assert change[:16].max() == 0
