"""Which of the averaged weights to keep: those with the highest Dice on the validation masks.

What is chosen here has read masks of the validation split, and results are stamped with that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tagmask.data.prepared import Prepared
from tagmask.errors import InputError
from tagmask.io import write_csv
from tagmask.metrics import counts, dice
from tagmask.networks.head import FeatureHead
from tagmask.training.kept_features import KeptFeatures
from tagmask.types import TextTokens

__all__ = ["Selection"]


@dataclass
class Selection:
    """The looks so far, and the best weights among them.

    Parameters
    ----------
    prepared
        A folder prepared with masks, with slices in the val split.
    batch
        Slices at once.
    encode
        What makes tokens of sentences, for networks that read them.
    kept
        Features of a backbone, for networks that read these.
    looks
        Step and mean Dice of each look, rising in steps.
    best
        State of the network at the best of them; of equal ones, the earliest.

    Raises
    ------
    InputError
        No validation slices, or no masks.
    """

    prepared: Prepared
    batch: int
    encode: Callable[[Sequence[str | None]], TextTokens] | None = None
    kept: KeptFeatures | None = None
    looks: list[tuple[int, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.prepared.split_indices("val")
        if not len(self.rows):
            raise InputError(
                "select_every looks at masks of the val split, which is empty.",
                where=self.prepared.path,
                repair="Prepare data with validation patients, or leave select_every out.",
            )
        self.masks = self.prepared.open_masks()

    @property
    def chosen(self) -> tuple[int, float]:
        """Step and mean Dice of the best look."""
        return max(self.looks, key=lambda look: (look[1], -look[0]))

    @torch.no_grad()
    def look(self, step: int, network: nn.Module, device: torch.device | str) -> None:
        """Judge a network by the mean Dice per slice of p(target) > 0.5, and keep its weights if it is the best.

        Parameters
        ----------
        network
            A mask learner; it is left in evaluation mode.
        """
        network.eval()
        found = []
        for rows in np.array_split(self.rows, -(-len(self.rows) // self.batch)):
            batch = self.prepared.batch(rows, self.encode).to(device)
            if self.kept is not None and isinstance(network, FeatureHead):
                features = self.kept.of(rows.tolist(), batch.image)
                logits = network.decode(features, batch.image.shape[-1], batch.text)
            else:
                logits = network(batch.image, batch.text)
            marked = (logits > 0)[:, 0].cpu().numpy()
            found += [
                float(dice(c.tp, c.fp, c.fn))
                for row, mask in zip(rows, marked, strict=True)
                for c in [counts(mask, np.asarray(self.masks[row]) > 0)]
            ]
        self.looks.append((step, round(float(np.mean(found)), 6)))
        if self.chosen[0] == step:
            self.best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}

    def write(self, path: Path) -> None:
        """Write the looks as a table of step and dice."""
        write_csv(path, ("step", "dice"), ({"step": step, "dice": dice} for step, dice in self.looks))
