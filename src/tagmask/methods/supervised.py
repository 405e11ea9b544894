"""Networks trained on pixel masks, each by its own paper's file in `tagmask.networks`: the U-Net and the others.

Trained on every mask they are the upper row of tables of weak supervision; trained on a handful, rivals of each
other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from tagmask.errors import ConfigError
from tagmask.networks.pixel_classifier import PixelClassifier, jensen_shannon
from tagmask.types import Batch, Prediction

__all__ = ["PixelEnsemble", "PixelEnsembleSettings", "Supervised", "SupervisedSettings"]


@dataclass(frozen=True)
class SupervisedSettings:
    """What can be set of a mask learner once it is trained.

    Parameters
    ----------
    flips
        Average with what it says of the picture mirrored left to right. Not where it reads a sentence, whose left and
        right would be wrong.
    """

    flips: bool = False


@dataclass(frozen=True)
class Supervised:
    """Score every pixel by the network's probability, in [0, 1].

    Parameters
    ----------
    learner
        A mask learner, see `tagmask.networks.kinds`; results are stamped with the masks it has read.
    """

    learner: nn.Module
    settings: SupervisedSettings = SupervisedSettings()

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Give p(target) of every pixel; `seed` has no effect.

        Raises
        ------
        ConfigError
            `flips` with sentences.
        """
        p = self.learner(batch.image, batch.text).float().sigmoid()
        if self.settings.flips:
            if batch.text is not None:
                raise ConfigError(
                    "flips = true, but the network reads sentences, whose left and right would be wrong.",
                    where="methods.*.flips",
                    repair="Set it to false for this method.",
                )
            p = (p + self.learner(batch.image.flip(-1), None).float().sigmoid().flip(-1)) / 2
        return Prediction(score_map=p)


@dataclass(frozen=True)
class PixelEnsembleSettings:
    """What an ensemble's members are asked for.

    Parameters
    ----------
    vote
        The paper's: a pixel's score is the share of the members that see the target there, so that above 0.5 most do.
        Else the mean of their probabilities.
    """

    vote: bool = False


@dataclass(frozen=True)
class PixelEnsemble:
    """Score every pixel by an ensemble, and say where its members disagree.

    Baranchuk et al. 2022, Sect. 4: the uncertainty is the members' Jensen-Shannon divergence, 0 to log 2 nats.

    Parameters
    ----------
    learner
        With its backbone attached.
    """

    learner: PixelClassifier
    settings: PixelEnsembleSettings = PixelEnsembleSettings()

    @torch.no_grad()
    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Give p(target) of every pixel, or its votes, and the members' disagreement; `seed` has no effect."""
        p = self.learner.of_members(batch.image)
        score = (p > 0.5).to(p.dtype) if self.settings.vote else p
        return Prediction(score_map=score.mean(dim=0), uncertainty=jensen_shannon(p))
