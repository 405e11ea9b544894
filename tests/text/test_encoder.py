from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from tagmask.errors import ConfigError
from tagmask.text import TextEncoder, TextSettings
from tagmask.text import encoder as module

LEFT, RIGHT = "The nuclei density in the left is high.", "The lungs."
LONG = " ".join(["left right"] * 5000)  # 54,999 characters
UNKNOWN = "ปอดอักเสบ"


def encoder(folder: Path, tokens: int | None = None, mask: bool = True) -> TextEncoder:
    return TextEncoder(TextSettings(str(folder), tokens, mask))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What our own encoder warned of: the oracle's loading is not quiet."""
    return [
        r.getMessage()
        for r in caplog.records
        if r.name.startswith("tagmask") and r.levelno == logging.WARNING
    ]


def oracle(folder: Path, text: str, **options: object) -> torch.Tensor:
    """What transformers itself makes of a sentence."""
    from transformers import BertModel, BertTokenizer

    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        state: torch.Tensor = model(**tokenizer([text], return_tensors="pt", **options)).last_hidden_state
    return state[0]


def test_whole_sentences_are_what_transformers_makes_of_them(tiny: Path) -> None:
    tokens = encoder(tiny)([LEFT, RIGHT])
    assert tokens.embedding.shape == (2, 11, 8) and tokens.embedding.dtype == torch.float32
    assert tokens.mask.sum(1).tolist() == [11, 6]  # [CLS] the lung ##s . [SEP]
    for text, row, mask in zip((LEFT, RIGHT), tokens.embedding, tokens.mask, strict=True):
        torch.testing.assert_close(row[mask], oracle(tiny, text))
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)
        assert not row[~mask].any()


@pytest.mark.parametrize("text", [LEFT, RIGHT])
def test_as_published_pads_are_encoded_and_count(tiny: Path, text: str) -> None:
    """Tokens to the number of 10 by padding or cutting; the encoder is told of pads, what reads it is not."""
    found = encoder(tiny, 10, mask=False)([text])
    assert found.mask.tolist() == [[True] * 10]
    wanted = oracle(tiny, text, padding="max_length", truncation=True, max_length=10)
    torch.testing.assert_close(found.embedding[0], wanted)
    assert found.embedding[0].norm(dim=1).min() > 0.1  # a pad is no zero


def test_a_number_of_tokens_with_a_mask(tiny: Path) -> None:
    found = encoder(tiny, 10)([LEFT, RIGHT, None])
    assert found.embedding.shape == (3, 10, 8) and found.mask.sum(1).tolist() == [10, 6, 0]
    torch.testing.assert_close(found.embedding[0], oracle(tiny, LEFT, truncation=True, max_length=10))
    torch.testing.assert_close(found.embedding[1, :6], oracle(tiny, RIGHT))
    assert not found.embedding[1, 6:].any()


@pytest.mark.parametrize("mask", [True, False])
def test_pictures_without_text(tiny: Path, mask: bool) -> None:
    found = encoder(tiny, 10, mask)([None, "", " \t\r\n", "\x00\x07", "\u200b\ufeff", RIGHT])
    assert not found.mask[:5].any() and not found.embedding[:5].any() and found.mask[5].any()
    alone = encoder(tiny)([None, ""])
    assert alone.embedding.shape == (2, 1, 8) and not alone.mask.any() and not alone.embedding.any()
    assert encoder(tiny)([]).embedding.shape == (0, 1, 8)


@pytest.mark.parametrize(("tokens", "mask"), [(None, True), (10, True), (10, False)])
def test_alone_as_in_company(tiny: Path, tokens: int | None, mask: bool) -> None:
    texts = [RIGHT, None, LEFT, "Lung", RIGHT]
    company = encoder(tiny, tokens, mask)(texts)
    for i, text in enumerate(texts):
        alone, n = encoder(tiny, tokens, mask)([text]), int(company.mask[i].sum())
        assert torch.equal(company.embedding[i, :n], alone.embedding[0, :n])
        assert int(alone.mask.sum()) == n


