"""The upper row: a segmenter trained on pixel masks. It is here to be compared with, not to be compared to.

O. Ronneberger, P. Fischer, T. Brox, "U-Net", MICCAI 2015, https://arxiv.org/abs/1505.04597.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tagmask.networks.segmenter import Segmenter
from tagmask.types import Batch, Prediction

__all__ = ["Supervised", "SupervisedSettings"]


@dataclass(frozen=True)
class SupervisedSettings:
    """A segmenter has nothing to set once it is trained."""


@dataclass(frozen=True)
class Supervised:
    """Score every pixel by the segmenter's probability, in [0, 1].

    Parameters
    ----------
    segmenter
        Trained on masks; results are stamped with that.
    """

    segmenter: Segmenter
    settings: SupervisedSettings = SupervisedSettings()

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Give p(target) of every pixel; `seed` has no effect."""
        return Prediction(score_map=self.segmenter(batch.image).float().sigmoid())
