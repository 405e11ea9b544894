"""A weights file is a network by itself; whatever is wrong with one is said, and nothing is unpickled."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ResourceError, RunError, SecurityError
from tagmask.io import sha256
from tagmask.networks import weights
from tagmask.networks.checkpoints import write_checkpoint
from tagmask.networks.classifier import Classifier, ClassifierSettings
from tagmask.networks.cnn import CNN, CNNSettings
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.features import FeatureSettings
from tagmask.networks.segmenter import Segmenter, SegmenterSettings

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "denoiser": lambda: Denoiser(
        DenoiserSettings(size=16, widths=(32, 64), attention=(1,), heads=2, conditioning="attention")
    ),
    "classifier": lambda: Classifier(ClassifierSettings(size=16, widths=(32, 64), attention=(1,))),
    "segmenter": lambda: Segmenter(SegmenterSettings(size=16, widths=(8, 16))),
    "cnn": lambda: CNN(CNNSettings(size=16, widths=(8, 16), blocks=(1, 2))),
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "segmenter.safetensors"
    weights.save(path, NETWORKS["segmenter"](), {"steps": 3})
    return path


def _header(path: Path) -> dict:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["tagmask"])


def _rewrite(path: Path, change: Callable[[dict, dict], None]) -> None:
    """Write the file anew with changed tensors and header."""
    tensors, header = load_file(path), _header(path)
    change(tensors, header)
    save_file(tensors, path, metadata={"tagmask": json.dumps(header)})


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_comes_back_as_it_was(tmp_path: Path, randomise, kind: str) -> None:
    net, path = randomise(NETWORKS[kind]()), tmp_path / "new" / f"{kind}.safetensors"
    weights.save(path, net, {"steps": 12, "data": "abc"})
    state = torch.random.get_rng_state()
    back = weights.load(path, kind)
    assert torch.equal(torch.random.get_rng_state(), state), "loading must not draw random numbers"
    assert type(back) is type(net)
    assert back.settings == net.settings
    assert not back.training
    assert list(back.state_dict()) == list(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
    assert all(p.requires_grad for p in back.parameters())
    x = torch.randn(2, 1, 16, 16)
    arguments = {"denoiser": lambda n: (x, 5, n.embed(1)), "classifier": lambda n: (x, 5)}
    given = arguments.get(kind, lambda n: (x,))
    assert torch.equal(net(*given(net)), back(*given(back)))
    found = weights.read_metadata(path)
    assert found["kind"] == kind
    assert found["metadata"] == {"steps": 12, "data": "abc"}
    assert found["settings"]["size"] == 16
    assert found["version"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_same_network_is_the_same_bytes(tmp_path: Path) -> None:
    net = NETWORKS["classifier"]()
    names = [tmp_path / f"{i}.safetensors" for i in range(4)]
    for name in names:
        weights.save(name, net, {"steps": 1, "data": "a", "seed": 0})
    assert len({sha256(name) for name in names}) == 1
    assert sha256(names[0]) == hashlib.sha256(names[0].read_bytes()).hexdigest()


def test_channels_last_and_training_mode_leave_no_trace(tmp_path: Path) -> None:
    net = NETWORKS["segmenter"]()
    weights.save(tmp_path / "a.safetensors", net.eval(), {})
    weights.save(tmp_path / "b.safetensors", net.train().to(memory_format=torch.channels_last), {})
    assert sha256(tmp_path / "a.safetensors") == sha256(tmp_path / "b.safetensors")


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    net = NETWORKS["segmenter"]()
    weights.save(tmp_path / "full.safetensors", net, {})
    weights.save(tmp_path / "half.safetensors", net, {}, dtype=torch.float16)
    full, half = (weights.load(tmp_path / f"{n}.safetensors", "segmenter") for n in ("full", "half"))
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * (
        tmp_path / "full.safetensors"
    ).stat().st_size
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    for a, b in zip(full.parameters(), half.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-3)


def test_writes_nothing_rather_than_not_a_number(saved: Path) -> None:
    before = saved.read_bytes()
    net = NETWORKS["segmenter"]()
    with torch.no_grad():
        net.out.bias.fill_(torch.inf)
    with pytest.raises(RunError, match=r"out.bias of the segmenter is not finite"):
        weights.save(saved, net, {})
    net.out.bias.data.fill_(1e6)
    with pytest.raises(RunError, match=r"out.bias"):
        weights.save(saved, net, {}, dtype=torch.float16)
    with pytest.raises(TypeError, match="Linear"):
        weights.save(saved, nn.Linear(1, 1), {})
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def _drop(tensors: dict, header: dict) -> None:
    del tensors["out.bias"]


def _add(tensors: dict, header: dict) -> None:
    tensors["out.scale"] = torch.ones(1)


def _reshape(tensors: dict, header: dict) -> None:
    tensors["out.bias"] = torch.zeros(2)


def _recast(tensors: dict, header: dict) -> None:
    tensors["out.bias"] = torch.zeros(1, dtype=torch.int64)


def _spoil(tensors: dict, header: dict) -> None:
    tensors["out.bias"][0] = torch.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop, "tensor out.bias is missing"),
        (_add, "tensor out.scale belongs to no layer"),
        (_reshape, r"out.bias has shape \(2,\), but the settings ask for \(1,\)"),
        (_recast, "out.bias holds torch.int64"),
        (_spoil, "out.bias holds values that are not finite"),
        (lambda _, header: header["settings"].update(widths=[8, 16, 32]), "is missing"),
        (lambda _, header: header["settings"].update(depth=3), "unknown key depth"),
        (lambda _, header: header["settings"].update(size="16"), "size"),
        (lambda _, header: header["settings"].update(size=17), "size = 17 does not divide"),
        (lambda _, header: header["settings"].update(widths=[8] * 10_000), "cannot be built"),
        (lambda _, header: header["settings"].update(widths=[10**18, 10**18]), "cannot be built"),
        (lambda _, header: header.update(settings=[1]), "header that cannot be read"),
        (lambda _, header: header.pop("kind"), "header that cannot be read"),
        (lambda _, header: header.update(kind="denoiser"), "holds a denoiser, but a segmenter is needed"),
    ],
)
def test_a_changed_file_is_refused_by_name(saved: Path, change, message: str) -> None:
    _rewrite(saved, change)
    with pytest.raises(RunError, match=message) as caught:
        weights.load(saved, "segmenter")
    assert caught.value.where == str(saved)
    assert caught.value.repair or "unknown key" in message


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("denoiser", {"blocks": 10**9}),
        ("denoiser", {"widths": [32] * 100_000}),
        ("denoiser", {"channels": 10**30}),
        ("cnn", {"blocks": [10**9, 1]}),
        ("cnn", {"blocks": [1] * 100_000, "widths": [8] * 100_000}),
    ],
)
def test_settings_that_would_never_end_are_refused_at_once(tmp_path: Path, kind: str, change: dict) -> None:
    path = tmp_path / f"{kind}.safetensors"
    weights.save(path, NETWORKS[kind](), {})
    _rewrite(path, lambda _, header: header["settings"].update(change))
    with pytest.raises(RunError, match=r"cannot be built|has shape"):
        weights.load(path, kind)


def test_a_damaged_file_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    damaged = {
        "empty": b"",
        "cut in the length": content[:5],
        "cut in the header": content[: 8 + length // 2],
        "cut in the tensors": content[:-1],
        "too long": content + b"\0",
        "header too long": struct.pack("<Q", 2**40) + content[8:],
        "header longer than itself": struct.pack("<Q", length + 10**6) + content[8:],
        "no header": struct.pack("<Q", 0) + content[8 + length :],
        "not text": content[:8] + b"\xff" * length + content[8 + length :],
        "noise": bytes(range(256)) * 8,
    }
    for what, changed in damaged.items():
        saved.write_bytes(changed)
        with pytest.raises(RunError, match="not a whole safetensors file") as caught:
            weights.load(saved, "segmenter")
        assert caught.value.repair, what


def test_a_foreign_or_absent_file_is_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(RunError, match="not written by tagmask"):
        weights.load(foreign, "denoiser")
    assert list(weights.read_tensors(foreign)) == ["a"]

    def features(path: Path) -> Any:
        return weights.load_features(FeatureSettings(path), NoiseSchedule.linear())

    for path in (tmp_path / "absent.safetensors", tmp_path):
        for read in (lambda p: weights.load(p, "denoiser"), weights.read_metadata, features):
            with pytest.raises(RunError, match="cannot be read"):
                read(path)


class _Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle"])
def test_a_pickle_is_refused_unopened(tmp_path: Path, how: str) -> None:
    path, sprung = tmp_path / "model.pt", tmp_path / "sprung"
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Trap(sprung)))
    else:
        torch.save(_Trap(sprung), path, _use_new_zipfile_serialization="old" not in how)
    for read in (lambda p: weights.load(p, "denoiser"), weights.read_tensors, weights.read_metadata):
        with pytest.raises(SecurityError, match="would run its code") as caught:
            read(path)
        assert "safetensors" in caught.value.repair
    assert not sprung.exists()
    pickle.loads(pickle.dumps(_Trap(sprung)))
    assert sprung.exists(), "the trap must be able to spring"


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """A length of 128 + 256 k starts with the byte of a pickle."""
    path, net = tmp_path / "a.safetensors", NETWORKS["segmenter"]()
    starts = set()
    for padding in range(0, 260, 8):
        weights.save(path, net, {"padding": "x" * padding})
        starts.add(path.read_bytes()[0])
        weights.load(path, "segmenter")
    assert 0x80 in starts


@pytest.mark.parametrize("write", ["weights", "checkpoint"])
def test_a_full_disk_is_called_one(write: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    path = tmp_path / "a.safetensors"
    with pytest.raises(ResourceError, match=r"a\.safetensors: The disk is full.*Free space there"):
        if write == "weights":
            weights.save(path, CNN(CNNSettings(size=16, widths=(8, 16), blocks=(1, 1))), {})
        else:
            write_checkpoint(path, {"a": torch.zeros(1)}, {})
    assert list(tmp_path.iterdir()) == []
