"""Pairs that belong together score better than others, and only words that count are heard."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from tagmask.config import build, plain
from tagmask.errors import ConfigError, RunError
from tagmask.networks.gloria import Gloria, GloriaSettings
from tagmask.networks.gloria_pair import (
    GloriaPair,
    GloriaPairSettings,
    global_loss,
    load_encoder,
    local_loss,
)
from tagmask.types import TextTokens

Convention = Literal["code", "formula"]
CONVENTIONS: tuple[Convention, ...] = ("code", "formula")
ENCODER = {"size": 32, "channels": 1, "width": 4, "blocks": (1, 1, 1, 1)}
TINY = GloriaPairSettings(text_width=6, joint=8, **ENCODER)  # type: ignore[arg-type]


def embeddings(b: int = 4, r: int = 9, n: int = 5, d: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Regions, words, and a mask under which sentences have 2 to n words."""
    lengths = 2 + torch.arange(b) % (n - 1)
    return torch.randn(b, r, d), torch.randn(b, n, d), torch.arange(n)[None] < lengths[:, None]


def told_apart(scores: list[list[float]]) -> float:
    """InfoNCE, pair by pair, both ways."""
    total = 0.0
    for k in range(len(scores)):
        row, column = [math.exp(s) for s in scores[k]], [math.exp(s[k]) for s in scores]
        total -= math.log(row[k] / sum(row)) + math.log(column[k] / sum(column))
    return total / len(scores)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def naive_match(regions: Tensor, words: Tensor, tau1: float, tau2: float, convention: Convention) -> float:
    """Z of one picture and one sentence, word by word and region by region."""
    s = [[float(w @ v) for v in regions] for w in words]
    if convention == "code":
        columns = [sum(math.exp(row[j]) for row in s) for j in range(len(regions))]
        s = [[math.exp(row[j]) / columns[j] for j in range(len(regions))] for row in s]
    total = 0.0
    for w, row in zip(words, s, strict=True):
        weights = [math.exp(tau1 * score) for score in row]
        c = sum(a * v for a, v in zip(weights, regions, strict=True)) / sum(weights)
        total += math.exp(tau2 * cosine(c, w))  # type: ignore[arg-type]
    return math.log(total) / (tau2 if convention == "formula" else 1)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_local_loss_is_that_of_a_naive_loop(convention: Convention) -> None:
    regions, words, mask = embeddings()
    scores = [
        [3.0 * naive_match(v, t[m], 1.5, 2.5, convention) for t, m in zip(words, mask, strict=True)]
        for v in regions
    ]
    loss = local_loss(regions, words, mask, 1.5, 2.5, 3.0, convention=convention)
    assert loss.item() == pytest.approx(told_apart(scores), rel=1e-4)


def test_global_loss_is_that_of_a_naive_loop() -> None:
    picture, sentence = torch.randn(5, 7), torch.randn(5, 7)
    scores = [[10 * cosine(v, t) for t in sentence] for v in picture]
    assert float(global_loss(picture, sentence)) == pytest.approx(told_apart(scores), rel=1e-4)
    assert torch.allclose(global_loss(3 * picture, 0.1 * sentence), global_loss(picture, sentence))


def test_nothing_told_apart_costs_the_logarithm_of_the_pairs() -> None:
    same = torch.ones(4, 7)
    assert float(global_loss(same, same)) == pytest.approx(2 * math.log(4))
    regions, words = torch.ones(4, 9, 7), torch.ones(4, 5, 7)
    assert float(local_loss(regions, words, torch.ones(4, 5).bool())) == pytest.approx(2 * math.log(4))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_pairs_that_belong_together_cost_little(convention: Convention) -> None:
    """Picture k has regions that look like words 2 k and 2 k + 1 and nothing else of the vocabulary."""
    vocabulary = 6 * torch.eye(8)
    words = vocabulary.reshape(4, 2, 8)
    regions = torch.cat([words, torch.zeros(4, 3, 8)], dim=1)
    mask = torch.ones(4, 2, dtype=torch.bool)
    aligned = local_loss(regions, words, mask, convention=convention)
    moved = local_loss(regions, words.roll(1, dims=0), mask, convention=convention)
    assert aligned < 0.1 and moved > 2 * math.log(4) + 1
    wholes = words.mean(dim=1)
    assert global_loss(wholes, wholes) < 0.01
    assert global_loss(wholes, wholes.roll(1, dims=0)) > 2 * math.log(4) + 1


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_masked_words_do_not_count(convention: Convention) -> None:
    regions, words, mask = embeddings()
    loss = local_loss(regions, words, mask, convention=convention)
    noisy = torch.where(mask[..., None], words, 100 * torch.randn_like(words))
    assert torch.equal(local_loss(regions, noisy, mask, convention=convention), loss)
    spread = torch.cat([torch.randn(4, 3, 7), words], dim=1)  # nor where they stand
    late = torch.cat([torch.zeros(4, 3).bool(), mask], dim=1)
    assert torch.allclose(local_loss(regions, spread, late, convention=convention), loss, atol=1e-5)
    words.requires_grad_()
    local_loss(regions, words, mask, convention=convention).backward()
    assert words.grad is not None and words.grad.isfinite().all()
    assert torch.equal(words.grad.any(dim=2), mask)


def pairs(count: int = 6) -> tuple[Tensor, TextTokens]:
    """Pictures with a bright bar across one of four places, and a sentence that names it."""
    generator = torch.Generator().manual_seed(2)
    place = torch.arange(count) % 4
    x = torch.randn(count, 1, 32, 32, generator=generator) * 0.1
    for k in range(count):
        x[k, :, 8 * place[k] : 8 * place[k] + 8] += 1
    vocabulary = torch.randn(5, 6, generator=generator)
    embedding = torch.stack([vocabulary[4].expand(count, 6), vocabulary[place]], dim=1)
    return x, TextTokens(embedding, torch.ones(count, 2, dtype=torch.bool))


