"""Whether the target is in a slice at all: what the table, the method and the classifier say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from tagmask.data.table import Case
from tagmask.networks.classifier import Classifier
from tagmask.types import Batch, Prediction

__all__ = ["Presence", "Tags", "presence"]

Tags = Literal["given", "predicted", "none"]


@dataclass(frozen=True)
class Presence:
    """What is known of the slices of one batch.

    Parameters
    ----------
    tags
        Whose tags are wanted.
    score : (B,) float32, optional
        The method's own image-level score, else the classifier's p(tag 1).
    scored_by
        "method", "classifier" or "none".
    present : (B,) bool, optional
        Whether the target is there, where nobody has said so.
    decided_by
        "method" or "predicted" (by the classifier).
    """

    tags: Tags
    score: Tensor | None
    scored_by: str
    present: Tensor | None
    decided_by: str

    def tag(self, row: Case | None, i: int) -> tuple[int | None, str]:
        """Give the tag of slice i, None where it is not known, and where it came from.

        Parameters
        ----------
        row
            Of the table, if there is one.
        """
        if self.tags == "none":
            return None, "none"
        if self.tags == "given" and row is not None and row.label is not None:
            return row.label, "given"
        return (None, "none") if self.present is None else (int(self.present[i]), self.decided_by)

    def shown(self, i: int) -> str:
        """Write the score of slice i for a table, nothing where there is none."""
        if self.score is None:
            return ""
        value = float(self.score[i])
        return f"{value:.6f}" if self.scored_by == "classifier" else f"{value:.9g}"


def presence(prediction: Prediction, batch: Batch, classifier: Classifier | None, tags: Tags) -> Presence:
    """Let the method decide where it does and tags are to be predicted, else the classifier, if there is one.

    Given tags are completed by the classifier alone, whatever the method.
    """
    own = tags == "predicted" and prediction.present is not None
    idle = prediction.score is not None and (own or tags == "none")
    probability = None if classifier is None or idle else _probability(classifier, batch)
    score, scored_by = probability, "none" if probability is None else "classifier"
    if prediction.score is not None:
        score, scored_by = prediction.score.cpu(), "method"
    if own:
        return Presence(tags, score, scored_by, cast(Tensor, prediction.present).cpu(), "method")
    found = None if probability is None else probability >= 0.5
    return Presence(tags, score, scored_by, found, "predicted")


@torch.no_grad()
def _probability(classifier: Classifier, batch: Batch) -> Tensor:
    """p(tag 1) of each slice by the run's classifier, (B,) float32, on the clean image."""
    return classifier(batch.image, 0).float().softmax(dim=1)[:, 1].cpu()
