"""TextDiff against its paper, pixel by pixel and head by head, and against what must hold of any such network."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tagmask.config import build, plain
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError, InputError
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.features import FeatureSettings, FrozenFeatures
from tagmask.networks.textdiff import TextDiff, TextDiffSettings, dice_on_logits
from tagmask.networks.textdiff_attention import CrossAttention
from tagmask.types import TextTokens
from tests.still import StillFeatures, backbone, largest_tensor, random_features, sentences

MONUSEG, QATA = (1536, 1536, 768, 768), (3072, 1536, 1536, 768)
CHANNELS, SIDES, SIZE = (6, 10, 10, 8), (1, 2, 2, 4), 4
VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "each": {"projections": "each"},
    "null": {"null_text": True},
    "zeta1": {"text": "none"},
    "zeta2": {"text": "mean"},
    "zeta2-concat": {"text": "mean", "join": "concat"},
    "zeta2-null": {"text": "mean", "null_text": True},
    "minimal": {"block": "paper_minimal"},
    "minimal-null": {"block": "paper_minimal", "null_text": True},
}


def small(channels: tuple[int, ...] = CHANNELS, **changes: Any) -> TextDiffSettings:
    shape = {"width": 8, "heads": 2, "head_width": 4, "text_width": 5, "decoder": (4, 3), "size": SIZE}
    return TextDiffSettings(backbone(len(channels)), channels, **(shape | changes))


def network(channels: tuple[int, ...] = CHANNELS, **changes: Any) -> TextDiff:
    """A small head in evaluation mode, none of whose parameters is 0, 1 or negligible."""
    net = TextDiff(small(channels, **changes)).eval()
    generator = torch.Generator().manual_seed(7)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.3 + 0.4 * torch.rand(tensor.shape, generator=generator))
            if tensor.ndim > 1:
                tensor.sub_(0.5)
    return net


# A transcription of the paper and of its code's block, with loops where the network has matrices.


def naive_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    variance = ((x - x.mean()) ** 2).mean()
    return (x - x.mean()) / torch.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def naive_attention(x: Tensor, words: list[Tensor], weights: dict[str, Tensor], name: str, d: int) -> Tensor:
    """Eq. 3 for one pixel x and the words that count, head by head."""
    w_q, w_k, w_v = (weights[f"{name}.w_{which}.weight"] for which in "qkv")
    taken = []
    for start in range(0, len(w_q), d):
        rows = slice(start, start + d)
        scores = [float((w_q[rows] @ x) @ (w_k[rows] @ word)) / math.sqrt(d) for word in words]
        total = sum(math.exp(score) for score in scores)
        taken.append(
            sum(math.exp(s) / total * (w_v[rows] @ word) for s, word in zip(scores, words, strict=True))
        )
    return weights[f"{name}.out.weight"] @ torch.cat(taken) + weights[f"{name}.out.bias"]


def naive_pixel(x: Tensor, words: list[Tensor], w: dict[str, Tensor], s: TextDiffSettings, z: int) -> Tensor:
    """What one pixel of scale z becomes."""
    if s.block == "paper_minimal":
        w_q, w_k, w_v = (w[f"fuse.w_{which}.{z}.weight"] for which in "qkv")
        scores = torch.tensor([float((w_q @ x) @ (w_k @ word)) / math.sqrt(len(w_q)) for word in words])
        shares = scores.exp() / scores.exp().sum()
        return sum(share * (w_v @ word) for share, word in zip(shares, words, strict=True))
    if len(x) != s.width:
        layer = f"down.{min(z, 1) if s.projections == 'shared' else z}"
        x = w[f"{layer}.weight"][:, :, 0, 0] @ x + w[f"{layer}.bias"]
    if s.text == "cross":
        for k in range(2):
            asked = naive_norm(x, w, f"fuse.before.{k}")
            answer = naive_attention(asked, words, w, f"fuse.attend.{k}", s.head_width)
            x = x + naive_norm(answer, w, f"fuse.after.{k}")
    if s.text == "mean":
        mean = sum(words) / len(words)
        if s.join == "concat":
            x = w["fuse.join.weight"] @ torch.cat([x, mean]) + w["fuse.join.bias"]
        else:
            x = x + w["fuse.join.weight"] @ mean + w["fuse.join.bias"]
    y = naive_norm(x, w, "fuse.feed.0")
    y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return x + w["fuse.feed.2.weight"] @ y + w["fuse.feed.2.bias"]


def naive(net: TextDiff, features: list[Tensor], size: int, text: TextTokens | None) -> Tensor:
    s, w = net.settings, {name: value.double() for name, value in net.state_dict().items()}
    scales = []
    for z, f in enumerate(features):
        out = torch.zeros(len(f), s.width, *f.shape[2:], dtype=torch.float64)
        for b in range(len(f)):
            said = [] if text is None else [t.double() for t in text.embedding[b][text.mask[b]]]
            said = said or ([w["null"]] if "null" in w else [])
            for i in range(f.shape[2]):
                for j in range(f.shape[3]):
                    out[b, :, i, j] = naive_pixel(f[b, :, i, j].double(), said, w, s, z)
        scales.append(F.interpolate(out, (size, size), mode="bilinear", align_corners=False))
    h = torch.cat(scales, dim=1)
    h = F.conv2d(h, w["gather.weight"], w["gather.bias"], padding=1)
    for norm, conv in ((0, 2), (3, 5)):
        mean, var, gain, shift = (
            w[f"classify.{norm}.{which}"][:, None, None]
            for which in ("running_mean", "running_var", "weight", "bias")
        )
        h = ((h - mean) / torch.sqrt(var + 1e-5) * gain + shift).clamp(min=0)
        h = F.conv2d(h, w[f"classify.{conv}.weight"], w[f"classify.{conv}.bias"], padding=1)
    p = h.exp() / h.exp().sum(dim=1, keepdim=True)
    return torch.log(p[:, 1:] / p[:, :1])


@pytest.mark.parametrize("tokens", [3, 6])  # fewer than a head has channels, and more
@pytest.mark.parametrize("name", VARIANTS)
def test_equals_the_paper_spelt_out(name: str, tokens: int) -> None:
    net, text = network(**VARIANTS[name]), sentences(tokens=tokens)
    text.mask[1, 2:] = False  # the second sentence is shorter
    if net.settings.null_text:
        text.mask[1] = False  # or is not there
    features = random_features(CHANNELS, SIDES)
    with torch.no_grad():
        ours = net.decode(features, SIZE, text)
    expected = naive(net, features, SIZE, text)
    assert ours.shape == (2, 1, SIZE, SIZE) and float(expected.std()) > 0.01
    assert float((ours - expected).abs().max()) < 1e-5 * float(expected.abs().max().clamp(min=1))


@pytest.mark.parametrize(
    ("channels", "changes", "count"),
    [
        (MONUSEG, {}, 9_683_234),  # the paper's 9.68 M
        (QATA, {}, 10_862_882),
        (QATA, {"projections": "each"}, 10_862_882 + 1536 * 768 + 768),
        (MONUSEG, {"null_text": True}, 9_683_234 + 768),
        (MONUSEG, {"text_width": 384}, 9_683_234 - 4 * 512 * 384),
        (MONUSEG, {"text": "none"}, 9_683_234 - 3_153_408),
        (MONUSEG, {"text": "mean"}, 9_683_234 - 3_153_408 + 768 * 768 + 768),
        (MONUSEG, {"block": "paper_minimal"}, 4608 * 768 + 8 * 768 * 768 + 3_576_866),
    ],
)
def test_has_the_published_number_of_parameters(channels: tuple, changes: dict, count: int) -> None:
    with torch.device("meta"):
        net = TextDiff(TextDiffSettings(backbone(4), channels, **changes))
    assert sum(p.numel() for p in net.parameters()) == count


@torch.no_grad()
def test_starts_as_published() -> None:
    net = TextDiff(small((6,), width=64, null_text=True, text_width=4096))
    weights = torch.cat([p.flatten() for n, p in net.named_parameters() if p.ndim > 1])
    assert abs(float(weights.std()) - 0.02) < 1e-3
    assert abs(float(net.null.std()) - 0.02) < 1e-3
    norms = [
        p for n, p in net.named_parameters() if n.startswith(("fuse.before", "fuse.after", "fuse.feed.0"))
    ]
    assert {float(p.unique()) for p in norms} == {0.0, 1.0}  # layer norms are left as they are


@pytest.mark.parametrize("tokens", [3, 6])
def test_a_sentence_of_one_token_says_the_same_to_every_pixel(tokens: int) -> None:
    attend = CrossAttention(8, 5, heads=2, head_width=4)
    text = sentences(tokens=tokens)
    text.mask[:, 1:] = False
    with torch.no_grad():
        answer = attend(torch.randn(2, 7, 8), attend.read(text))
        expected = attend.out(attend.w_v(text.embedding[:, :1]))
    assert torch.allclose(answer, expected.expand(-1, 7, -1), atol=1e-6)


@torch.no_grad()
def test_a_short_sentence_spares_the_pixels_work_and_a_long_one_their_memory() -> None:
    attend, calls = CrossAttention(8, 5, heads=2, head_width=4), []
    attend.w_q.register_forward_hook(lambda *_: calls.append(1))
    h = torch.randn(1, 256, 8)
    attend(h, attend.read(sentences(1, tokens=4)))
    assert not calls  # no pixel is widened to a query
    said = attend.read(sentences(1, tokens=40))
    with largest_tensor() as sizes:
        attend(h, said)
    assert calls and sizes.largest <= 8 * 256  # no score of every pixel, head and token is held


def test_to_the_letter_of_equation_3_one_token_leaves_no_picture() -> None:
    net, text = network(block="paper_minimal"), sentences(tokens=1)
    with torch.no_grad():
        one, other = (net.decode(random_features(CHANNELS, SIDES), SIZE, text) for _ in range(2))
    assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in VARIANTS if n != "zeta1"])
@pytest.mark.parametrize("tokens", [3, 6])
def test_only_words_that_count_count_and_in_any_order(name: str, tokens: int) -> None:
    net, text, features = (
        network(**VARIANTS[name]),
        sentences(tokens=tokens),
        random_features(CHANNELS, SIDES),
    )
    with torch.no_grad():
        reference = net.decode(features, SIZE, text)
        noise = torch.cat([text.embedding, 100 * torch.randn(2, 4, 5)], dim=1)
        longer = TextTokens(noise, torch.arange(tokens + 4).expand(2, -1) < tokens)
        assert torch.allclose(net.decode(features, SIZE, longer), reference, atol=1e-5)
        order = torch.randperm(tokens)
        turned = TextTokens(text.embedding[:, order], text.mask[:, order])
        assert torch.allclose(net.decode(features, SIZE, turned), reference, atol=1e-5)
        other = net.decode(features, SIZE, sentences(tokens=tokens))
        assert float((other - reference).abs().max()) > 1e-3  # but what is said matters


def test_without_text_the_sentence_is_not_read() -> None:
    net, features = network(text="none"), random_features(CHANNELS, SIDES)
    assert not net.settings.reads_text and small().reads_text
    with torch.no_grad():
        assert torch.equal(net.decode(features, SIZE), net.decode(features, SIZE, sentences()))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_learns(name: str) -> None:
    net, text = network(**VARIANTS[name]).train(), sentences()
    if net.settings.null_text:
        text.mask[0] = False
    net.decode(random_features(CHANNELS, SIDES), SIZE, text).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_sentence_is_read_once_for_all_scales() -> None:
    net, calls = network(), []
    for attend in net.fuse.attend:
        for layer in (attend.w_k, attend.w_v):
            layer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        net.decode(random_features(CHANNELS, SIDES), SIZE, sentences())
    assert len(calls) == 4  # keys and values of two attentions, at four scales


@pytest.mark.parametrize("name", ["full", "zeta1", "zeta2", "minimal"])
@pytest.mark.parametrize("tokens", [3, 6])
def test_memory_is_not_quadratic_in_pixels_nor_holds_all_scales_at_once(name: str, tokens: int) -> None:
    channels, sides, size = (8, 8, 8, 8), (4, 8, 16, 16), 16
    net = network(channels, size=size, **VARIANTS[name]).train()
    with largest_tensor() as sizes:
        net.decode(random_features(channels, sides, 1), size, sentences(1, tokens)).sum().backward()
    widest = max(8, 2 * tokens, 9)  # features, heads times tokens, or 9 taps of 4 channels at half the size
    assert sizes.largest <= widest * size**2
    assert sizes.largest < 4 * 8 * size**2 and sizes.largest < size**4


def test_the_difference_of_logits_is_the_softmax() -> None:
    net, text, features = network(), sentences(), random_features(CHANNELS, SIDES)
    with torch.no_grad():
        both, one = net.class_logits(features, SIZE, text), net.decode(features, SIZE, text)
    mask = (torch.rand(2, 1, SIZE, SIZE) > 0.5).float()
    assert torch.allclose(one.sigmoid(), both.softmax(dim=1)[:, 1:], atol=1e-6)
    ours = F.binary_cross_entropy_with_logits(one, mask)
    assert torch.allclose(ours, F.cross_entropy(both, mask[:, 0].long()), atol=1e-6)


@pytest.mark.parametrize("name", ["null", "zeta2-null", "minimal-null"])
def test_pictures_without_a_text_are_served_by_the_null_row(name: str) -> None:
    net, text, features = network(**VARIANTS[name]), sentences(3), random_features(CHANNELS, SIDES, 3)
    text.mask[1] = False
    with torch.no_grad():
        together = net.decode(features, SIZE, text)
        alone = [net.decode([f[i : i + 1] for f in features], SIZE, text[i : i + 1]) for i in range(3)]
        silent = net.decode([f[1:2] for f in features], SIZE)
        spoken = TextTokens(net.null.expand(1, 1, -1), torch.ones(1, 1, dtype=torch.bool))
        said = net.decode([f[1:2] for f in features], SIZE, spoken)
        assert torch.allclose(torch.cat(alone), together, atol=1e-5)
        assert torch.allclose(silent, together[1:2], atol=1e-5)
        assert torch.allclose(said, silent, atol=1e-5)  # it is one more token, and no other road
        net.null += 1
        changed = net.decode(features, SIZE, text)
    moved = (changed - together).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert moved.tolist() == [False, True, False]  # it is heard where nothing else is said, and there alone


def test_a_missing_text_is_refused_where_none_was_learnt() -> None:
    net, text, features = network(), sentences(3), random_features(CHANNELS, SIDES, 3)
    text.mask[2] = False
    with pytest.raises(InputError, match=r"1 of 3 pictures have no text .*number 2") as caught:
        net.decode(features, SIZE, text)
    assert "null_text = true" in caught.value.repair
    with pytest.raises(InputError, match="3 of 3 pictures have no text"):
        net.decode(features, SIZE)


@pytest.mark.parametrize(("count", "width"), [(2, 6), (3, 5)])
def test_other_sentences_are_refused(count: int, width: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"2 pictures came with {count} sentences.*width {width}"
    ) as caught:
        network().decode(random_features(CHANNELS, SIDES), SIZE, sentences(count, width=width))
    assert "text_width" in caught.value.repair


def test_one_block_at_one_step_makes_a_head() -> None:
    settings = TextDiffSettings(
        backbone(1, steps=(151,)), (6,), size=SIZE, width=8, text_width=5, decoder=(4, 3)
    )
    net = TextDiff(settings).eval().attach(StillFeatures((6,), (2,)))
    x, text = torch.rand(2, 3, SIZE, SIZE), sentences()
    with torch.no_grad():
        assert torch.equal(net(x, text), net.decode(net.features(x), SIZE, text))
    assert not any("columns" in name for name in net.state_dict())


def test_a_real_backbone_is_shared_by_copies_and_kept_out_of_the_weights() -> None:
    denoiser = Denoiser(DenoiserSettings(size=16, widths=(32, 64), attention=(1,))).eval()
    frozen = FrozenFeatures(denoiser, FeatureSettings(Path("-"), blocks=(0, 3)), NoiseSchedule.linear())
    asked = TextDiffSettings(frozen.settings, size=16, channels=1, width=8, text_width=5, decoder=(4, 3))
    net = TextDiff(asked.resolved(frozen)).eval()
    before = net.state_dict().keys()
    net.attach(frozen)
    with torch.no_grad():
        answer = net(torch.rand(2, 1, 16, 16), sentences())
    assert answer.shape == (2, 1, 16, 16) and answer.isfinite().all()
    assert net.state_dict().keys() == before
    assert copy.deepcopy(net).features is frozen  # as the moving average of the weights copies it


def test_bf16_keeps_the_dtype() -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for tokens in (3, 6):
            answer = network().decode(random_features(CHANNELS, SIDES), SIZE, sentences(tokens=tokens))
            assert answer.dtype == torch.float32 and answer.isfinite().all()


@pytest.mark.parametrize(("text", "learns"), [("cross", True), ("mean", True), ("none", False)])
def test_learns_what_only_the_sentence_says(text: str, learns: bool) -> None:
    """All pictures are alike; the sentence says whether the target is left or right."""
    column = torch.linspace(-1, 1, SIZE).expand(1, 1, SIZE, SIZE)
    features = [torch.cat([column, column**2, column**3, torch.ones_like(column)], dim=1).repeat(2, 1, 1, 1)]
    words = TextTokens(torch.eye(5)[None, :2].repeat(2, 1, 1), torch.eye(2, dtype=torch.bool))
    left = (column < 0).float()
    mask = torch.cat([left, 1 - left])
    net = TextDiff(small((4,), text=text)).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-2)
    for _ in range(60):
        loss = F.binary_cross_entropy_with_logits(net.decode(features, SIZE, words), mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    left_over = float(loss.detach())
    assert left_over < 0.1 if learns else left_over > 0.6  # log 2 is what guessing costs


def test_dice_on_logits_is_the_published_sum() -> None:
    z, mask = 3 * torch.randn(2, 2, 4, 4), (torch.rand(2, 1, 4, 4) > 0.6).float()
    terms = []
    for k in range(2):
        shared = sizes = 0.0
        for b in range(2):
            for i in range(4):
                for j in range(4):
                    y = float(mask[b, 0, i, j]) if k else 1 - float(mask[b, 0, i, j])
                    shared += float(z[b, k, i, j]) * y
                    sizes += float(z[b, k, i, j]) ** 2 + y**2
        terms.append(1 - (2 * shared + 1e-5) / (sizes + 1e-5))
    assert float(dice_on_logits(z, mask)) == pytest.approx(sum(terms) / 2, abs=1e-5)
    one_hot = torch.cat([1 - mask, mask], dim=1)
    assert float(dice_on_logits(one_hot, mask)) == pytest.approx(0, abs=1e-6)
    assert float(dice_on_logits(-one_hot, mask)) == pytest.approx(2, abs=1e-4)
    # Surer logits of the right class cost more: what the docstring and ADR 14 say of it.
    assert float(dice_on_logits(10 * one_hot, mask)) > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width = 0"),
        ({"text_width": 0}, "text_width = 0"),
        ({"heads": 0}, "heads = 0"),
        ({"head_width": 0}, "head_width = 0"),
        ({"decoder": (4, 0)}, r"decoder = \[4, 0\]"),
        ({"size": 0}, "textdiff.size = 0"),
        ({"text": "all"}, 'text = "all"'),
        ({"projections": "one"}, 'projections = "one"'),
        ({"block": "paper_minimal", "text": "none"}, "nothing but attention"),
        ({"text": "none", "null_text": True}, "misses none"),
        ({"channels_of": (6, 10, 12, 8)}, "one projection for all blocks after the first"),
    ],
)
def test_settings_that_make_no_head_are_refused(change: dict, message: str) -> None:
    channels = change.pop("channels_of", CHANNELS)
    with pytest.raises(ConfigError, match=message) as caught:
        small(channels, **change)
    assert caught.value.repair


def test_blocks_of_any_width_work_with_projections_of_their_own() -> None:
    channels = (6, 10, 12, 8)
    net = network(channels, projections="each")
    features = random_features(channels, SIDES)
    assert sorted(net.down) == ["0", "1", "2"]  # the last block has the width already
    with torch.no_grad():
        ours = net.decode(features, SIZE, sentences())
    assert ours.isfinite().all()


def test_settings_survive_a_file() -> None:
    settings = small(text="mean", join="concat", null_text=True, projections="each")
    assert build(TextDiffSettings, plain(settings)) == settings
