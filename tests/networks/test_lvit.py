"""LViT reads the words that count, as many as it has places for, and refuses a picture without any."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tagmask.errors import ConfigError
from tagmask.networks.lvit import LViT, LViTSettings
from tagmask.types import TextTokens

TINY = LViTSettings(size=32, channels=1, width=4, heads=2, text_width=6, tokens=5)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1


def sentences(count: int = 3, words: int = 4, *, counting: int | None = None) -> TextTokens:
    embedding = torch.randn(count, words, 6, generator=torch.Generator().manual_seed(4))
    mask = (torch.arange(words) < (words if counting is None else counting)).expand(count, words)
    return TextTokens(embedding, mask)


def settled(**changes: object) -> LViT:
    """Give a network whose text matters: weights are large enough to tell."""
    net = LViT(replace(TINY, **changes)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith(("words", "place", "null")):
                parameter.copy_(torch.randn_like(parameter))
    return net


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"text": False}, 28_204_861),
        ({"text_width": 384}, 29_318_209),
        ({"size": 256}, 29_967_613),
        ({"null_text": True}, 29_908_033 + 10 * 768),
    ],
)
def test_parameters_of_the_variants(change: dict, count: int) -> None:
    with torch.device("meta"):
        net = LViT(LViTSettings(**change))
    assert sum(p.numel() for p in net.parameters()) == count


def test_without_what_stands_alone_it_is_the_printed_count() -> None:
    with torch.device("meta"):
        net = LViT(LViTSettings())
    layers = sum(p.numel() for name, p in net.named_parameters() if not name.startswith("position"))
    assert layers == 29_719_873  # 29.72 M


def test_every_size_has_its_own_grid_of_tokens() -> None:
    for size in (16, 48):
        net = LViT(replace(TINY, size=size))
        assert {tuple(p.shape[:2]) for p in net.position} == {(1, (size // 16) ** 2)}
        assert net(torch.zeros(2, 1, size, size), sentences(2)).shape == (2, 1, size, size)


def test_text_moves_the_mask() -> None:
    net, x, text = settled(), pictures(), sentences()
    with torch.no_grad():
        one = net(x, text)
        other = net(x, TextTokens(text.embedding.flip(0), text.mask))
    assert (one[0] - other[0]).abs().max() > 1e-3
    assert torch.allclose(one[1], other[1], atol=1e-5), "the sentence in the middle is the same"


def test_words_that_do_not_count_are_not_read() -> None:
    net, x, text = settled(), pictures(), sentences(counting=2)
    noisy = TextTokens(torch.where(text.mask[..., None], text.embedding, torch.nan), text.mask)
    with torch.no_grad():
        assert torch.equal(net(x, noisy), net(x, text))
        assert torch.equal(net(x, TextTokens(text.embedding[:, :2], text.mask[:, :2])), net(x, text))
        assert not torch.equal(net(x, sentences(counting=3)), net(x, text))


def test_a_long_sentence_is_cut_and_a_short_one_ends_in_zeros() -> None:
    net, x, long = settled(), pictures(), sentences(words=9)
    short = sentences(words=3)
    padded = TextTokens(F.pad(short.embedding, (0, 0, 0, 2)), torch.ones(3, 5, dtype=torch.bool))
    with torch.no_grad():
        assert torch.equal(net(x, TextTokens(long.embedding[:, :5], long.mask[:, :5])), net(x, long))
        assert torch.equal(net(x, padded), net(x, short))
        assert not torch.equal(net(x, TextTokens(long.embedding[:, :4], long.mask[:, :4])), net(x, long))


def test_without_text_no_sentence_is_looked_at() -> None:
    net, x = LViT(replace(TINY, text=False)).eval(), pictures()
    assert not any(name.startswith(("words", "place")) for name, _ in net.named_parameters())
    with torch.no_grad():
        assert torch.equal(net(x, sentences()), net(x))
        assert torch.equal(net(x, TextTokens(torch.zeros(9, 1, 2), torch.zeros(9, 1).bool())), net(x))


def test_a_missing_sentence_is_refused() -> None:
    net, x, text = settled(), pictures(), sentences()
    with pytest.raises(ConfigError, match="3 of 3 pictures have none") as caught:
        net(x)
    assert "null_text" in caught.value.repair
    with pytest.raises(ConfigError, match="1 of 3 pictures have none"):
        net(x, TextTokens(text.embedding, text.mask & (torch.arange(3) != 1)[:, None]))


def test_a_null_text_stands_for_a_missing_sentence() -> None:
    net, x, text = settled(null_text=True), pictures(), sentences()
    told = (torch.arange(3) != 1)[:, None]
    some = TextTokens(text.embedding, text.mask & told)
    with torch.no_grad():
        given, mixed, none = net(x, text), net(x, some), net(x)
    assert torch.allclose(mixed[[0, 2]], given[[0, 2]], atol=1e-5)
    assert torch.allclose(mixed[1], none[1], atol=1e-5)
    assert (mixed[1] - given[1]).abs().max() > 1e-3
    assert net.null.shape == (1, 5, 6)
    net(x, some).sum().backward()
    assert net.null.grad is not None and net.null.grad.any()
    net.zero_grad()
    net(x, text).sum().backward()
    assert not net.null.grad.any(), "who has a sentence teaches the null text nothing"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (sentences(2), "takes 3 sentences of width 6 with as many pictures, not 2 of width 6"),
        (TextTokens(torch.zeros(3, 4, 8), torch.ones(3, 4).bool()), "not 3 of width 8"),
    ],
)
def test_refuses_other_sentences(text: TextTokens, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        settled()(pictures(), text)
    assert caught.value.repair


def test_learns_from_the_sentence_which_half_is_meant() -> None:
    """One half is bright, the other dark; the second word says which of them is the target."""
    net = LViT(replace(TINY, size=16, width=8, dropout=0.0))
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    vocabulary, dark = torch.randn(3, 6), torch.tensor([0, 1, 0, 1])
    words = torch.stack([vocabulary[2].expand(4, 6), vocabulary[dark]], dim=1)
    text = TextTokens(words, torch.ones(4, 2, dtype=torch.bool))
    bright = torch.zeros(4, 1, 16, 16)
    bright[..., :8] = 1
    mask = torch.where(dark[:, None, None, None] == 1, 1 - bright, bright)

    def said(text: TextTokens) -> Tensor:
        logits: Tensor = net(bright * 2 - 1 + 0.3 * torch.randn(4, 1, 16, 16), text)
        return logits

    for _ in range(25):
        loss = F.binary_cross_entropy_with_logits(said(text), mask)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert ((said(text) > 0) == mask.bool()).float().mean() > 0.95
        assert ((said(text[torch.tensor([1, 0, 3, 2])]) > 0) == mask.bool()).float().mean() < 0.05