def test_each_sentence_is_encoded_once(tiny: Path) -> None:
    made = encoder(tiny)
    calls: list[object] = []
    made._model.register_forward_pre_hook(lambda *_: calls.append(1))
    first = made([LEFT, RIGHT, LEFT, f"  {LEFT}\n", None])
    second = made([RIGHT, LEFT])
    assert len(calls) == 2
    assert torch.equal(first.embedding[0], second.embedding[1])
    first.embedding.zero_()  # what was given away does not reach what is kept
    assert torch.equal(made([RIGHT, LEFT]).embedding, second.embedding)


def test_what_is_kept_is_bounded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder(tiny)
    wanted = [made([text]).embedding for text in (LEFT, RIGHT)]
    monkeypatch.setattr(module, "_ROOM", wanted[0].nbytes)
    small = encoder(tiny)
    for _ in range(3):
        for text, row in zip((LEFT, RIGHT), wanted, strict=True):
            assert torch.equal(small([text]).embedding, row)
            assert small._held == sum(kept.nbytes for kept in small._known.values()) <= wanted[0].nbytes


def test_it_is_frozen_and_heads_can_learn_from_it(tiny: Path) -> None:
    made = encoder(tiny)
    assert not made._model.training and not any(p.requires_grad for p in made._model.parameters())
    head = torch.ones(8, requires_grad=True)
    (made([LEFT]).embedding @ head).sum().backward()
    assert head.grad is not None and head.grad.any()


def test_ten_thousand_characters_are_cut_and_that_is_said_once(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoder(tiny)
    found = made([LONG, LONG + " lung", LEFT])
    assert found.embedding.shape == (3, 16, 8)
    torch.testing.assert_close(found.embedding[0], oracle(tiny, LONG, truncation=True, max_length=16))
    (message,) = said(caplog)
    assert message.startswith("A text has 10,002 tokens and is cut to the 16 that ")
    assert len(message) < 300 + len(str(tiny))


def test_what_is_asked_to_be_cut_is_not_spoken_of(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder(tiny, 10)([LONG])
    encoder(tiny)([" ".join(["left"] * 14)])  # 16 with both ends: it just fits
    assert said(caplog) == []


def test_a_sentence_of_which_nothing_is_known_is_no_text(
    tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = encoder(tiny)
    found = made([UNKNOWN, f"{UNKNOWN} lung", UNKNOWN])
    assert found.mask.sum(1).tolist() == [0, 4, 0]  # one known word, and the other stays an unknown one
    (message,) = said(caplog)
    assert "knows nothing of the text" in message and UNKNOWN in message


def test_white_space_control_characters_and_half_characters(tiny: Path) -> None:
    made = encoder(tiny)
    plain = made(["The lungs left"]).embedding
    for text in (
        "  The\tlungs\nleft\r\n",
        "T\x00he lu\x07ngs\x1b left",
        "The\u00a0lungs\u2003left",
        "The lungs\ud800 left",
    ):
        assert torch.equal(made([text]).embedding, plain), repr(text)


@pytest.mark.parametrize("tokens", [-1, 0, 2])
def test_too_few_tokens(tokens: int) -> None:
    with pytest.raises(ConfigError, match=r"text\.tokens: .* no room for a word.*Use 3"):
        TextSettings(tokens=tokens)


def test_settings_that_do_not_fit(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"text\.mask: .*Give text\.tokens"):
        TextSettings(mask=False)
    with pytest.raises(ConfigError, match=r"text\.encoder: It is empty"):
        TextSettings(" ")
    with pytest.raises(ConfigError, match=r"17 tokens are asked for, and .* reads 16"):
        encoder(tiny, 17)
    assert encoder(tiny, 16)([LONG]).mask.sum() == 16
