"""A published checkpoint becomes a weights file of ours, whole or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import tagmask
from tagmask.config import plain, write_toml
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError, InputError, RunError, SecurityError, TagmaskError
from tagmask.io import sha256
from tagmask.jobs.import_weights import import_weights
from tagmask.networks import weights
from tagmask.networks.adm_checkpoint import PUBLISHED
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.features import FeatureSettings
from tests.networks.adm_state import published_state

NARROW = ["widths=[8, 8, 16, 16, 16, 16]", "head_channels=8", "size=64"]
SETTINGS = replace(PUBLISHED["imagenet-256"], widths=(8, 8, 16, 16, 16, 16), head_channels=8, size=64)


@pytest.fixture(scope="module")
def net() -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(SETTINGS).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made


@pytest.fixture(scope="module")
def state(net: Denoiser) -> dict[str, Tensor]:
    return published_state(net)


@pytest.fixture
def published(state: dict[str, Tensor], tmp_path: Path) -> Path:
    save_file(state, tmp_path / "published.safetensors")
    return tmp_path / "published.safetensors"


def test_a_pt_file_becomes_a_denoiser_key_by_key(
    net: Denoiser, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path, out = tmp_path / "published.pt", tmp_path / "new" / "denoiser.safetensors"
    torch.save({"model": state, "step": 3}, path)
    result = import_weights(path, out, overrides=NARROW, key="model")
    back = weights.load(out, "denoiser")
    assert back.settings == result.settings == SETTINGS
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert result.parameters == sum(t.numel() for t in state.values())
    assert result.sha256 == sha256(out) and f"{result.parameters:,} parameters" in str(result)
    noted = weights.read_metadata(out)["metadata"]
    linear = {"kind": "linear", "steps": 1000}  # what every published one was trained with
    assert noted == {"imported": "published.pt", "imported_sha256": sha256(path), "schedule": linear}
    with pytest.raises(ConfigError, match="trained with a linear schedule"):
        weights.load_features(FeatureSettings(out), NoiseSchedule.cosine(), result.sha256)
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    features = weights.load_features(FeatureSettings(out), NoiseSchedule.linear(), result.sha256)
    assert [f.shape[1] for f in features(torch.zeros(1, 3, 32, 32))] == [48, 48, 24, 24]


def test_half_a_pt_file_is_damaged(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "published.pt"
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _nothing_is_written(path, RunError, "not a whole zip archive")


def _nothing_is_written(path: Path, error: type[TagmaskError], message: str, **arguments: object) -> None:
    before = sorted(path.parent.iterdir())
    with pytest.raises(error, match=message) as caught:
        import_weights(path, path.parent / "out.safetensors", **{"overrides": NARROW, **arguments})  # type: ignore[arg-type]
    assert caught.value.repair
    assert sorted(path.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out.2.bias": None}, "published key out.2.bias is missing"),
        ({"ema.decay": torch.ones(1)}, "ema.decay belongs to no layer"),
        ({"label_emb.weight": torch.ones(1000, 32)}, "label_emb.weight belongs to no layer"),
        ({"out.2.bias": torch.ones(3)}, r"conv_out.bias has shape \(3,\), but the settings ask for \(6,\)"),
        ({"out.2.bias": torch.full((6,), torch.nan)}, "not finite"),
        ({"out.2.bias": torch.ones(6, dtype=torch.int64)}, "int64"),
    ],
)
def test_other_keys_are_named_and_nothing_is_written(
    state: dict[str, Tensor], tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    path = tmp_path / "published.safetensors"
    save_file({name: tensor for name, tensor in {**state, **change}.items() if tensor is not None}, path)
    _nothing_is_written(path, RunError, message)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"overrides": []}, RunError, "another network"),
        ({"overrides": ["width=[8]"]}, ConfigError, "width"),
        ({"overrides": ["size=63"]}, ConfigError, "size = 63"),
        ({"overrides": ["conditioning=attention", "classes=2"]}, ConfigError, "conditioning"),
        ({"settings": "imagenet-512"}, ConfigError, "Known networks: imagenet-256"),
        ({"settings": "absent.toml"}, ConfigError, "no such settings file"),
        ({"key": "model"}, ConfigError, 'key = "model"'),
    ],
)
def test_other_settings_are_refused(
    published: Path, arguments: dict, error: type[TagmaskError], message: str
) -> None:
    _nothing_is_written(published, error, message, **arguments)


@pytest.mark.parametrize("nested", [False, True])
def test_settings_come_from_a_file_too(published: Path, nested: bool) -> None:
    table = plain(SETTINGS)
    file = published.parent / "shape.toml"
    file.write_text(write_toml({"data": {"prepared": "x"}, "denoiser": table} if nested else table))
    made = import_weights(published, published.parent / "a.safetensors", settings=file)
    assert made.settings == SETTINGS
    assert (
        import_weights(published, published.parent / "b.safetensors", settings=SETTINGS).sha256 == made.sha256
    )


def test_what_is_there_stays_unless_asked(published: Path) -> None:
    out = published.parent / "out.safetensors"
    out.write_text("mine")
    with pytest.raises(InputError, match="is there already"):
        import_weights(published, out, overrides=NARROW)
    assert out.read_text() == "mine"
    import_weights(published, out, overrides=NARROW, overwrite=True)
    assert weights.load(out, "denoiser").settings == SETTINGS
    with pytest.raises(InputError, match="is the file to be imported"):
        import_weights(published, published, overrides=NARROW, overwrite=True)


def test_a_pickle_of_the_old_kind_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    _nothing_is_written(tmp_path / "old.pt", SecurityError, "would run its code")


def test_it_is_a_public_name() -> None:
    assert tagmask.import_weights is import_weights
