"""The denoiser is ADM's U-Net: by its published sizes, by diffusers' own walk, and by golden outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tagmask.config import build, plain
from tagmask.errors import ConfigError
from tagmask.networks.adm_checkpoint import PUBLISHED, adm_to_denoiser
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.weights import read_tensors

TINY = DenoiserSettings(size=16, channels=2, widths=(32, 64), blocks=1, attention=(1,), head_channels=16)
VARIANTS = {
    "add": TINY,
    "attention": replace(TINY, conditioning="attention"),
    "heads, convolutions, no FiLM": replace(
        TINY, head_channels=None, heads=2, resample_blocks=False, scale_shift=False, attention=(0, 1)
    ),
    "patches, unconditional": replace(TINY, patch=2, classes=0, learn_sigma=True),
}
CDM = DenoiserSettings(
    channels=3,
    widths=(128, 128, 256, 256, 512, 512),
    blocks=3,
    attention=(),
    heads=4,
    learn_sigma=True,
    resample_blocks=False,
    null_row=False,
    size=224,
)
WOLLEB = replace(CDM, size=256, channels=4, blocks=2, attention=(4,), heads=1, scale_shift=False)
ANOFPDM = DenoiserSettings(
    size=128,
    channels=4,
    widths=(128, 128, 256, 384, 512),
    blocks=2,
    attention=(2, 3, 4),
    heads=4,
    resample_blocks=False,
    conditioning="attention",
)
ADM_256 = PUBLISHED["imagenet-256"]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        (ANOFPDM, 103_082_500),
        (replace(ANOFPDM, channels=1), 103_075_585),
        (replace(ANOFPDM, classes=0, conditioning="add"), 96_318_468),
        (ADM_256, 552_814_086),
        (CDM, 149_587_334),
        (replace(CDM, null_row=True), 149_587_334 + 512),
        (replace(CDM, size=256, attention=(4, 5)), 164_310_406),
        (WOLLEB, 113_681_160),
    ],
    ids=["AnoFPDM", "ATLAS", "unconditional", "ADM 256", "CDM 224", "null row", "CDM 256", "Wolleb"],
)
def test_has_the_published_number_of_parameters(settings: DenoiserSettings, count: int) -> None:
    with torch.device("meta"):
        net = Denoiser(settings)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("adm_plain", {"head_channels": 16, "null_row": False, "resample_blocks": False}),
        ("adm_updown", {"head_channels": 16, "null_row": False}),
        (
            "adm_learnsigma_uncond",
            {"heads": 4, "learn_sigma": True, "classes": 0, "resample_blocks": False},
        ),
    ],
)
def test_published_weights_give_published_outputs(shared, name: str, settings: dict) -> None:
    made = DenoiserSettings(size=32, widths=(32, 32, 64), attention=(1, 2), **settings)
    net = adm_to_denoiser(read_tensors(shared / "golden" / f"{name}.safetensors"), made).eval()
    with np.load(shared / "golden" / f"{name}_io.npz") as arrays:
        x, index, y, eps = (torch.from_numpy(arrays[key]) for key in ("x", "t", "y", "eps"))
    with torch.no_grad():
        found, v = net.eps_and_variance(x, index + 1, net.embed(y if made.classes else None))
    found = found if v is None else torch.cat([found, v], dim=1)
    assert (found - eps).abs().max() <= 1e-4 * eps.abs().max()
    assert eps.abs().mean() > 0.5


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "attention"])
def test_walks_the_unet_as_diffusers_does_one_index_below_the_step(randomise, name: str) -> None:
    net = randomise(Denoiser(VARIANTS[name]))
    s = net.settings
    x, e = torch.randn(3, s.channels, s.size, s.size), torch.randn(3, net.embedding_width)
    for t in (1, 400, torch.tensor([1, 20, 1000])):
        patches = F.pixel_unshuffle(x, s.patch)
        oracle = F.pixel_shuffle(net.unet(patches, torch.as_tensor(t) - 1, class_labels=e).sample, s.patch)
        assert torch.equal(net(x, t, e), oracle[:, : s.channels])
        assert oracle.abs().max() > 0.01


def test_class_tokens_equal_the_outer_product_written_out(randomise) -> None:
    net = randomise(Denoiser(VARIANTS["attention"]))
    block = net.unet.mid_block.attentions[0]
    h, c = torch.randn(2, 64, 4, 4), torch.randn(2, 128)
    outer = c[:, :, None] * c[:, None, :]
    extra = block.class_kv(outer)  # (B, E tokens, 2F), each F split as (heads, 2, head width)
    image, heads = block.image, block.image.heads
    assert heads == 4
    normal = image.group_norm(h).flatten(2).transpose(1, 2)
    out = torch.empty(2, 16, 64)
    for k in range(heads):
        part = slice(16 * k, 16 * (k + 1))
        key, value = extra[:, :, 32 * k : 32 * k + 16], extra[:, :, 32 * k + 16 : 32 * k + 32]
        key = torch.cat([key, image.to_k(normal)[:, :, part]], dim=1)
        value = torch.cat([value, image.to_v(normal)[:, :, part]], dim=1)
        weight = (image.to_q(normal)[:, :, part] @ key.mT / 4).softmax(-1)
        out[:, :, part] = weight @ value
    expected = image.to_out[0](out).mT.reshape(h.shape) + h
    assert torch.allclose(block(h, c), expected, atol=1e-5)
    assert not torch.allclose(block(h, 0 * c), expected, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_slice_alone_equals_itself_in_company(randomise, name: str) -> None:
    net = randomise(Denoiser(VARIANTS[name]))
    s = net.settings
    x = torch.randn(4, s.channels, s.size, s.size)
    y = torch.tensor([0, 1, 2, 0]) if s.classes else torch.zeros(4, dtype=torch.long)
    t = torch.tensor([1, 300, 400, 1000])
    together = net(x, t, net.embed(y))
    alone = torch.cat([net(x[i : i + 1], int(t[i]), net.embed(y[i : i + 1])) for i in range(4)])
    assert together.shape == x.shape
    assert torch.allclose(together, alone, atol=1e-5 * float(together.detach().abs().max()))
    assert (together[0] - together[3]).abs().max() > 1e-3


def test_large_slices_go_one_by_one_where_nothing_is_learnt(
    randomise, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = randomise(Denoiser(VARIANTS["add"]))
    s = net.settings
    x, t, e = torch.randn(3, s.channels, s.size, s.size), torch.tensor([9]), net.embed(1)
    sizes: list[int] = []
    net.unet.conv_in.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    together = net(x, t, e)
    monkeypatch.setattr("tagmask.networks.denoiser._TOGETHER", 0)
    assert torch.equal(net(x, t, e), together), "a training is as it was"
    with torch.no_grad():
        for step in (t, t.expand(3), 9):
            assert torch.allclose(net(x, step, e), together, atol=1e-5 * float(together.detach().abs().max()))
    assert sizes == [3, 3, *[1] * 9]


@pytest.mark.parametrize("conditioning", ["add", "attention"])
def test_embeds_classes_and_their_absence(conditioning) -> None:
    net = Denoiser(replace(TINY, conditioning=conditioning))
    rows = net.embed(torch.tensor([0, 1, 2]))
    assert rows.shape == (3, 128)
    for row, y in zip(rows, (0, 1, 2), strict=True):
        assert torch.allclose(net.embed(y)[0], row, atol=1e-6)
    assert torch.equal(net.embed(None), net.embed(2))
    assert not torch.equal(rows[0], rows[1])
    assert (rows[2] == 0).all() == (conditioning == "attention")
    for wrong in (-1, 3):
        with pytest.raises(ConfigError, match=f"class {wrong} "):
            net.embed(wrong)
    with pytest.raises(IndexError):
        net.embed(torch.tensor([3]))


def test_classes_start_near_each_other() -> None:
    torch.manual_seed(0)
    table = Denoiser(DenoiserSettings()).table.weight
    assert 0.15 < float(table.detach().std()) < 0.25


def test_without_a_null_row_no_class_is_refused() -> None:
    net = Denoiser(replace(TINY, null_row=False))
    assert net.table.weight.shape == (2, 128)
    for y in (None, 2, torch.tensor([0, 2])):
        with pytest.raises(ConfigError, match="without a row for no class"):
            net.embed(y)


def test_unconditional_has_one_condition() -> None:
    net = Denoiser(replace(TINY, classes=0))
    assert torch.equal(net.embed(None), torch.zeros(1, 128))
    with pytest.raises(ConfigError, match="class 1 "):
        net.embed(1)


def test_every_condition_reaches_the_output(randomise) -> None:
    for name in ("add", "attention"):
        net = randomise(Denoiser(VARIANTS[name]))
        x = torch.randn(1, 2, 16, 16)
        outputs = [net(x, 400, net.embed(y)) for y in (0, 1, None)]
        outputs.append(net(x, 400, 0.95 * net.embed(1) + 0.05 * net.embed(0)))
        for i, a in enumerate(outputs):
            for b in outputs[:i]:
                assert (a - b).abs().max() > 1e-6


def test_starts_at_zero_and_learns() -> None:
    torch.manual_seed(0)
    for settings in VARIANTS.values():
        net = Denoiser(settings)
        x = torch.randn(2, 2, 16, 16)
        out = net(x, 5, net.embed(None))
        assert (out == 0).all()
        (out - x).square().mean().backward()
        assert net.unet.conv_out.weight.grad.abs().max() > 0


def test_learnt_variance_comes_beside_the_noise(randomise) -> None:
    net = randomise(Denoiser(VARIANTS["patches, unconditional"]))
    x, e = torch.randn(2, 2, 16, 16), net.embed(None)
    eps, v = net.eps_and_variance(x, 7, e)
    assert torch.equal(net(x, 7, e), eps)
    assert v.shape == eps.shape
    assert not torch.allclose(v, eps)
    plain_net = Denoiser(TINY)
    assert plain_net.eps_and_variance(x, 7, plain_net.embed(0))[1] is None


@pytest.mark.parametrize("name", VARIANTS)
def test_bf16_and_channels_last_change_little(randomise, name: str) -> None:
    net = randomise(Denoiser(VARIANTS[name]))
    x, e = torch.randn(2, 2, 16, 16), net.embed(None)
    with torch.no_grad():
        exact = net(x, 400, e)
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(x, 400, net.embed(None))
        net.to(memory_format=torch.channels_last)
        other = net(x.to(memory_format=torch.channels_last), 400, e)
    scale = float(exact.abs().max())
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).abs().max()) < 0.1 * scale
    assert torch.allclose(other, exact, atol=1e-4 * scale)


def test_dropout_acts_in_training_alone(randomise) -> None:
    net = randomise(Denoiser(replace(TINY, dropout=0.5)))
    x, e = torch.randn(1, 2, 16, 16), net.embed(0)
    assert torch.equal(net(x, 5, e), net(x, 5, e))
    net.train()
    assert not torch.equal(net(x, 5, e), net(x, 5, e))


def test_refuses_other_images_and_the_clean_step() -> None:
    net = Denoiser(TINY)
    e = net.embed(0)
    for shape in ((1, 2, 32, 32), (1, 1, 16, 16), (2, 16, 16)):
        with pytest.raises(ConfigError, match=r"\(B, 2, 16, 16\), not"):
            net(torch.zeros(shape), 5, e)
    with pytest.raises(ConfigError, match="step t = 0"):
        net(torch.zeros(1, 2, 16, 16), 0, e)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 18, "widths": (32, 32, 32)}, "size = 18 does not divide by 4 .*Use size = 16"),
        ({"size": 20, "patch": 8}, "size = 20 does not divide by 16"),
        ({"size": 0}, "size = 0"),
        ({"channels": 0}, "channels = 0"),
        ({"blocks": 0}, "blocks = 0"),
        ({"patch": 0}, "patch = 0"),
        ({"widths": ()}, r"widths = \[\]"),
        ({"widths": (32, 36)}, "multiple of 8"),
        ({"attention": (2,)}, "levels run from 0 to 1"),
        ({"attention": (1, 1)}, "each named once"),
        ({"heads": 2}, "only one of the two"),
        ({"head_channels": 24}, "do not divide the attending width 64"),
        ({"head_channels": 64, "attention": (0,)}, "do not divide the attending width 32"),
        ({"head_channels": 0}, "do not divide"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"classes": -1}, "classes = -1"),
        ({"conditioning": "film"}, "film"),
        ({"conditioning": "attention", "classes": 0}, "classes = 0"),
    ],
)
def test_refuses_settings_that_make_no_network(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        replace(TINY, **change)
    assert caught.value.repair


def test_settings_survive_a_file() -> None:
    for settings in (DenoiserSettings(), *VARIANTS.values(), CDM):
        assert build(DenoiserSettings, plain(settings)) == settings
    assert plain(DenoiserSettings())["head_channels"] == 32


def test_narrow_networks_have_fewer_groups() -> None:
    assert replace(TINY, widths=(8, 24), head_channels=8).groups == 8
    assert CDM.groups == ADM_256.groups == 32
