"""What a forward process of AnoFPDM shows: step by step, and gathered without keeping the steps.

Y. Che et al. 2024, Sect. 4, https://arxiv.org/abs/2404.15683.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tagmask.methods.anofpdm_settings import AnoFPDMSettings

__all__ = ["Gatherer", "Passage", "Step"]


@dataclass(frozen=True)
class Step:
    """What one step shows under one guidance strength; C counts the modalities looked at.

    Parameters
    ----------
    t
        The step, 1 ... T'.
    m, mse_h, mse_0 : (B, C) float32
        Eqs. 12, 14 and 16.
    sam : (B, C, S, S) float32
        Eq. 19, or what takes its place when the gradient serves as SAM.
    shift : (B, C, S, S) float32
        X^h_t - X^0_t. Not clipped it is (1 + w) B_t ∇ log p(h | x_t), B_t = (1 - ᾱ_t) / √ᾱ_t (Eqs. 8 and 11).
    """

    t: int
    m: Tensor
    mse_h: Tensor
    mse_0: Tensor
    sam: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Passage:
    """One forward process under one guidance strength, K steps visited.

    Parameters
    ----------
    guidance
        w.
    steps
        The K steps visited, rising.
    m, mse_h, mse_0 : (B, K, C) float32
        The curves of Figs. 2a to 2c.
    end : (B, C) int64
        t_e, the first step at which M is largest (Eq. 21).
    maps : (B, C, S, S) float32
        The aggregated map (Eq. 20), or the SAM at t_e.
    """

    guidance: float
    steps: tuple[int, ...]
    m: Tensor
    mse_h: Tensor
    mse_0: Tensor
    end: Tensor
    maps: Tensor

    @property
    def peak(self) -> Tensor:
        """max_t M_t: (B, C) float32."""
        return self.m.amax(dim=1)

    @property
    def similarity(self) -> Tensor:
        """Cosine of the two curves of errors (Eq. 18), in [0, 1]; 1 where both are zero: (B,) float64, on the CPU."""
        # In double precision, which not every accelerator has.
        u, v = (mse.cpu().double().mean(dim=2) for mse in (self.mse_h, self.mse_0))
        norms = u.norm(dim=1) * v.norm(dim=1)
        cosine = ((u * v).sum(dim=1) / norms).clamp(0, 1)
        return torch.where(norms == 0, (u == v).all(dim=1).double(), cosine)


class Gatherer:
    """Turns steps into a passage as they come: keeps numbers of each step, but of maps only sum and snapshot.

    Whenever M exceeds its largest value so far, the sum of the SAMs is what the aggregated map would be if no
    later step exceeded it. So the map at t_e is there at the end, in memory that does not grow with T'.

    Parameters
    ----------
    settings
        How SAMs are aggregated.
    like : (B, C, S, S) float32
        The modalities looked at.
    last : (B, C) int64, optional
        End the map at this step, included, instead of at t_e.
    """

    def __init__(self, settings: AnoFPDMSettings, like: Tensor, last: Tensor | None = None) -> None:
        self.settings, self.last = settings, last
        self._exclusive = settings.end_exclusive and last is None
        self._total, self._map = torch.zeros_like(like), torch.zeros_like(like)
        self._count = 0
        self._best = torch.full(like.shape[:2], -torch.inf, device=like.device)
        self._end = torch.zeros(like.shape[:2], dtype=torch.int64, device=like.device)
        self._curves: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, step: Step) -> None:
        """Take in the next step."""
        # Strictly, so that the first maximum counts (Eq. 21); written so that NaN shows itself.
        higher = ~(step.m <= self._best)
        self._best = torch.where(higher, step.m, self._best)
        self._end = torch.where(higher, step.t, self._end)
        ends_here = higher if self.last is None else self.last == step.t
        self._map = torch.where(ends_here[..., None, None], self._aggregate(step.sam), self._map)
        self._curves.append((step.m, step.mse_h, step.mse_0))

    def _aggregate(self, sam: Tensor) -> Tensor:
        """Give the map if it ended with this SAM (Eq. 20)."""
        s, before, included = self.settings, self._total, len(self._curves) % self.settings.interval == 0
        if s.map == "single":
            self._total = sam
            return before if self._exclusive else sam
        total, count = before + sam, self._count + 1
        shown = (before, max(self._count, 1)) if self._exclusive else (total, count)
        if included:
            self._total, self._count = total, count
        return shown[0] / shown[1] if s.aggregate == "mean" else shown[0]

    def passage(self, guidance: float) -> Passage:
        """Give what was gathered."""
        m, mse_h, mse_0 = (torch.stack(curve, dim=1) for curve in zip(*self._curves, strict=True))
        return Passage(guidance, self.settings.steps, m, mse_h, mse_0, self._end, self._map)
