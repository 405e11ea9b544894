"""Sentences as a frozen text encoder sees them: one vector a token.

The encoder is never trained. What was decided, and why: docs/adr/0016-text-encoder-and-texts.md.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from tagmask.errors import ConfigError
from tagmask.text.bert import MINILM, find_bert, hash_bert, load_bert
from tagmask.types import TextTokens

__all__ = ["TextEncoder", "TextSettings"]

log = logging.getLogger(__name__)

_ENDS = 2
"""[CLS] and [SEP], which every sentence has around it."""
_ROOM = 2**30
"""Bytes of encoded sentences that are kept; beyond them the oldest are let go and encoded again if needed."""


@dataclass(frozen=True)
class TextSettings:
    """Which encoder reads the sentences, and how much of them.

    Parameters
    ----------
    encoder
        "minilm", the folder of a BERT, or a name of the hub: see `tagmask.text.bert`.
    tokens
        None: the whole sentence, up to the encoder's positions (512). A number: this many tokens with [CLS]
        and [SEP]; what is longer is cut, what is shorter is padded. 10 in Feng et al. 2024.
    mask
        Whether pads are masked. False is what was published: the encoder is told which tokens are pads, so
        that words do not look at them, but what it makes of the pads goes on as if they were words, and every
        position counts. It needs `tokens`.

    Raises
    ------
    ConfigError
        A value out of range.
    """

    encoder: str = MINILM
    tokens: int | None = None
    mask: bool = True

    def __post_init__(self) -> None:
        if not self.encoder.strip():
            raise ConfigError("It is empty.", where="text.encoder", repair=f'Use "{MINILM}" or a folder.')
        if self.tokens is not None and self.tokens <= _ENDS:
            raise ConfigError(
                f"{self.tokens} tokens leave no room for a word between [CLS] and [SEP].",
                where="text.tokens",
                repair="Use 3 or more, or leave it out for whole sentences.",
            )
        if not self.mask and self.tokens is None:
            raise ConfigError(
                "mask = false counts pads as words, but without a number of tokens there is no telling how many.",
                where="text.mask",
                repair="Give text.tokens, as 10, or leave mask out.",
            )


class TextEncoder:
    """Turns sentences into token embeddings, each sentence once.

    What a sentence becomes depends on it and the settings alone, to the bit: each goes through the encoder by
    itself, and is remembered. White space counts as one space, control characters as nothing.

    Parameters
    ----------
    settings
        Which encoder, and how much of a sentence.

    Attributes
    ----------
    width : int
        W, of an embedding.
    positions : int
        The most tokens that the encoder reads.

    Raises
    ------
    ConfigError
        A package is missing, there is no such encoder, or it reads fewer tokens than are asked for.
    InputError
        A folder that cannot be loaded.
    SecurityError
        A folder whose weights are pickled.
    """

    def __init__(self, settings: TextSettings = TextSettings()) -> None:
        self.settings = settings
        self._folder = find_bert(settings.encoder)
        self._model, self._tokenizer = load_bert(self._folder)
        self.width: int = self._model.config.hidden_size
        self.positions: int = self._model.config.max_position_embeddings
        if settings.tokens is not None and settings.tokens > self.positions:
            raise ConfigError(
                f"{settings.tokens} tokens are asked for, and {settings.encoder} reads {self.positions}.",
                where="text.tokens",
                repair="Use fewer.",
            )
        self._known: dict[str, Tensor] = {}
        self._held = 0
        self._cut = False

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the encoder's files, 64 hex digits: what was learnt with one encoder needs the same."""
        return hash_bert(self._folder)

    def __call__(self, texts: Sequence[str | None]) -> TextTokens:
        """Encode sentences.

        Parameters
        ----------
        texts
            B sentences. None and sentences of white space are pictures without text; so is one of which the
            encoder knows no part, of which a warning tells.

        Returns
        -------
        TextTokens
            (B, L, W) float32 and (B, L) bool on the CPU; L is `settings.tokens`, or the longest of the batch.
            A picture without text has zeros and no token that counts.
        """
        rows = [self._row(text) for text in texts]
        length = self.settings.tokens or max([1, *(len(row) for row in rows)])
        embedding = torch.zeros(len(rows), length, self.width)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for i, row in enumerate(rows):
            embedding[i, : len(row)] = row
            mask[i, : len(row)] = True
        return TextTokens(embedding, mask)

    def _row(self, text: str | None) -> Tensor:
        """Give a sentence as (n, W) float32, n = 0 for none; encode it if it is new."""
        sentence = _plain(text or "")
        if sentence not in self._known:
            row = self._encode(sentence) if sentence else torch.zeros(0, self.width)
            self._known[sentence] = row
            self._held += row.nbytes
            while self._held > _ROOM and len(self._known) > 1:
                self._held -= self._known.pop(next(iter(self._known))).nbytes
            return row
        return self._known[sentence]

    @torch.no_grad()
    def _encode(self, sentence: str) -> Tensor:
        tokenizer = self._tokenizer
        words = tokenizer(sentence, add_special_tokens=False, verbose=False)["input_ids"]
        if all(word == tokenizer.unk_token_id for word in words):
            log.warning(
                "The encoder %s knows nothing of the text %r: its picture counts as one without text.",
                *(self.settings.encoder, _short(sentence)),
            )
            return torch.zeros(0, self.width)
        limit = self.settings.tokens or self.positions
        if len(words) + _ENDS > limit == self.positions and not self._cut:
            self._cut = True
            log.warning(
                "A text has %s tokens and is cut to the %s that %s reads, as any other that is too long: %r.",
                *(f"{len(words) + _ENDS:,}", self.positions, self.settings.encoder, _short(sentence)),
            )
        ids = [tokenizer.cls_token_id, *words[: limit - _ENDS], tokenizer.sep_token_id]
        pads = 0 if self.settings.mask else limit - len(ids)
        state: Tensor = self._model(
            input_ids=torch.tensor([ids + [tokenizer.pad_token_id] * pads]),
            attention_mask=torch.tensor([[1] * len(ids) + [0] * pads]),
        ).last_hidden_state
        return state[0]


def _plain(text: str) -> str:
    """Leave out control characters, NUL and lone surrogates, as BERT does; make white space one space."""
    kept = (c if c.isspace() or unicodedata.category(c)[0] != "C" else "" for c in text)
    return " ".join("".join(kept).split())


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
