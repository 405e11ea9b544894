"""Published checkpoints are taken key by key; nothing is dropped, guessed or changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tagmask.errors import ConfigError, RunError
from tagmask.networks.adm_checkpoint import adm_to_classifier, adm_to_denoiser
from tagmask.networks.classifier import ClassifierSettings
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.weights import read_tensors
from tests.networks.adm_state import published_state

BACKBONE = {"size": 32, "attention": (1, 2), "head_channels": 16}
PLAIN = DenoiserSettings(widths=(32, 32, 64), null_row=False, resample_blocks=False, **BACKBONE)
CLASSIFIER = ClassifierSettings(widths=(32, 64, 64), **BACKBONE)
IMPORTERS = {"adm_plain": (adm_to_denoiser, PLAIN), "classifier": (adm_to_classifier, CLASSIFIER)}


@pytest.fixture(params=IMPORTERS)
def published(request, shared: Path):
    """(state, function that imports a state)."""
    importer, settings = IMPORTERS[request.param]
    state = read_tensors(shared / "golden" / f"{request.param}.safetensors")
    return state, lambda changed: importer(changed, settings)


def test_every_key_counts(published) -> None:
    state, importer = published
    weights = importer(state).state_dict()
    assert sum(t.numel() for t in weights.values()) == sum(t.numel() for t in state.values())
    one_of_each_kind = {".".join(name.split(".")[-2:]): name for name in state}
    assert len(one_of_each_kind) > 15
    for missing in one_of_each_kind.values():
        with pytest.raises(RunError, match=f"key {missing} is missing"):
            importer({name: tensor for name, tensor in state.items() if name != missing})


def test_an_unknown_key_is_named(published) -> None:
    state, importer = published
    for unknown in ("input_blocks.9.0.in_layers.0.weight", "ema.decay"):
        with pytest.raises(RunError, match=f"key {unknown} belongs to no layer"):
            importer({**state, unknown: torch.zeros(1)})


def test_another_shape_is_named(published) -> None:
    state, importer = published
    wrong = {**state, "input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}
    with pytest.raises(RunError, match=r"conv_in.weight has shape \(32, 3, 3, 3\)") as caught:
        importer(wrong)
    assert "settings" in caught.value.repair
    with pytest.raises(RunError, match=r"qkv.bias has \d+ rows"):
        importer({**state, "middle_block.1.qkv.bias": torch.zeros(7)})


def test_not_a_number_is_named(published) -> None:
    state, importer = published
    broken = {**state, "time_embed.0.bias": state["time_embed.0.bias"].clone()}
    broken["time_embed.0.bias"][3] = torch.nan
    with pytest.raises(RunError, match=r"time_.*bias holds values that are not finite"):
        importer(broken)


def test_leaves_the_given_tensors_alone(published) -> None:
    state, importer = published
    before = {name: tensor.clone() for name, tensor in state.items()}
    net = importer(state)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())


def test_a_half_precision_checkpoint_becomes_float32(published) -> None:
    state, importer = published
    net = importer({name: tensor.half() for name, tensor in state.items()})
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def _new_order(rows: Tensor, heads: int) -> Tensor:
    return rows.reshape(heads, 3, -1, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def test_new_attention_order(shared: Path) -> None:
    state = read_tensors(shared / "golden" / "adm_plain.safetensors")
    moved = {
        name: _new_order(tensor, len(tensor) // 3 // 16) if ".qkv." in name else tensor
        for name, tensor in state.items()
    }
    legacy, new = adm_to_denoiser(state, PLAIN), adm_to_denoiser(moved, PLAIN, new_attention_order=True)
    for name, tensor in legacy.state_dict().items():
        assert torch.equal(new.state_dict()[name], tensor), name


def test_a_null_row_cannot_be_made_up(shared: Path) -> None:
    state = read_tensors(shared / "golden" / "adm_plain.safetensors")
    settings = DenoiserSettings(widths=(32, 32, 64), resample_blocks=False, **BACKBONE)
    with pytest.raises(
        RunError, match=r"table.weight has shape \(2, 128\), but the settings ask for \(3, 128\)"
    ):
        adm_to_denoiser(state, settings)
    unconditional = DenoiserSettings(widths=(32, 32, 64), resample_blocks=False, classes=0, **BACKBONE)
    with pytest.raises(RunError, match=r"label_emb.weight belongs to no layer"):
        adm_to_denoiser(state, unconditional)
    with pytest.raises(ConfigError, match='conditioning = "add"'):
        adm_to_denoiser(state, DenoiserSettings(widths=(32, 32, 64), conditioning="attention", **BACKBONE))


def test_the_published_network_of_imagenet_has_552_814_086_parameters_in_these_keys(
    imagenet: Denoiser,
) -> None:
    state = published_state(imagenet)
    assert (
        sum(p.numel() for p in imagenet.parameters()) == sum(t.numel() for t in state.values()) == 552_814_086
    )
    shapes = {
        "time_embed.0.weight": (1024, 256),
        "input_blocks.0.0.weight": (256, 3, 3, 3),
        "input_blocks.3.0.in_layers.2.weight": (256, 256, 3, 3),  # a change of resolution
        "input_blocks.10.1.qkv.weight": (1536, 512, 1),  # the first that attends, at 32 px
        "input_blocks.17.1.qkv.weight": (3072, 1024, 1),
        "middle_block.1.proj_out.weight": (1024, 1024, 1),
        "output_blocks.2.2.in_layers.2.weight": (1024, 1024, 3, 3),
        "output_blocks.8.1.qkv.bias": (1536,),  # the last that attends
        "output_blocks.17.0.skip_connection.weight": (256, 512, 1, 1),
        "out.2.weight": (6, 256, 3, 3),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    attending = {name.split(".qkv")[0] for name in state if ".qkv." in name}
    assert len(attending) == 2 + 2 + 2 + 1 + 3 + 3 + 3
    assert not any(name.startswith(("label_emb", "input_blocks.18", "output_blocks.18")) for name in state)
