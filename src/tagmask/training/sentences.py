"""What is said of the training slices: rewritten with their augmentation, hidden now and then, encoded once each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tagmask.seeds import keyed
from tagmask.text import TextEncoder
from tagmask.train_settings import TrainSettings
from tagmask.training.wording import mirrored
from tagmask.types import TextTokens

__all__ = ["Sentences"]


@dataclass(frozen=True)
class Sentences:
    """The sentences of a prepared folder.

    Parameters
    ----------
    texts
        One for each slice of the folder, None where there is none.
    encoder
        Frozen; it remembers what it has read.
    settings
        Of the training: whether sentences follow their pictures, and how often they are hidden.
    """

    texts: Sequence[str | None]
    encoder: TextEncoder
    settings: TrainSettings

    def of(self, step: int, rows: Sequence[int], variants: Tensor) -> TextTokens:
        """Give the sentences of a step's slices.

        Parameters
        ----------
        rows
            Their places in the folder.
        variants : (B,) int64
            How each was turned and mirrored, as `draw_variants` gives it.
        """
        s = self.settings
        hidden = torch.rand(len(rows), generator=keyed(s.seed, "text", step)) < s.text_dropout
        shown = [None if hide else self.texts[row] for row, hide in zip(rows, hidden, strict=True)]
        if s.augment.rewrite_text:
            patient = s.augment.sides_of == "patient"
            turns = zip(shown, variants.tolist(), strict=True)
            shown = [text and mirrored(text, v >= 4, False, v % 4, of_patient=patient) for text, v in turns]
        return self.encoder(shown)
