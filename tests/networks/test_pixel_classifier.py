"""The pixel classifier in bounded memory is the published one in plenty; its members vote, doubt and learn alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tagmask.config import build, plain
from tagmask.errors import ConfigError
from tagmask.networks.pixel_classifier import (
    PixelClassifier,
    PixelClassifierSettings,
    jensen_shannon,
    picture_uncertainty,
)
from tests.still import StillFeatures, backbone, largest_tensor, random_features, sentences

CHANNELS, SIDES, SIZE = (7, 5, 3), (2, 4, 8), 16


def small(channels: tuple[int, ...] = CHANNELS, **changes: Any) -> PixelClassifierSettings:
    shape = {"members": 3, "widths": (6, 4), "size": SIZE}
    return PixelClassifierSettings(backbone(len(channels)), channels, **(shape | changes))


def network(**changes: Any) -> PixelClassifier:
    """A small ensemble in evaluation mode, none of whose parameters is 0, 1 or negligible."""
    net = PixelClassifier(small(**changes)).eval()
    generator = torch.Generator().manual_seed(7)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.2 + torch.rand(tensor.shape, generator=generator) - 0.6 * (tensor.ndim > 1))
    return net


def published_logits(net: PixelClassifier, features: list[Tensor], size: int) -> Tensor:
    """As published: everything enlarged, side by side, and every pixel through every perceptron. (M, N, 2)."""
    large = [F.interpolate(f, (size, size), mode="bilinear", align_corners=False) for f in features]
    x = torch.cat(large, dim=1).movedim(1, -1).flatten(0, 2)
    w, found = net.state_dict(), []
    for m in range(len(net.members)):
        name = f"members.{m}"
        h = x @ w[f"{name}.first.weight"].T + w[f"{name}.first.bias"]
        for norm, linear in ((1, 2), (4, 5)):
            mean, var, gain, shift = (
                w[f"{name}.rest.{norm}.{which}"]
                for which in ("running_mean", "running_var", "weight", "bias")
            )
            h = (h.clamp(min=0) - mean) / torch.sqrt(var + 1e-5) * gain + shift
            h = h @ w[f"{name}.rest.{linear}.weight"].T + w[f"{name}.rest.{linear}.bias"]
        found.append(h)
    return torch.stack(found)


@torch.no_grad()
def test_projecting_before_enlarging_equals_the_published_form() -> None:
    net, features = network(), random_features(CHANNELS, SIDES)
    p = published_logits(net, features, SIZE).softmax(dim=-1)[..., 1].reshape(3, 2, 1, SIZE, SIZE)
    assert float(p.std()) > 0.01
    assert torch.allclose(net.probabilities(features, SIZE), p, atol=1e-5)
    assert torch.allclose(net.decode(features, SIZE).sigmoid(), p.mean(dim=0), atol=1e-5)


def test_nothing_is_held_for_every_channel_of_every_pixel() -> None:
    net = PixelClassifier(small((200, 300), widths=(6, 4))).train()
    features = random_features((200, 300), (4, 8), 2)
    with largest_tensor() as sizes:
        net.decode(features, 64).sum().backward()
    assert sizes.largest <= max(2 * 6 * 64**2, 2 * 300 * 8**2)  # of 4 M numbers as published, 50 thousand
    with largest_tensor() as sizes:
        net.loss(features, torch.zeros(2, 1, 64, 64), torch.Generator()).backward()
    assert sizes.largest <= max(3 * 64 * 500, 2 * 300 * 8**2)


def test_has_the_published_number_of_parameters() -> None:
    """8448 - 128 - 32 - 2, norms of the hidden layers, ten times."""
    one = 8448 * 128 + 128 + 256 + 128 * 32 + 32 + 64 + 32 * 2 + 2
    with torch.device("meta"):
        net = PixelClassifier(PixelClassifierSettings(backbone(5), (3072, 1536, 1536, 1536, 768)))
    assert sum(p.numel() for p in net.parameters()) == 10 * one


@torch.no_grad()
def test_starts_as_published() -> None:
    net = PixelClassifier(small((512,), members=2, widths=(64, 32)))
    first, second = net.members
    assert abs(float(first.first.weight.std()) - 0.02) < 1e-3 and not first.first.bias.any()
    assert not torch.equal(first.first.weight, second.first.weight)
    assert bool((first.rest[1].weight == 1).all())  # the code's rule for norms names those of two dimensions


@torch.no_grad()
def test_the_map_is_of_the_mean_probability_however_sure_members_are() -> None:
    net, features = network(), random_features(CHANNELS, SIDES)
    for k, member in enumerate(net.members):
        member.rest[5].weight.zero_()
        member.rest[5].bias.copy_(torch.tensor([0.0, (200.0, 150.0, 0.0)[k]]))
    found = net.decode(features, SIZE)  # (1 + 1 + 0.5) / 3: odds of 5
    assert torch.allclose(found, torch.tensor(math.log(5.0)), atol=1e-5)
    for member in net.members:
        member.rest[5].bias.copy_(torch.tensor([200.0, 0.0]))
    assert torch.allclose(net.decode(features, SIZE), torch.tensor(-200.0))


@torch.no_grad()
def test_a_picture_alone_is_a_picture_in_company_and_text_is_not_read() -> None:
    net, features = network(), random_features(CHANNELS, SIDES, 3)
    together = net.decode(features, SIZE)
    alone = [net.decode([f[i : i + 1] for f in features], SIZE) for i in range(3)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)
    assert torch.equal(net.decode(features, SIZE, sentences(3)), together)
    net.attach(StillFeatures(CHANNELS, SIDES))
    assert net(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, 1, SIZE, SIZE)
    assert not any("columns" in name for name in net.state_dict())


def test_disagreement_is_entropy_of_the_mean_minus_mean_of_entropies() -> None:
    p = torch.rand(3, 2, 1, 2, 2)

    def entropy(q: float) -> float:
        return -q * math.log(q) - (1 - q) * math.log(1 - q)

    found = jensen_shannon(p)
    assert found.shape == (2, 1, 2, 2)
    for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(2), torch.arange(2)).tolist():
        said = [float(p[m, b, 0, i, j]) for m in range(3)]
        expected = entropy(sum(said) / 3) - sum(map(entropy, said)) / 3
        assert float(found[b, 0, i, j]) == pytest.approx(expected, abs=1e-6)
    assert not jensen_shannon(p[:1].repeat(4, 1, 1, 1, 1)).gt(1e-6).any()  # all say the same
    opposed = torch.stack([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)])
    assert torch.allclose(jensen_shannon(opposed), torch.tensor(math.log(2)))  # and none is finite by luck


def test_a_pictures_uncertainty_is_that_of_its_most_uncertain_tenth() -> None:
    doubt = torch.rand(2, 1, 9, 5)  # a tenth of 45: four
    for b in range(2):
        top = sorted(doubt[b].flatten().tolist())[-4:]
        assert float(picture_uncertainty(doubt)[b]) == pytest.approx(sum(top) / 4)
    assert torch.equal(picture_uncertainty(doubt[:, :, :1]), doubt[:, 0, 0].amax(dim=1))  # a tenth of 5: one
    assert torch.allclose(picture_uncertainty(doubt, 1.0), doubt.mean(dim=(1, 2, 3)))


def test_members_learn_alone_from_pixels_of_their_own() -> None:
    net, features = network().train(), random_features(CHANNELS, SIDES)
    mask = (torch.rand(2, 1, SIZE, SIZE) > 0.7).float()
    losses = net.member_losses(features, mask, torch.Generator().manual_seed(1))
    again = net.loss(features, mask, torch.Generator().manual_seed(1))
    assert torch.allclose(losses.sum(), again) and losses.shape == (3,)
    other = net.member_losses(features, mask, torch.Generator().manual_seed(2))
    assert not torch.allclose(losses, other)
    losses[1].backward()
    reached = [
        sum(float(p.grad.abs().sum()) for p in m.parameters() if p.grad is not None) for m in net.members
    ]
    assert reached[0] == reached[2] == 0 and reached[1] > 0
    twins = network().train()
    for member in twins.members:  # three times the same one
        member.load_state_dict(twins.members[0].state_dict())
    assert len(set(twins.member_losses(features, mask, torch.Generator()).tolist())) == 3


def test_the_loss_is_cross_entropy_over_batch_norms_of_the_pixels_drawn() -> None:
    """With as many draws as it takes to see every pixel alike, it is the loss over all pixels."""
    net, features = network(members=1, pixels=40_000), random_features(CHANNELS, SIDES)
    mask = (torch.rand(2, 1, SIZE, SIZE) > 0.7).float()
    with torch.no_grad():
        sampled = float(net.loss(features, mask, torch.Generator().manual_seed(0)))
        everywhere = F.cross_entropy(published_logits(net, features, SIZE)[0], mask.flatten().long())
    assert sampled == pytest.approx(float(everywhere), rel=0.02)


def test_every_parameter_learns() -> None:
    for route in ("loss", "decode"):
        net, features = network().train(), random_features(CHANNELS, SIDES)
        if route == "loss":
            net.loss(features, torch.zeros(2, 1, SIZE, SIZE), torch.Generator()).backward()
        else:
            net.decode(features, SIZE).square().sum().backward()
        assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_learns_a_threshold_of_its_features() -> None:
    column = torch.linspace(-1, 1, 8).expand(2, 1, 8, 8)
    features = [torch.cat([column, torch.randn(2, 2, 8, 8)], dim=1)]
    mask = (column > 0.2).float()
    net = PixelClassifier(small((3,), size=8)).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-2)
    for step in range(60):
        optimiser.zero_grad()
        net.loss(features, mask, torch.Generator().manual_seed(step)).backward()
        optimiser.step()
    with torch.no_grad():
        p = net.eval().probabilities(features, 8)
    assert float(((p.mean(dim=0) > 0.5).float() - mask).abs().mean()) < 0.03


def test_bf16_keeps_the_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert network().decode(random_features(CHANNELS, SIDES), SIZE).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": 0}, "pixel_classifier.members = 0"),
        ({"widths": (6, 0)}, r"widths = \[6, 0\]"),
        ({"pixels": 1}, "pixels = 1"),
        ({"size": 0}, "pixel_classifier.size = 0"),
    ],
)
def test_settings_that_make_no_head_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        small(**change)
    assert caught.value.repair


def test_settings_survive_a_file() -> None:
    assert build(PixelClassifierSettings, plain(small(pixels=9))) == small(pixels=9)
