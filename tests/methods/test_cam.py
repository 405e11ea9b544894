"""Class activation maps: formulas by hand, worlds whose map is known, and the common library as an oracle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError, RunError
from tagmask.methods import METHODS, settings_of
from tagmask.methods.cam import (
    CAM,
    CAMSettings,
    Kind,
    grad_cam,
    grad_cam_pp,
    layer_cam,
    principal,
    scaled,
    score_cam,
)
from tagmask.networks.cnn import CNN, CNNSettings
from tagmask.runs import Run
from tagmask.types import Batch
from tests.contract import test_every_method as contract
from tests.random_run import network, write_run

KINDS: tuple[Kind, ...] = ("grad_cam", "grad_cam_pp", "score_cam", "layer_cam")
# 2 x 2 maps of two channels, and a gradient for each place.
A = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [0.0, 1.0]]]])
G = torch.tensor([[[[1.0, 0.0], [-1.0, 2.0]], [[1.0, 1.0], [1.0, 1.0]]]])


def batch_of(count: int) -> Batch:
    """Slices as the contract suite has them."""
    return contract.batch_of("grad_cam", count)


class Detectors(nn.Module):
    """Channel k lights up where the image is brighter than its threshold; the logits weigh the mean lights.

    So G is V / (h w) everywhere, and every map can be written down.
    """

    def __init__(self, thresholds: list[float], weights: list[list[float]]) -> None:
        super().__init__()
        self.thresholds, self.weights = torch.tensor(thresholds), torch.tensor(weights)
        self.lights, self.seen = nn.Identity(), list[int]()

    def forward(self, x: Tensor, t: int = 0) -> Tensor:
        self.seen.append(len(x))
        lights = self.lights((x > self.thresholds[:, None, None]).float())
        return lights.mean(dim=(2, 3)) @ self.weights.T

    def layer(self, name: object) -> nn.Module:
        return self.lights


def plain(net: Any, kind: Kind = "grad_cam", **settings: Any) -> CAM:
    """A map without smoothing unless it is asked for."""
    table = {"network": "cnn", "aug_smooth": False, "eigen_smooth": False, **settings}
    return CAM(net, NoiseSchedule.linear(), kind, CAMSettings(**table))


def scene(count: int = 3) -> tuple[Batch, Tensor]:
    """Slices with a bright square on a grey body in black air, and the square."""
    square = torch.zeros(count, 1, 12, 12)
    body = torch.zeros_like(square)
    body[..., 1:11, 1:11] = 1
    for i in range(count):
        square[i, :, 3 + i : 6 + i, 4:8] = 1
    return Batch(-1 + 0.8 * body + 0.9 * square, tuple(f"s/{i}" for i in range(count))), square


# formulas, by hand


def test_grad_cam_by_hand() -> None:
    found = grad_cam(A, G)  # the means of G are 1/2 and 1
    assert torch.allclose(found, torch.tensor([[[[0.5, 1.0], [1.5, 2.0]], [[0.0, 1.0], [0.0, 1.0]]]]))


def test_grad_cam_pp_by_hand() -> None:
    # ΣA is 10 and 2. α = 1/(2 + 10) and 4/(8 + 80) where G is 1 and 2; 1/(2 + 2) in the other channel.
    w = torch.tensor([1 / 12 + 2 * 4 / 88, 4 * 1 / 4])
    assert torch.allclose(grad_cam_pp(A, G), w[None, :, None, None] * A, rtol=1e-5)


def test_grad_cam_pp_has_no_weight_where_nothing_leads() -> None:
    assert torch.equal(grad_cam_pp(A, torch.zeros_like(G)), torch.zeros_like(A))
    # An A of this size and sign makes 2 G² + ΣA G³ + 1e-6 exactly 0.
    g = torch.full((1, 1, 1, 1), 2.0**-11)
    a = -(2 * g**2 + 1e-6) / g**3
    assert float(2 * g**2 + a * g**3 + 1e-6) == 0
    assert torch.equal(grad_cam_pp(a, g), torch.zeros_like(a))


def test_layer_cam_by_hand() -> None:
    expected = torch.tensor([[[[1.0, 0.0], [0.0, 8.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    assert torch.equal(layer_cam(A, G), expected)


def test_score_cam_by_hand() -> None:
    found = score_cam(A, torch.tensor([[0.0, math.log(3)]]))
    assert torch.allclose(found, torch.tensor([0.25, 0.75])[None, :, None, None] * A)
    dropped = score_cam(A, torch.tensor([[-math.inf, -50.0]]))
    assert torch.equal(dropped[:, 0], torch.zeros(1, 2, 2)) and torch.equal(dropped[:, 1], A[:, 1])
    assert torch.equal(score_cam(A, torch.full((1, 2), -math.inf)), torch.zeros_like(A))


def test_scaled_by_hand() -> None:
    found = scaled(torch.tensor([[[[2.0, 4.0], [3.0, 2.0]]], [[[5.0, 5.0], [5.0, 5.0]]]]))
    assert torch.allclose(found[0], torch.tensor([[[0.0, 1.0], [0.5, 0.0]]]), atol=1e-6)
    assert torch.equal(found[1], torch.zeros(1, 2, 2))


@pytest.mark.parametrize(("channels", "side"), [(3, 6), (40, 4), (16, 4), (1, 5)])
def test_the_principal_component_is_that_of_the_full_svd(channels: int, side: int) -> None:
    maps = torch.randn(4, channels, side, side, generator=torch.Generator().manual_seed(channels)) + 0.3
    found = principal(maps)
    x = maps.flatten(2).mT.double()
    x = x - x.mean(dim=1, keepdim=True)
    v = torch.linalg.svd(x, full_matrices=True)[2][:, 0]
    full = (x @ v[:, :, None]).reshape(found.shape)
    largest = full.abs().amax(dim=(2, 3), keepdim=True)
    error = torch.minimum((found - full).abs(), (found + full).abs()) / largest
    assert float(error.max()) < 1e-6
    total = maps.sum(dim=1, keepdim=True)
    agreement = ((total - total.mean(dim=(2, 3), keepdim=True)) * found).sum(dim=(1, 2, 3))
    assert (agreement > 0).all()  # the sign of a singular vector is arbitrary: ours is this one
    assert torch.allclose(principal(-maps), -found, atol=1e-5)


def test_the_principal_component_of_one_pattern_is_that_pattern() -> None:
    pattern = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    maps = pattern * torch.tensor([3.0, -1.0, 0.5])[None, :, None, None]
    centred = pattern - pattern.mean()
    assert torch.allclose(principal(maps), centred * math.sqrt(9 + 1 + 0.25), atol=1e-5)
    assert torch.equal(principal(torch.full((2, 3, 4, 4), 7.0)), torch.zeros(2, 1, 4, 4))


# worlds


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_in_a_world_of_detectors_the_map_is_the_target(kind: Kind, smooth: bool) -> None:
    batch, square = scene()
    net = Detectors([0.3, 3.0], [[0.0, 0.0], [4.0, 4.0]])  # the second detector never lights
    found = plain(net, kind, eigen_smooth=smooth, aug_smooth=smooth).predict(batch)
    assert torch.allclose(found.score_map, square, atol=1e-5)


def test_channels_weigh_by_their_part_in_the_logit() -> None:
    batch, square = scene()
    body = (batch.image > -0.9).float()
    both = Detectors([0.3, -0.9], [[0.0, 0.0], [3.0, 1.0]])
    assert torch.allclose(plain(both).predict(batch).score_map, 0.75 * square + 0.25 * body, atol=1e-5)
    # What speaks against the tag is cut off: 1 inside the square, -1 in the rest of the body, 0 in the air.
    against = Detectors([0.3, -0.9], [[0.0, 0.0], [2.0, -1.0]])
    assert torch.allclose(plain(against).predict(batch).score_map, square, atol=1e-5)


def test_the_margin_forgets_what_both_logits_share() -> None:
    batch, square = scene()
    net = Detectors([0.3, -0.9], [[0.0, 9.0], [1.0, 9.0]])
    assert torch.allclose(plain(net, class_score="margin").predict(batch).score_map, square, atol=1e-5)
    assert not torch.allclose(plain(net).predict(batch).score_map, square, atol=0.5)


def test_score_cam_masks_towards_black_and_weighs_by_the_logit() -> None:
    batch, square = scene(1)
    body = (batch.image > -0.9).float()
    net = Detectors([0.3, -0.9], [[0.0, 0.0], [5.0, 1.0]])
    # Seen through the square alone, square and body both light up in the square; through the body all is seen.
    through_square = 5 * square.mean() + square.mean()
    through_body = 5 * square.mean() + body.mean()
    w = torch.stack([through_square, through_body]).softmax(0)
    expected = w[0] * square + w[1] * body
    assert torch.allclose(plain(net, "score_cam").predict(batch).score_map, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_without_a_trace_has_an_empty_map(kind: Kind) -> None:
    batch, _ = scene()
    dark = Detectors([3.0, 4.0], [[0.0, 0.0], [1.0, 1.0]])  # every channel is constant: all are dropped
    assert torch.equal(plain(dark, kind).predict(batch).score_map, torch.zeros(3, 1, 12, 12))


# Score-CAM's masks


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_score_cam_equals_one_mask_at_a_time(size: int) -> None:
    net: Any = network("cnn")
    for norm in (net.levels[-1][-1].norms[-1], net.levels[-1][-1].skip[1]):
        norm.weight[3], norm.bias[3] = 0, 1  # one channel is constant
    batch = batch_of(3)
    expected = []
    for x in batch.image.split(1):
        kept: list[Tensor] = []
        handle = net.layer("pooled").register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        net(x)
        handle.remove()
        scores = []
        for channel in kept[0][0]:
            m = F.interpolate(channel[None, None], (16, 16), mode="bilinear", align_corners=False)
            if float(m.max()) == float(m.min()):
                scores.append(-math.inf)
                continue
            m = (m - m.min()) / (m.max() - m.min())
            scores.append(float(net((x + 1) * m - 1)[0, 1]))
        assert 1 <= scores.count(-math.inf) < 8
        w = torch.tensor(scores).softmax(0)
        total = (w[:, None, None] * kept[0][0]).sum(0)[None, None].relu()
        expected.append(scaled(F.interpolate(scaled(total), (16, 16), mode="bilinear")))
    found = plain(net, "score_cam", batch=size).predict(batch).score_map
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)


def test_score_cam_sends_live_masks_alone_and_no_more_than_a_batch() -> None:
    batch, _ = scene()
    net = Detectors([0.3, -0.9, 3.0], [[0.0] * 3, [1.0] * 3])
    plain(net, "score_cam", batch=4).predict(batch)
    assert net.seen == [3, 4, 2, 3]  # the slices, two live masks of each, the slices for their score


@pytest.mark.parametrize("kind", KINDS)
def test_noise_goes_with_its_slice(kind: Kind) -> None:
    batch, method = batch_of(3), plain(network("classifier"), kind, network="classifier", step=300, batch=7)
    together = method.predict(batch, 2).score_map
    alone = [method.predict(Batch(batch.image[i : i + 1], (batch.ids[i],)), 2).score_map for i in range(3)]
    assert torch.allclose(torch.cat(alone), together, atol=1e-5)


# smoothing over components and views


def test_eigen_smooth_takes_what_is_positive_of_the_principal_component() -> None:
    net: Any = network("cnn")
    batch = batch_of(2)
    with torch.enable_grad():
        a, score = plain(net)._activations(batch.image, batch.image)
        (g,) = torch.autograd.grad(score.sum(), a)
    component = principal(grad_cam(a.detach(), g))
    expected = scaled(F.interpolate(scaled(component.relu()), (16, 16), mode="bilinear"))
    found = plain(net, eigen_smooth=True).predict(batch).score_map
    assert float(component.min()) < 0 < float(component.max())
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_aug_smooth_is_the_mean_of_six_views(kind: Kind) -> None:
    net, batch = network("cnn"), batch_of(2)
    views = []
    for contrast in (0.9, 1.0, 1.1):
        image = (batch.image + 1) * contrast - 1
        for mirror in (False, True):
            view = Batch(image.flip(-1) if mirror else image, batch.ids)
            found = plain(net, kind).predict(view).score_map
            views.append(found.flip(-1) if mirror else found)
    smooth = plain(net, kind, aug_smooth=True).predict(batch).score_map
    assert torch.allclose(smooth, torch.stack(views).mean(0), atol=1e-5)
    assert not torch.allclose(smooth, views[2], atol=1e-2)


# networks, layers, steps


@pytest.mark.parametrize("name", ["classifier", "cnn"])
@pytest.mark.parametrize(("layer", "side"), [("pooled", 8), ("middle", 8), (0, 16), (1, 8)])
def test_a_layer_is_read_at_its_own_resolution(name: Any, layer: Any, side: int) -> None:
    net, batch, shapes = network(name), batch_of(2), []
    net.layer(layer).register_forward_hook(lambda _m, _i, out: shapes.append(out.shape[-2:]))  # type: ignore[operator]
    found = plain(net, "layer_cam", network=name, layer=layer).predict(batch).score_map
    assert set(shapes) == {(side, side)} and found.isfinite().all() and float(found.std()) > 1e-3


@pytest.mark.parametrize("name", ["classifier", "cnn"])
@pytest.mark.parametrize("layer", [-1, 2])
def test_a_layer_that_is_not_there_is_refused(name: Any, layer: int) -> None:
    with pytest.raises(ConfigError, match=f"layer = {layer}, but the {name}'s levels run from 0 to 1"):
        plain(network(name), network=name, layer=layer)


def test_before_a_group_norm_the_weights_of_grad_cam_cancel() -> None:
    """Why the layer is "pooled" and not "middle": no constant passes the norm that follows (ADR 10)."""
    net, x = network("classifier"), batch_of(2).image
    sums = {}
    for layer in ("middle", "pooled"):
        with torch.enable_grad():
            a, score = plain(net, network="classifier", layer=layer)._activations(x, torch.zeros_like(x))
            (g,) = torch.autograd.grad(score.sum(), a)
        w = g.mean(dim=(2, 3)).unflatten(1, (16, -1)).sum(dim=2)  # 16 groups
        sums[layer] = float((w.abs() / g.abs().amax(dim=(1, 2, 3))[:, None]).max())
    assert sums["middle"] < 1e-5 < 1e-2 < sums["pooled"]


def test_the_score_is_the_probability_of_the_clean_slice() -> None:
    batch = batch_of(4)
    for name in ("classifier", "cnn"):
        net: Any = network(name)
        with torch.no_grad():
            logits = net(batch.image, 0) if name == "classifier" else net(batch.image)
        steps = (0, 300) if name == "classifier" else (0,)
        for step in steps:
            found = plain(net, network=name, step=step, aug_smooth=True).predict(batch)
            assert torch.allclose(found.score, logits.softmax(1)[:, 1], atol=1e-6)
            assert torch.equal(found.present, logits[:, 1] >= logits[:, 0])


def test_both_decisions_occur() -> None:
    batch, _ = scene()
    empty = Batch(batch.image.clamp(max=-0.2), batch.ids)
    net = Detectors([0.3], [[0.02], [1.0]])
    net.register_forward_hook(lambda _m, _i, out: out + torch.tensor([0.04, 0.0]))
    assert plain(net).predict(batch).present.tolist() == [True] * 3  # type: ignore[union-attr]
    assert plain(net).predict(empty).present.tolist() == [False] * 3  # type: ignore[union-attr]


def test_a_step_looks_through_noise_that_belongs_to_the_slice() -> None:
    net, batch = network("classifier"), batch_of(2)
    clean, noisy = (plain(net, network="classifier", step=step) for step in (0, 300))
    assert torch.equal(clean.predict(batch, 0).score_map, clean.predict(batch, 1).score_map)
    assert not torch.allclose(noisy.predict(batch, 0).score_map, noisy.predict(batch, 1).score_map, atol=1e-2)
    x = noisy.schedule.add_noise(batch.image, 300, gaussian(batch, 5))
    with torch.enable_grad():
        net.layer("pooled").register_forward_hook(lambda _m, _i, out: kept.append(out))  # type: ignore[operator]
        kept: list[Tensor] = []
        (g,) = torch.autograd.grad(net(x.requires_grad_(), 300)[:, 1].sum(), kept)
    total = grad_cam(kept[0], g).sum(1, keepdim=True).relu().detach()
    expected = scaled(F.interpolate(scaled(total), (16, 16), mode="bilinear"))
    assert torch.allclose(noisy.predict(batch, 5).score_map, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_and_no_hook_is_left(kind: Kind) -> None:
    net, batch = network("cnn").requires_grad_(), batch_of(2)
    found = plain(net, kind).predict(batch)
    assert not found.score_map.requires_grad and not found.score.requires_grad  # type: ignore[union-attr]
    assert all(p.grad is None for p in net.parameters())
    with pytest.raises(ConfigError):
        plain(net, kind).predict(Batch(batch.image[..., :8], batch.ids))
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"step": -1}, "step = -1"),
        ({"step": 5, "network": "cnn"}, "step = 5 and network = 'cnn'"),
        ({"batch": 0}, "batch = 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        CAMSettings(**settings)
    assert caught.value.repair


def test_a_step_beyond_the_schedule_is_refused() -> None:
    with pytest.raises(ConfigError, match="1000 steps"):
        plain(network("classifier"), network="classifier", step=1001)


@pytest.mark.parametrize("table", [{"layer": "top"}, {"layer": 1.5}, {"network": "denoiser"}])
def test_unknown_words_are_refused(table: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(table))):
        settings_of("grad_cam", table)


# what they need follows from a setting


@pytest.mark.parametrize("name", ["classifier", "cnn"])
def test_only_the_named_network_is_needed(name: str, tmp_path: Path) -> None:
    other = {"classifier": "cnn", "cnn": "classifier"}[name]
    changed = (f"methods.grad_cam.network={name}", f"methods.layer_cam.network={other}")
    run = Run.open(write_run(tmp_path / "run", *changed, networks=(name,)))
    assert METHODS["grad_cam"].needs_of(CAMSettings(network=name)) == (name,)  # type: ignore[arg-type]
    assert run.needs("grad_cam") == (name,) and run.needs("cdm") == ("denoiser",)
    made: Any = run.method("grad_cam")
    assert made.network is run.network(name) and made.kind == "grad_cam"
    with pytest.raises(RunError, match=f"no weights of the {other} that layer_cam needs"):
        run.method("layer_cam")
    assert run.method("layer_cam", network=name)


# oracles


def oracle() -> Any:
    """The common library, where it can be imported: it wants a torchvision that fits torch."""
    try:
        import pytorch_grad_cam
    except Exception as error:
        pytest.skip(f"no pytorch_grad_cam: {error}")
    return pytorch_grad_cam


class FromBlack(nn.Module):
    """The network for images counted from black, as the library multiplies them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x - 1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("aug_smooth", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_equal_the_common_library(kind: Kind, aug_smooth: bool) -> None:
    library = oracle()
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    made = {
        "grad_cam": "GradCAM",
        "grad_cam_pp": "GradCAMPlusPlus",
        "score_cam": "ScoreCAM",
        "layer_cam": "LayerCAM",
    }
    net: Any = CNN(CNNSettings(size=16, widths=(8, 16), blocks=(1, 1))).eval()
    batch = batch_of(3)
    # Its Score-CAM enlarges by another rule of corners: at full resolution there is nothing to enlarge.
    layer: Any = 0 if kind == "score_cam" else "pooled"
    theirs = getattr(library, made[kind])(FromBlack(net), [net.layer(layer)])(
        input_tensor=batch.image + 1, targets=[ClassifierOutputTarget(1)] * 3, aug_smooth=aug_smooth
    )
    ours = plain(net, kind, layer=layer, aug_smooth=aug_smooth).predict(batch).score_map
    assert float(ours.std()) > 0.05
    assert torch.allclose(ours[:, 0], torch.from_numpy(theirs), atol=1e-4)


def test_the_principal_component_equals_the_common_librarys() -> None:
    oracle()
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    maps = torch.randn(3, 20, 6, 6, generator=torch.Generator().manual_seed(1))
    theirs = torch.from_numpy(get_2d_projection(maps.numpy()))[:, None]
    ours = principal(maps)
    sign = (ours * theirs).sum(dim=(1, 2, 3), keepdim=True).sign()
    assert torch.allclose(ours, sign * theirs, atol=1e-4)


@pytest.mark.parametrize(("kind", "made"), [("grad_cam", "GradCAM"), ("layer_cam", "LayerCAM")])
def test_maps_equal_torchcam(kind: Kind, made: str) -> None:
    methods = pytest.importorskip("torchcam.methods")
    net: Any = CNN(CNNSettings(size=16, widths=(8, 16), blocks=(1, 1))).eval()
    for x in batch_of(3).image.split(1):
        with getattr(methods, made)(net, net.layer("pooled")) as extractor:
            maps = extractor(1, net(x.requires_grad_()))[0]
        theirs = scaled(F.interpolate(maps.reshape(1, 1, 8, 8), (16, 16), mode="bilinear"))
        ours = plain(net, kind).predict(Batch(x.detach(), ("a",))).score_map
        assert torch.allclose(ours, theirs, atol=1e-4)
