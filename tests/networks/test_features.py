"""Features are the decoder's own blocks, cut where nothing more is asked for, alike in any company."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tagmask.config import build, plain
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError, RunError, SecurityError
from tagmask.io import sha256
from tagmask.networks import weights
from tagmask.networks.adm_checkpoint import adm_to_denoiser
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.features import FeatureSettings, FrozenFeatures

T1000 = NoiseSchedule.linear()
NONE = Path("-")
TINY = DenoiserSettings(size=16, channels=2, widths=(32, 64), attention=(1,), head_channels=16, classes=0)
DENOISERS = {
    "unconditional": TINY,
    "three levels, patches": replace(TINY, size=32, widths=(32, 48, 64), attention=(2,), patch=2, blocks=2),
    "convolutions, no FiLM": replace(TINY, resample_blocks=False, scale_shift=False, attention=(0, 1)),
    "null row": replace(TINY, classes=2),
    "attention": replace(TINY, classes=2, conditioning="attention", learn_sigma=True),
}
GOLDEN = {
    "adm_plain": {"head_channels": 16, "null_row": False, "resample_blocks": False},
    "adm_updown": {"head_channels": 16, "null_row": False},
    "adm_learnsigma_uncond": {"heads": 4, "learn_sigma": True, "classes": 0, "resample_blocks": False},
}


@pytest.fixture(scope="module", params=DENOISERS)
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    return _random(DENOISERS[request.param])


@pytest.fixture(scope="module")
def tiny() -> Denoiser:
    return _random(TINY)


def _random(settings: DenoiserSettings) -> Denoiser:
    net = Denoiser(settings).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(7)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.08, generator=generator)
    return net


def _features(net: Denoiser, **changes: object) -> FrozenFeatures:
    blocks = tuple(range(len(net.settings.widths) * (net.settings.blocks + 1)))
    settings = {"weights": NONE, "blocks": blocks, **changes}
    return FrozenFeatures(net, FeatureSettings(**settings), T1000)  # type: ignore[arg-type]


def _pictures(net: Denoiser, number: int = 2, size: int | None = None) -> Tensor:
    size = size or net.settings.size
    return (
        torch.rand(number, net.settings.channels, size, size, generator=torch.Generator().manual_seed(1)) * 2
        - 1
    )


def test_the_features_are_what_diffusers_own_walk_computes(tiny: Denoiser) -> None:
    """By hooks on its modules: the last module of each block, changes of resolution included."""
    ups = tiny.unet.up_blocks
    ends = [ups[0].attentions[0], ups[0].upsamplers[0], ups[1].resnets[0], ups[1].resnets[1]]
    seen: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda _m, _i, out: seen.append(out)) for m in ends]
    features = _features(tiny, steps=(1, 400))
    x = _pictures(tiny)
    noise = torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(40))
    for step in (1, 400):
        noisy = T1000.add_noise(x, step, noise)
        with torch.no_grad():
            tiny.unet(noisy, step - 1, class_labels=torch.zeros(2, 128))
    for hook in hooks:
        hook.remove()
    for found, first, second in zip(features(x), seen[:4], seen[4:], strict=True):
        expected = torch.cat([first, second], dim=1)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
        assert expected.std() > 1e-3


@pytest.mark.parametrize("name", GOLDEN)
def test_published_weights_give_the_published_blocks(shared: Path, name: str) -> None:
    made = DenoiserSettings(size=32, widths=(32, 32, 64), attention=(1, 2), **GOLDEN[name])  # type: ignore[arg-type]
    net = adm_to_denoiser(weights.read_tensors(shared / "golden" / f"{name}.safetensors"), made).eval()
    with np.load(shared / "golden" / f"{name}_io.npz") as arrays:
        x, index, y = (torch.from_numpy(arrays[key]) for key in ("x", "t", "y"))
        published = [torch.from_numpy(arrays[f"decoder_{k}"]) for k in range(6)]
    with torch.no_grad():
        found = list(net.decoder(x, index + 1, net.embed(y if made.classes else None)))
    for ours, theirs in zip(found, published, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


def test_what_is_asked_for_beyond_the_cut_changes_no_bit(denoiser: Denoiser) -> None:
    x, every = _pictures(denoiser), _features(denoiser)
    full = every(x)
    for k in every.settings.blocks:
        assert torch.equal(_features(denoiser, blocks=(k,))(x)[0], full[k])
    backwards = _features(denoiser, blocks=tuple(reversed(every.settings.blocks)))(x)
    assert all(torch.equal(a, b) for a, b in zip(reversed(backwards), full, strict=True))


def test_blocks_beyond_the_cut_do_not_run(tiny: Denoiser) -> None:
    ran: list[str] = []
    names = {
        m: n
        for n, m in tiny.unet.named_modules()
        if n.startswith(("up_blocks", "conv_")) and not list(m.children())
    }
    hooks = [m.register_forward_hook(lambda m, _i, _o: ran.append(names[m])) for m in names]
    _features(tiny, blocks=(0, 2))(_pictures(tiny))
    for hook in hooks:
        hook.remove()
    assert any("up_blocks.1.resnets.0" in name for name in ran)
    assert not any(
        "up_blocks.1.resnets.1" in name or "conv_norm_out" in name or "conv_out" in name for name in ran
    )


def test_steps_in_one_batch_equal_single_steps(denoiser: Denoiser) -> None:
    x, steps = _pictures(denoiser), (251, 51, 1000)
    together = _features(denoiser, steps=steps)(x)
    alone = [_features(denoiser, steps=(step,))(x) for step in steps]
    for k, found in enumerate(together):
        expected = torch.cat([a[k] for a in alone], dim=1)
        assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
        assert not torch.allclose(alone[0][k], alone[1][k], atol=1e-2 * float(expected.abs().max()))


def test_a_picture_alone_equals_itself_in_company(denoiser: Denoiser) -> None:
    features, x = _features(denoiser), _pictures(denoiser, 4)
    x[3] = x[0]
    together = features(x)
    for i in range(4):
        for k, found in enumerate(features(x[i : i + 1])):
            assert torch.allclose(found[0], together[k][i], atol=1e-5 * float(found.abs().max()))
    assert all(torch.allclose(f[0], f[3], atol=1e-5 * float(f.abs().max())) for f in together), (
        "one noise for all"
    )
    assert not any(torch.allclose(f[0], f[1], atol=1e-2 * float(f.abs().max())) for f in together)


def test_large_pictures_go_one_step_after_the_other_with_the_same_features(
    denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, channels = denoiser.settings.size, denoiser.settings.channels
    x = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(3)).clamp(-1, 1)
    features = _features(denoiser, steps=(51, 151, 251))
    together, seen = features(x), list[int]()
    monkeypatch.setattr("tagmask.networks.denoiser._TOGETHER", 0)
    with denoiser.unet.conv_in.register_forward_hook(lambda *walk: seen.append(len(walk[2]))):
        apart = features(x)
    assert seen == [1] * 6
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_the_noise_is_the_seeds(tiny: Denoiser) -> None:
    x = _pictures(tiny)
    torch.manual_seed(1)
    first = _features(tiny)(x)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(first, _features(tiny)(x), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    other = _features(tiny, seed=41)(x)
    assert not any(torch.allclose(a, b) for a, b in zip(first, other, strict=True))


def test_channels_and_sides_are_told_beforehand_at_any_size(denoiser: Denoiser) -> None:
    s, features = denoiser.settings, _features(denoiser)
    step = s.patch * 2 ** (len(s.widths) - 1)
    for size in (step, s.size, 3 * s.size // 2, 2 * s.size):
        found = features(_pictures(denoiser, 1, size))
        assert tuple(f.shape[1] for f in found) == features.channels
        assert tuple(f.shape[2] for f in found) == tuple(f.shape[3] for f in found) == features.sides(size)
        assert {f.dtype for f in found} == {torch.float32} and all(
            f.is_contiguous(memory_format=torch.channels_last) for f in found
        )


def test_the_papers_blocks_have_the_papers_shapes(imagenet: Denoiser) -> None:
    net = imagenet
    monuseg, qata = (_features(net, blocks=b, steps=(51, 151, 251)) for b in ((6, 8, 12, 16), (4, 6, 8, 12)))
    assert (monuseg.channels, monuseg.sides(256)) == ((1536, 1536, 768, 768), (32, 64, 128, 256))
    assert (qata.channels, qata.sides(256)) == ((3072, 1536, 1536, 768), (16, 32, 64, 128))
    with torch.device("meta"):
        blocks = list(net.decoder(torch.zeros(1, 3, 256, 256), torch.tensor([51]), torch.zeros(1, 1024)))
    every = _features(net, steps=(51,))
    assert len(blocks) == 18
    assert [tuple(b.shape[1:]) for b in blocks] == [
        (c, s, s) for c, s in zip(every.channels, every.sides(256), strict=True)
    ]


def test_no_gradient_no_change_and_no_precision_of_someone_else(tiny: Denoiser) -> None:
    x, features = _pictures(tiny).requires_grad_(), _features(tiny)
    before = x.detach().clone()
    exact = features(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(features(x), exact, strict=True))
    assert not any(f.requires_grad for f in exact) and torch.equal(x, before)
    conv = nn.Conv2d(features.channels[0], 1, 1)
    conv(exact[0]).sum().backward()  # a network can learn on them
    assert conv.weight.grad is not None


def test_what_learns_on_features_does_not_hold_the_denoiser(tiny: Denoiser) -> None:
    class Head(nn.Module):
        def __init__(self, features: FrozenFeatures) -> None:
            super().__init__()
            self.features = features
            self.conv = nn.Conv2d(features.channels[0], 1, 1)

    head = Head(_features(tiny))
    assert list(head.state_dict()) == ["conv.weight", "conv.bias"]
    assert copy.deepcopy(head).features is head.features is copy.copy(head.features)


@pytest.mark.parametrize("classes", [0, 2])
def test_the_class_it_is_told(classes: int) -> None:
    told = [None, 0, 1] if classes else [None]
    for conditioning in ("add", "attention") if classes else ("add",):
        net = _random(replace(TINY, classes=classes, conditioning=conditioning))  # type: ignore[arg-type]
        x, found = _pictures(net, 1), []
        for label in told:
            features = _features(net, label=label, steps=(51,))
            noisy = T1000.add_noise(
                x, 51, torch.randn(2, 16, 16, generator=torch.Generator().manual_seed(40))
            )
            with torch.no_grad():
                expected = list(net.decoder(noisy, 51, net.embed(label)))
            found.append(features(x))
            assert all(torch.equal(a, b) for a, b in zip(found[-1], expected, strict=True))
        assert not any(torch.equal(a[-1], b[-1]) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": ()}, r"features.blocks = \[\], but it must name at least one"),
        ({"blocks": (2, 2)}, "each once"),
        ({"blocks": (-1, 2)}, r"blocks = \[-1, 2\], but the first is 0"),
        ({"blocks": (1, 4)}, r"blocks = \[1, 4\], but this denoiser's decoder has blocks 0 to 3"),
        ({"steps": ()}, "features.steps"),
        ({"steps": (51, 51)}, "each once"),
        ({"steps": (0, 51)}, "but the first is 1"),
        ({"steps": (1001,)}, r"steps = \[1001\], but the schedule has steps 1 to 1000"),
        ({"seed": -1}, "features.seed = -1"),
        ({"seed": 2**64}, "features.seed"),
        ({"label": 0}, "label = 0, .*no such class. Allowed: none: it is unconditional"),
    ],
)
def test_settings_out_of_range_are_refused(tiny: Denoiser, change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _features(tiny, **change)
    assert caught.value.repair


def test_a_class_that_is_not_there_is_refused() -> None:
    net = _random(replace(TINY, classes=2, null_row=False))
    with pytest.raises(ConfigError, match=r"no row for no class. Allowed: 0 to 1"):
        _features(net)
    assert _features(net, label=1)(_pictures(net))
    for label in (-1, 2):
        with pytest.raises(ConfigError, match=f"label = {label}, .* Allowed: 0 to 1"):
            _features(net, label=label)
    with pytest.raises(ConfigError, match="training mode"):
        _features(net.train(), label=1)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 16, 16), r"\(B, 2, S, S\), not \(1, 3, 16, 16\)"),
        ((1, 2, 16, 32), "square"),
        ((2, 16, 16), "not"),
        ((1, 2, 17, 17), r"17 px, but .*multiples of 2 px .*Prepare them with size = 16"),
        ((1, 2, 1, 1), "size = 2"),
    ],
)
def test_other_pictures_are_refused(tiny: Denoiser, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _features(tiny)(torch.zeros(shape))


def test_a_file_is_a_backbone_and_no_other_file_is_it(tmp_path: Path, tiny: Denoiser) -> None:
    path = tmp_path / "denoiser.safetensors"
    weights.save(path, tiny, {})
    settings = FeatureSettings(path, blocks=(1, 3), steps=(10,))
    loaded = weights.load_features(settings, T1000)
    assert loaded.sha256 == sha256(path) and loaded.image_channels == 2
    x = _pictures(tiny)
    for a, b in zip(loaded(x), _features(tiny, blocks=(1, 3), steps=(10,))(x), strict=True):
        assert torch.allclose(a, b, atol=1e-5 * float(b.abs().max()))
    assert weights.load_features(settings, T1000, loaded.sha256).sha256 == loaded.sha256
    other = _random(replace(TINY, widths=(32, 32)))
    weights.save(path, other, {})
    with pytest.raises(RunError, match=f"another file .*{sha256(path)}, not {loaded.sha256}"):
        weights.load_features(settings, T1000, loaded.sha256)
    path.write_bytes(b"PK\x03\x04 and so on")
    with pytest.raises(SecurityError):
        weights.load_features(settings, T1000)
    with pytest.raises(RunError, match="cannot be read"):
        weights.load_features(replace(settings, weights=tmp_path / "absent"), T1000)


def test_another_device_is_another_copy_and_the_same_one_is_not(tiny: Denoiser) -> None:
    features = _features(tiny)
    assert features.to("cpu") is features
    moved = features.to("meta")
    assert moved.denoiser.unet.conv_in.weight.device.type == "meta"
    assert features.denoiser.unet.conv_in.weight.device.type == "cpu"
    assert not any(p.requires_grad for p in moved.denoiser.parameters()) and not moved.denoiser.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_features(denoiser: Denoiser) -> None:
    features, x = _features(denoiser), _pictures(denoiser)
    there = features.to("cuda")
    assert there.to("cuda") is there
    for a, b in zip(features(x), there(x.to("cuda")), strict=True):
        assert torch.allclose(a, b.cpu(), atol=5e-3 * float(a.abs().max()))


def test_settings_survive_a_file() -> None:
    settings = FeatureSettings(Path("runs/x/weights/denoiser.safetensors"), label=1)
    assert build(FeatureSettings, plain(settings)) == settings
