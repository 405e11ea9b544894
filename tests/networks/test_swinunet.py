"""Windows tile the picture, shifted windows do not wrap round it, and the whole is a published Swin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tagmask.errors import ConfigError
from tagmask.networks.swinunet import (
    SwinUNet,
    SwinUNetSettings,
    _Block,
    _Expand,
    _Merge,
    apart,
    partition,
    relative_index,
    reverse,
)


@pytest.mark.parametrize(("side", "window"), [(4, 2), (6, 3), (8, 8), (14, 7), (12, 4)])
def test_windows_put_together_are_the_picture(side: int, window: int) -> None:
    z = torch.randn(2, side, side, 3)
    windows = partition(z, window)
    assert windows.shape == (2, (side // window) ** 2, window**2, 3)
    assert torch.equal(reverse(windows, side), z)


def test_a_window_holds_neighbours_rows_first() -> None:
    place = torch.arange(36).reshape(1, 6, 6, 1)
    windows = partition(place, 3)[0, ..., 0]
    assert windows[0].tolist() == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert windows[1].tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
    assert windows[2].tolist() == [18, 19, 20, 24, 25, 26, 30, 31, 32]


@pytest.mark.parametrize("window", [2, 3, 7])
def test_the_bias_belongs_to_the_step_between_two_places(window: int) -> None:
    index = relative_index(window)
    for a in range(window**2):
        for b in range(window**2):
            dy, dx = a // window - b // window, a % window - b % window
            assert index[a, b] == (dy + window - 1) * (2 * window - 1) + dx + window - 1
    assert set(index.flatten().tolist()) == set(range((2 * window - 1) ** 2))


def group(row: int, shift: int, window: int) -> int:
    """Which window a row or column lies in, when the grid of windows is moved by the shift: no wrapping round."""
    return (row - shift) // window


def same_group(side: int, window: int, shift: int) -> Tensor:
    """(side², side²) bool: which places share a window of the moved grid."""
    places = [(group(y, shift, window), group(x, shift, window)) for y in range(side) for x in range(side)]
    return torch.tensor([[a == b for b in places] for a in places])


@pytest.mark.parametrize(("side", "window", "shift"), [(8, 4, 2), (6, 3, 1), (14, 7, 3), (4, 2, 1)])
def test_the_mask_leaves_what_the_moved_grid_holds_together(side: int, window: int, shift: int) -> None:
    place = torch.arange(side**2).reshape(1, side, side, 1)
    moved = partition(torch.roll(place, (-shift, -shift), dims=(1, 2)), window)[0, ..., 0]
    seen = torch.zeros(side**2, side**2, dtype=torch.bool)
    for places, forbidden in zip(moved, apart(side, window, shift), strict=True):
        seen[places[:, None], places[None]] = ~forbidden
    assert torch.equal(seen, same_group(side, window, shift))
    assert seen.diagonal().all()


def naive(block: _Block, z: Tensor) -> Tensor:
    """Attend place by place, without windows, rolls and masks."""
    _, side, _, width = z.shape
    m, d = block.window, width // block.heads
    sees = same_group(side, m, block.shift)
    qkv = block.qkv(z).reshape(len(z), side * side, 3, block.heads, d)
    out = torch.zeros(len(z), side * side, width)
    for i in range(side * side):
        keys = sees[i].nonzero()[:, 0].tolist()
        step = [(i // side - j // side + m - 1) * (2 * m - 1) + i % side - j % side + m - 1 for j in keys]
        for h in range(block.heads):
            q, k, v = qkv[:, i, 0, h], qkv[:, keys, 1, h], qkv[:, keys, 2, h]
            scores = torch.einsum("bd,bkd->bk", q, k) / d**0.5 + block.bias[step, h]
            out[:, i, h * d : (h + 1) * d] = torch.einsum("bk,bkd->bd", scores.softmax(dim=1), v)
    return block.attended(out).reshape(z.shape)


@pytest.mark.parametrize("shift", [0, 2])
def test_attention_is_that_of_a_naive_loop(shift: int) -> None:
    block = _Block(width=6, heads=2, window=4, shift=shift, drop=0.0)
    torch.nn.init.normal_(block.bias)
    torch.nn.init.normal_(block.qkv.weight)
    z = torch.randn(2, 8, 8, 6)
    with torch.no_grad():
        assert torch.allclose(block._attend(z), naive(block, z), atol=1e-5)


def test_a_place_moves_its_region_alone() -> None:
    block = _Block(width=6, heads=2, window=4, shift=2, drop=0.0).eval()
    torch.nn.init.normal_(block.qkv.weight)
    z = torch.randn(1, 8, 8, 6)
    sees = same_group(8, 4, 2)
    with torch.no_grad():
        before = block(z)
        for y, x in ((0, 0), (0, 7), (3, 3), (7, 0), (1, 4)):
            other = z.clone()
            other[0, y, x] = torch.randn(6)
            moved = (block(other) != before).any(dim=-1).flatten()
            assert torch.equal(moved, sees[8 * y + x]), (y, x)


def test_a_stage_smaller_than_a_window_is_one_window_and_not_shifted() -> None:
    net = SwinUNet(SwinUNetSettings(size=32, width=8, depths=(2, 2, 2), heads=(1, 1, 1), window=4))
    blocks = [(block.window, block.shift) for stage in net.down for block in stage]  # type: ignore[union-attr]
    assert blocks == [(4, 0), (4, 2), (4, 0), (4, 0), (2, 0), (2, 0)]  # sides 8, 4, 2
    assert [stage[0].bias.shape[0] for stage in net.down] == [49, 49, 9]  # type: ignore[index, union-attr]


def good(sizes: range, **settings: object) -> Iterator[int]:
    for size in sizes:
        try:
            SwinUNetSettings(size=size, **settings)  # type: ignore[arg-type]
        except ConfigError:
            continue
        yield size


def test_sizes_that_fit() -> None:
    assert list(good(range(1, 600))) == [224, 448]
    assert list(good(range(1, 600), window=8)) == [32, 64, 128, 256, 512]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 256}, "64, 32, 16, 8 tokens a side.* windows of 7. Use size = 448, or window = 8."),
        ({"size": 225}, "size = 225 .* Use size = 448."),
        ({"size": 100, "window": 8}, "size = 100 .* Use size = 128."),
    ],
)
def test_a_size_that_does_not_fit_names_one_that_does(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SwinUNetSettings(**change)


def test_a_dropped_branch_is_dropped_whole_and_made_up_for() -> None:
    block = _Block(width=4, heads=1, window=2, shift=0, drop=0.25)
    kept = block._dropped(torch.ones(4000, 2, 2, 4))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert (kept.flatten(1).std(dim=1) == 0).all(), "a picture is left out as a whole"
    assert abs(kept.mean() - 1) < 0.03
    assert torch.equal(block.eval()._dropped(kept), kept)


def test_drop_rates_rise_and_the_decoder_mirrors_them() -> None:
    net = SwinUNet(SwinUNetSettings(size=32, width=8, depths=(2, 3), heads=(1, 1), window=4, drop_path=0.4))
    rates = [[round(block.drop, 3) for block in stage] for stage in (*net.down, *net.up)]  # type: ignore[union-attr]
    assert rates == [[0.0, 0.1], [0.2, 0.3, 0.4], [0.0, 0.1]]


def test_four_neighbours_become_one_column_by_column() -> None:
    merge, place = _Merge(1), torch.arange(16.0).reshape(1, 4, 4, 1)
    merge.norm = merge.reduce = nn.Identity()  # type: ignore[assignment]
    assert merge(place).shape == (1, 2, 2, 4)
    assert merge(place)[0, 0, 1].tolist() == [2, 6, 3, 7]


def test_one_becomes_four_neighbours_row_by_row() -> None:
    expand, z = _Expand(4, 2, 1), torch.arange(16.0).reshape(1, 2, 2, 4)
    expand.norm = expand.enlarge = nn.Identity()  # type: ignore[assignment]
    assert expand(z)[0, ..., 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]


def test_the_encoder_is_a_published_swin() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    config = transformers.SwinConfig(image_size=32, patch_size=4, num_channels=3, embed_dim=16, **sizes)
    theirs = transformers.SwinModel(config, add_pooling_layer=False).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = SwinUNet(SwinUNetSettings(size=32, width=16, depths=(2, 2), heads=(2, 4), window=4)).eval()
    names = {
        "embeddings.patch_embeddings.projection": "embed",
        "embeddings.norm": "norm_in",
        "encoder.layers.0.downsample.reduction": "merge.0.reduce",
        "encoder.layers.0.downsample.norm": "merge.0.norm",
        "layernorm": "norm",
    }
    inside = {
        "attention.o_proj": "attended",
        "attention.relative_position_bias": "bias",
        "layernorm_before": "norm1",
        "layernorm_after": "norm2",
        "mlp.fc1": "mlp.0",
        "mlp.fc2": "mlp.2",
    }
    for stage in (0, 1):
        for k in (0, 1):
            block = f"encoder.layers.{stage}.blocks.{k}"
            names |= {f"{block}.{a}": f"down.{stage}.{k}.{b}" for a, b in inside.items()}
            names |= {f"{block}.attention.{q}_proj": f"down.{stage}.{k}.qkv.{q}" for q in "qkv"}
    state: dict[str, Tensor] = {}
    for name, tensor in theirs.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        mine = names[layer]
        state[mine if kind == "relative_position_bias_table" else f"{mine}.{kind}"] = tensor
    for name in [name for name in state if ".qkv.q." in name]:
        parts = [state.pop(name.replace(".q.", f".{q}.")) for q in "qkv"]
        state[name.replace(".q.", ".")] = torch.cat(parts)
    missing = ours.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert {name.split(".")[0] for name in missing.missing_keys} == {
        *("expand", "fuse", "up", "norm_out", "enlarge", "out")
    }
    reached: list[Tensor] = []
    ours.norm.register_forward_hook(lambda *call: reached.append(call[2]))
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours(x)
        wanted = theirs(x).last_hidden_state
    assert wanted.std() > 0.1
    assert torch.allclose(reached[0].flatten(1, 2), wanted, atol=1e-5)
