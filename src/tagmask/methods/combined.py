"""Several methods as one: their score maps, brought to one scale slice by slice, are averaged.

Ours, from parts of the papers: methods that read the same tags err in different places, and so do draws and
mirrored pictures. Averaging ranks is Borda's count; see docs/methods/combined.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tagmask.errors import ConfigError
from tagmask.types import Batch, Method, Prediction

__all__ = ["Combined", "CombinedSettings", "ranks", "shares"]


@dataclass(frozen=True)
class CombinedSettings:
    """Which methods, and how their maps meet.

    Parameters
    ----------
    members
        Method -> its settings, as in `[methods.NAME]`; what is left out has the method's defaults. One member is
        enough where only `flips` is wanted. With `run`, a run folder, among them it has the networks of that run, and
        what is left out is as that run's experiment says.
    scale
        "peak": each map of a slice is divided by its largest score, negative scores count 0; the average
        keeps the shapes of the maps. "rank": a pixel's score is the share of the slice's pixels that score lower;
        only their order counts.
    flips
        Average over the picture and its mirror image, left to right. Costs twice as much.

    Raises
    ------
    ConfigError
        No member, this method as a member of itself, or a run that is no path.
    """

    members: dict[str, dict[str, Any]] = field(default_factory=lambda: {"cdm": {}, "layer_cam": {}})
    scale: Literal["peak", "rank"] = "peak"
    flips: bool = False

    def __post_init__(self) -> None:
        for wrong, repair in (
            (not self.members, "Give for instance [methods.combined.members.cdm]."),
            ("combined" in self.members, "Name the methods themselves."),
            (
                not all(isinstance(table.get("run", ""), str) for table in self.members.values()),
                'Name the folder of a run: run = "runs/other".',
            ),
        ):
            if wrong:
                members = ", ".join(self.members) or "none"
                raise ConfigError(f"members: {members}.", where="[methods.combined]", repair=repair)
        if self.scale not in ("peak", "rank"):
            raise ConfigError(
                f'scale = "{self.scale}".', where="[methods.combined]", repair='Use "peak" or "rank".'
            )

    @property
    def here(self) -> dict[str, dict[str, Any]]:
        """The members whose networks are of the run itself."""
        return {name: table for name, table in self.members.items() if "run" not in table}

    @property
    def elsewhere(self) -> dict[str, tuple[Path, dict[str, Any]]]:
        """The other members: the run that each is of, and its settings."""
        return {
            name: (Path(table["run"]), {key: value for key, value in table.items() if key != "run"})
            for name, table in self.members.items()
            if "run" in table
        }


@dataclass(frozen=True)
class Combined:
    """Average the score maps of methods that look at the same slices.

    Parameters
    ----------
    members
        Name -> method, in any order: the average does not depend on it.
    settings
        How the maps meet.
    """

    members: Mapping[str, Method]
    settings: CombinedSettings

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Score each pixel in [0, 1]; 1 where every member, and every mirror image, has its largest score."""
        maps = [self._scaled(member, batch, seed) for member in self.members.values()]
        if self.settings.flips:
            mirrored = replace(batch, image=batch.image.flip(-1))
            maps += [self._scaled(member, mirrored, seed).flip(-1) for member in self.members.values()]
        return Prediction(score_map=torch.stack(maps).mean(dim=0))

    def _scaled(self, member: Method, batch: Batch, seed: int) -> Tensor:
        found = member.predict(batch, seed).score_map
        return shares(found) if self.settings.scale == "peak" else ranks(found)


def shares(score_map: Tensor) -> Tensor:
    """Divide each map by its largest score: (B, 1, S, S) float32 in [0, 1].

    Scores below 0 become 0; a map without a positive score stays 0.

    Examples
    --------
    >>> shares(torch.tensor([[[[-1.0, 0.0, 2.0, 4.0]]]])).tolist()
    [[[[0.0, 0.0, 0.5, 1.0]]]]
    """
    positive = score_map.float().clamp(min=0)
    peak = positive.amax(dim=(1, 2, 3), keepdim=True)
    return positive / torch.where(peak > 0, peak, 1)


def ranks(score_map: Tensor) -> Tensor:
    """Give the share of a map's other pixels that score lower, half of those that tie: as the map, in [0, 1].

    Examples
    --------
    >>> ranks(torch.tensor([[[[5.0, 1.0, 1.0, 9.0, 7.0]]]])).tolist()
    [[[[0.5, 0.125, 0.125, 1.0, 0.75]]]]
    """
    flat = score_map.float().flatten(1).contiguous()
    rising = flat.sort(dim=1).values
    below, upto = (torch.searchsorted(rising, flat, right=right) for right in (False, True))
    ranked = (below + upto - 1) / 2 / max(flat.shape[1] - 1, 1)
    return ranked.float().reshape(score_map.shape)
