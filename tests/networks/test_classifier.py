"""The classifier is ADM's encoder, and treats every member of a batch alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tagmask.config import build, plain
from tagmask.diffusion.guidance import classifier_guidance, label_gradient
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.adm_checkpoint import adm_to_classifier, adm_to_denoiser
from tagmask.networks.classifier import AttentionPool, Classifier, ClassifierSettings, SelfAttention
from tagmask.networks.denoiser import DenoiserSettings
from tagmask.networks.weights import read_tensors

TINY = ClassifierSettings(size=16, channels=2, widths=(32, 64), attention=(1,), head_channels=16)


@pytest.mark.parametrize("guided", [0, 1])
def test_published_classifier_guides_as_published(shared, guided: int) -> None:
    """Ten steps of CDM's two walks with the published networks; the guided sums hang on the classifier."""
    golden = shared / "golden"
    backbone = {"size": 32, "attention": (1, 2), "head_channels": 16}
    classifier = adm_to_classifier(
        read_tensors(golden / "classifier.safetensors"), ClassifierSettings(widths=(32, 64, 64), **backbone)
    ).eval()
    denoiser = adm_to_denoiser(
        read_tensors(golden / "adm_plain.safetensors"),
        DenoiserSettings(widths=(32, 32, 64), null_row=False, resample_blocks=False, **backbone),
    ).eval()
    with np.load(golden / "cdm.npz") as arrays:
        image, noise = torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["noise"])
        expected = torch.from_numpy(arrays[f"map_guided{guided}_clip0_offset0"])
        level, stages, kappa, scale = (arrays[k].item() for k in ("Q", "R", "kappa", "scale"))
    schedule = NoiseSchedule.linear()
    x = [schedule.add_noise(image, level, noise)] * 2
    with torch.no_grad():
        e = [denoiser.embed(1), kappa * denoiser.embed(1) + (1 - kappa) * denoiser.embed(0)]
        total = torch.zeros_like(image)
        for stage, t in enumerate(range(level, level - stages, -1)):
            for k, y in ((0, 1), (1, 0)):
                eps = denoiser(x[k], t, e[k])
                if guided:
                    gradient = label_gradient(classifier, x[k], t, torch.full((2,), y))
                    eps = classifier_guidance(eps, gradient, t, scale, schedule)
                x[k] = schedule.ddim(x[k], eps, t, t - 1)
            total += x[0] - x[1]
            # The two walks are of order 1 and nearly cancel, so float32 leaves about 3 of 7 digits.
            assert (total - expected[stage]).abs().max() <= 3e-3 * expected[stage].abs().max()


def test_members_of_a_batch_do_not_see_each_other(randomise) -> None:
    net = randomise(Classifier(TINY))
    x = torch.randn(3, 2, 16, 16, requires_grad=True)
    t = torch.tensor([0, 5, 900])
    logits = net(x, t)
    alone = torch.cat([net(x[i : i + 1], int(t[i])) for i in range(3)])
    assert logits.shape == (3, 2)
    assert torch.allclose(logits, alone, atol=1e-5)
    (gradient,) = torch.autograd.grad(logits[1].sum(), x)
    assert (gradient[[0, 2]] == 0).all()
    assert gradient[1].abs().max() > 1e-6


def test_gradient_is_the_slope(randomise) -> None:
    net = randomise(Classifier(TINY)).double()
    x, step = torch.randn(1, 2, 16, 16, dtype=torch.float64), torch.randn(1, 2, 16, 16, dtype=torch.float64)
    gradient = label_gradient(net, x, 400, torch.tensor([1]))

    def log_p(h: float) -> float:
        return F.log_softmax(net(x + h * step, 400), dim=1)[0, 1].item()

    slope = (log_p(1e-4) - log_p(-1e-4)) / 2e-4
    # label_gradient works in float32 after the logits.
    assert slope == pytest.approx(float((gradient * step).sum()), rel=1e-2, abs=1e-6)


def test_a_clean_image_shares_the_first_index(randomise) -> None:
    net = randomise(Classifier(TINY))
    x = torch.randn(2, 2, 16, 16)
    clean = net(x, 0)
    assert torch.equal(clean, net(x, 1))
    assert torch.equal(clean, net(x, torch.zeros(2, dtype=torch.long)))
    assert not torch.allclose(clean, net(x, 2), atol=1e-7)
    with pytest.raises(ConfigError, match="step t = -1"):
        net(x, -1)


def test_pooling_asks_the_mean_only(randomise) -> None:
    pool = randomise(AttentionPool(3, 32, 16, 5))
    x = torch.randn(2, 32, 3, 3)
    tokens = torch.cat([x.mean(dim=(2, 3))[:, None], x.flatten(2).mT], dim=1) + pool.position
    full, _ = F.multi_head_attention_forward(
        *[tokens.transpose(0, 1)] * 3, 32, 2, pool.qkv.weight, pool.qkv.bias, None, None, False, 0.0,
        pool.out.weight.new_zeros(32, 32).fill_diagonal_(1), None,
    )  # fmt: skip
    assert torch.allclose(pool(x), pool.out(full[0]), atol=1e-5)


def test_attention_equals_the_library(randomise) -> None:
    block = randomise(SelfAttention(32, 16, 32))
    x = torch.randn(2, 32, 4, 4)
    tokens = block.norm(x).flatten(2).permute(2, 0, 1)
    full, _ = F.multi_head_attention_forward(
        *[tokens] * 3, 32, 2, block.qkv.weight, block.qkv.bias, None, None, False, 0.0,
        block.out.weight, block.out.bias,
    )  # fmt: skip
    assert torch.allclose(block(x), x + full.permute(1, 2, 0).reshape(x.shape), atol=1e-5)


def test_bf16_and_channels_last_change_little(randomise) -> None:
    net = randomise(Classifier(replace(TINY, patch=2)))
    x = torch.randn(2, 2, 16, 16)
    exact = net(x, 400)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, 400)
    net.to(memory_format=torch.channels_last)
    other = net(x.to(memory_format=torch.channels_last), 400)
    scale = float(exact.detach().abs().max())
    assert rough.dtype == torch.float32
    assert 0 < float((rough - exact).detach().abs().max()) < 0.1 * scale
    assert torch.allclose(other, exact, atol=1e-4 * scale)


def test_learns_a_bright_square() -> None:
    torch.manual_seed(0)
    net = Classifier(ClassifierSettings(size=8, widths=(32, 32), attention=(), head_channels=16))
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    y = torch.arange(16) % 2
    for _ in range(30):
        x = 0.3 * torch.randn(16, 1, 8, 8)
        x[y == 1, :, 2:5, 2:5] += 1
        loss = F.cross_entropy(net(x, 1), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 17}, "classifier.size = 17"),
        ({"head_channels": 48}, "do not divide the attending width 64"),
        ({"classes": 1}, "classes = 1"),
        ({"attention": (5,)}, "levels run from 0 to 1"),
    ],
)
def test_refuses_settings_that_make_no_network(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TINY, **change)


def test_refuses_other_images() -> None:
    with pytest.raises(ConfigError, match=r"the classifier takes images of shape \(B, 2, 16, 16\)"):
        Classifier(TINY)(torch.zeros(1, 1, 16, 16), 0)


def test_settings_survive_a_file() -> None:
    for settings in (ClassifierSettings(), TINY):
        assert build(ClassifierSettings, plain(settings)) == settings