def test_gradients_reach_every_parameter_and_a_trainer_can_minimise() -> None:
    net, (x, text) = GloriaPair(TINY), pairs(4)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(15):
        loss = net(x, text)
        optimiser.zero_grad()
        loss.backward()
        assert loss.shape == () and loss.isfinite()
        assert all(p.grad is not None and p.grad.any() for p in net.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], "bars and words that name them are told apart"


def test_the_loss_is_the_sum_of_both() -> None:
    net, (x, text) = GloriaPair(replace(TINY, convention="formula")).eval(), pairs(4)
    (picture, regions), (sentence, words) = net.embed_pictures(x), net.embed_texts(text)
    assert picture.shape == sentence.shape == (4, 8)
    assert regions.shape == (4, 4, 8) and words.shape == (4, 2, 8)
    wanted = global_loss(picture, sentence) + local_loss(regions, words, text.mask, convention="formula")
    assert torch.allclose(net(x, text), wanted)


def test_a_sentence_is_the_mean_of_the_words_that_count() -> None:
    net, (_, text) = GloriaPair(TINY), pairs(2)
    longer = TextTokens(
        torch.cat([text.embedding, torch.full((2, 3, 6), 9.0)], dim=1),
        torch.cat([text.mask, torch.zeros(2, 3).bool()], dim=1),
    )
    assert torch.allclose(net.embed_texts(longer)[0], net.sentence(text.embedding.mean(dim=1)))


def test_pictures_without_a_sentence_are_left_out() -> None:
    net, (x, text) = GloriaPair(TINY).eval(), pairs(6)
    untold = torch.tensor([False, False, True, False, True, False])
    some = TextTokens(text.embedding, text.mask & ~untold[:, None])
    assert torch.allclose(net(x, some), net(x[~untold], text[~untold]))


def test_refuses_what_is_no_pairs() -> None:
    net, (x, text) = GloriaPair(TINY), pairs(4)
    alone = TextTokens(text.embedding, text.mask & (torch.arange(4) == 1)[:, None])
    with pytest.raises(ConfigError, match="1 of 4 pictures have a sentence") as caught:
        net(x, alone)
    assert caught.value.repair
    with pytest.raises(ConfigError, match="4 pictures need as many sentences of width 6, not 3 of width 6"):
        net(x, text[:3])
    with pytest.raises(ConfigError, match="not 4 of width 5"):
        net(x, TextTokens(text.embedding[..., :5], text.mask))
    with pytest.raises(ConfigError, match="gloria_pair takes images"):
        net(x[..., :16], text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 40}, "size = 40 is not a multiple of 32. Use size = 64"),
        ({"channels": 0}, "channels = 0"),
        ({"joint": 0}, "joint = 0"),
        ({"text_width": 0}, "text_width = 0"),
        ({"tau1": 0.0}, "tau1 = 0.0, but it must be positive. The paper has 4"),
        ({"tau3": -1.0}, "tau3 = -1.0"),
    ],
)
def test_refuses_settings_that_make_no_network(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"gloria_pair.{message}") as caught:
        replace(TINY, **change)
    assert caught.value.repair


def test_settings_survive_a_file() -> None:
    assert build(GloriaPairSettings, plain(TINY)) == TINY


def segmenter(**changes: object) -> Gloria:
    settings = {**ENCODER, "decoder": (8, 8, 4, 4, 4), **changes}
    return Gloria(GloriaSettings(**settings)).eval()  # type: ignore[arg-type]


def test_the_segmenter_takes_over_what_pairs_have_taught() -> None:
    pair, net, (x, text) = GloriaPair(TINY), segmenter(), pairs(4)
    pair(x, text)  # moves the running means of the norms, which are part of what is learnt
    before = {name: t.clone() for name, t in net.state_dict().items() if not name.startswith("encoder.")}
    parameters = list(net.parameters())
    load_encoder(net, pair.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(net.encoder(x), pair.eval().encoder(x), strict=True):
            assert torch.equal(ours, theirs)
    after = net.state_dict()
    assert all(torch.equal(after[name], t) for name, t in before.items()), "the decoder stays"
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True)), (
        "an optimiser still holds them"
    )
    with torch.no_grad():
        net.encoder.conv1.weight.add_(1)
    assert not torch.equal(net.encoder.conv1.weight, pair.encoder.conv1.weight), "a copy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.layer2.0.bn1.running_mean": None}, "layer2.0.bn1.running_mean is missing"),
        ({"encoder.fc.weight": torch.zeros(2)}, "fc.weight belongs to no layer"),
        ({"decoder.0.weight": torch.zeros(2)}, "decoder.0.weight belongs to no layer of a gloria_pair"),
        ({"encoder.conv1.weight": torch.zeros(4, 3, 7, 7)}, r"conv1.weight has shape \(4, 3, 7, 7\)"),
        ({"encoder.bn1.bias": torch.full((4,), torch.nan)}, "bn1.bias holds values that are not finite"),
    ],
)
def test_refuses_weights_that_are_not_the_encoders(change: dict[str, Tensor | None], message: str) -> None:
    net = segmenter()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    state = {k: t for k, t in {**GloriaPair(TINY).state_dict(), **change}.items() if t is not None}
    with pytest.raises(RunError, match=f"pair.safetensors: .*{message}"):
        load_encoder(net, state, where="pair.safetensors")
    assert all(torch.equal(net.state_dict()[name], t) for name, t in before.items())
