"""TransUNet: standardised weights, the transformer's layer, and skips of the sizes that were published."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tagmask.networks.transunet import TransUNet, TransUNetSettings, _Layer, _ResNet, _StandardConv

TINY = TransUNetSettings(
    size=32, channels=1, stem=4, blocks=(1, 1, 1), width=8, layers=1, heads=2, hidden=8, decoder=(8, 8, 4, 4)
)


def test_the_printed_count_leaves_out_what_a_profiler_does_not_know() -> None:
    """93.19 M in the table of TextDiff: no standardised convolutions, no norms of groups or layers, no positions."""
    with torch.device("meta"):
        net = TransUNet(TransUNetSettings())
    unknown = net.position.numel()
    for module in net.modules():
        if isinstance(module, (_StandardConv, nn.GroupNorm, nn.LayerNorm)):
            unknown += sum(p.numel() for p in module.parameters())
    assert sum(p.numel() for p in net.parameters()) - unknown == 93_192_290


def test_a_convolution_does_not_see_scale_and_shift_of_its_weights() -> None:
    conv, x = _StandardConv(3, 4, 3, padding=1, bias=False), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = conv(x)
        conv.weight.mul_(5).add_(torch.randn(4, 1, 1, 1))
        assert torch.allclose(conv(x), before, rtol=0.01, atol=0.01)
        conv.weight[0] = torch.linspace(-1, 1, 27).reshape(3, 3, 3)
        standard = (conv.weight[0] - conv.weight[0].mean()) / conv.weight[0].std(correction=0)
        wanted = nn.functional.conv2d(x, standard[None], padding=1)
    assert torch.allclose(conv(x)[:, :1], wanted, atol=1e-3)


def test_skips_have_the_published_sizes() -> None:
    with torch.device("meta"):
        h, skips = _ResNet(3, 64, (3, 4, 9))(torch.zeros(1, 3, 224, 224))
    assert h.shape == (1, 1024, 14, 14)
    assert [tuple(s.shape[1:]) for s in skips] == [(64, 112, 112), (256, 56, 56), (512, 28, 28)]


def test_the_stage_after_the_pooling_lacks_a_row_and_a_column() -> None:
    _, skips = _ResNet(1, 4, (1, 1, 1))(torch.randn(1, 1, 32, 32))
    assert not skips[1][..., -1, :].any() and not skips[1][..., -1].any()
    assert skips[1][..., :-1, :-1].any(dim=1).all()


def test_a_layer_is_that_of_torch() -> None:
    ours = _Layer(width=12, heads=3, hidden=20, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    pairs = [
        (theirs.norm1, ours.norm1),
        (theirs.norm2, ours.norm2),
        (theirs.self_attn.out_proj, ours.attended),
    ]
    pairs += [(theirs.linear1, ours.mlp[0]), (theirs.linear2, ours.mlp[3])]
    for a, b in pairs:
        a.load_state_dict(b.state_dict())
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.qkv.bias)
        z = torch.randn(2, 7, 12)
        assert torch.allclose(ours(z), theirs(z), atol=1e-5)


def test_a_pixel_reaches_the_other_corner_through_the_tokens() -> None:
    net = TransUNet(replace(TINY, size=96)).eval()
    x = torch.zeros(1, 1, 96, 96)
    dot = x.clone()
    dot[..., 2, 2] = 5
    with torch.no_grad():
        far = (net(dot) - net(x))[..., 90:, 90:].abs().max()
        for layer in net.layers:
            nn.init.zeros_(layer.attended.weight)  # type: ignore[arg-type, union-attr]
        without = (net(dot) - net(x))[..., 90:, 90:].abs().max()
    assert far > 0
    assert far != without
