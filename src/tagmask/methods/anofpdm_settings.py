"""What can be set in AnoFPDM: the paper's hyper-parameters, then what its published code does otherwise.

Y. Che et al. 2024, https://arxiv.org/abs/2404.15683. The differences: docs/adr/0008-anofpdm-paper-and-code.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tagmask.errors import ConfigError

__all__ = ["READ_OFF", "AnoFPDMSettings"]

READ_OFF = frozenset({"guidance", "map", "healthy_threshold", "m_max"})
"""Settings that change what is read off a walk through the network, and not the walk."""


@dataclass(frozen=True)
class AnoFPDMSettings:
    """The paper's hyper-parameters, what is chosen by tags, the ablations, and the published deviations.

    Parameters
    ----------
    guidance
        w >= 0, chosen by tags.
    forward_steps, stride
        T', how far the image is noised, and k: only the steps 1, 1 + k, 1 + 2k, ... are visited, from one to the
        next by DDIM. The paper takes every step.
    healthy_threshold
        A slice is taken for healthy when its similarity (Eq. 18) lies above; chosen by tags. Unknown, no slice is
        judged.
    m_max
        M_max of every modality, chosen by tags. Unknown, no threshold is given.
    modalities
        Channels that are looked at, counted from 0; all by default. The denoiser sees all of them.
    encoding
        How x_t is made: "ddim" without randomness (Eq. 4), "ddpm" with a noise for every step (Eq. 2).
    map
        "aggregated": the SAMs of steps 1 ... t_e (Eq. 20). "single": the SAM at t_e.
    aggregate
        "mean" or "sum" of the SAMs. Thresholds move with it.
    sam
        "error": Eq. 19. "weighted": (X^h - X^0)², the classifier's gradient with its weight. "plain": without it.
    end_ratio
        Aggregate up to this multiple of t_e, rounded. Other than 1 it walks the forward process twice.
    interval
        Aggregate every so many visited steps, and t_e.
    quantiles, quantile_domain
        The ends of Q_r in Algorithm 1, for M = 0 and M >= M_max, and the pixels they are counted over: the "whole"
        slice or its "foreground" (mean over channels above -0.95, as the published code has it).
    chunk
        Steps of the "ddpm" encoding that go through the network at once; None takes some 16 slices together. The
        result does not depend on it.
    candidates
        Guidance strengths that `tagmask tune` compares, all in one pass.
    accuracy_kept
        The largest strength that keeps this share of the best accuracy is chosen.
    threshold_rule
        How a healthy threshold is found: "sweep" looks at every split of the validation slices, "grid" at 100
        quantiles of the healthy ones, as the published code does.
    m_max_over
        Validation slices that M_max is taken over: "all" or "unhealthy".
    ugp
        The unguided prediction's condition: "null", or "healthy" as in the published code.
    clip
        Cut predictions of x_0 to [-1, 1], in the encoding too.
    start
        What the "ddim" encoding sets out from: the "image" itself, or the image "noised" to step 1.
    offset
        1 repeats the published code's slip: from the second step of "ddim" on, states are one level noisier than
        the label they are given.
    end_exclusive
        Leave the SAM at t_e out, as the published code does ("single" takes the one before).
    quantile_index
        "round" 100 M / M_max, or "truncate" it after rounding to two digits, as the published code does.
    """

    guidance: float = 2.0
    forward_steps: int = 600
    stride: int = 1
    healthy_threshold: float | None = None
    m_max: tuple[float, ...] | None = None
    modalities: tuple[int, ...] | None = None
    encoding: Literal["ddim", "ddpm"] = "ddim"
    map: Literal["aggregated", "single"] = "aggregated"
    aggregate: Literal["mean", "sum"] = "mean"
    sam: Literal["error", "weighted", "plain"] = "error"
    end_ratio: float = 1.0
    interval: int = 1
    quantiles: tuple[float, float] = (0.98, 0.90)
    quantile_domain: Literal["whole", "foreground"] = "whole"
    chunk: int | None = None
    candidates: tuple[float, ...] = (0.1, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
    accuracy_kept: float = 0.99
    threshold_rule: Literal["sweep", "grid"] = "sweep"
    m_max_over: Literal["all", "unhealthy"] = "all"
    ugp: Literal["null", "healthy"] = "null"
    clip: bool = True
    start: Literal["image", "noised"] = "image"
    offset: int = 0
    end_exclusive: bool = False
    quantile_index: Literal["round", "truncate"] = "round"

    def __post_init__(self) -> None:
        modalities = (0,) if self.modalities is None else self.modalities
        top, bottom = self.quantiles
        threshold = 0.0 if self.healthy_threshold is None else self.healthy_threshold
        strengths = (self.guidance, *self.candidates)
        rules: tuple[tuple[str, bool, str], ...] = (
            ("guidance", self.guidance >= 0, "Use 0 or more; the paper has 2 for BraTS."),
            ("forward_steps", self.forward_steps >= 2, "Use 2 or more; the paper has 600."),
            ("stride", 1 <= self.stride < self.forward_steps, "Use 1 to forward_steps - 1; the paper has 1."),
            ("healthy_threshold", -1 <= threshold <= 1, "It is a cosine: let tagmask tune choose it."),
            ("m_max", min((*(self.m_max or ()), 1)) > 0, "It is positive: let tagmask tune choose it."),
            ("modalities", min((*modalities, 0)) == 0, "Channels are counted from 0."),
            ("modalities", 0 < len(modalities) == len(set(modalities)), "Name each channel once."),
            ("end_ratio", self.end_ratio > 0, "Use 1 to end at t_e."),
            ("interval", self.interval >= 1, "Use 1 to take every step."),
            ("interval", self.interval == 1 or self.map == "aggregated", 'It needs map = "aggregated".'),
            ("interval", self.interval == 1 or not self.end_exclusive, "It needs end_exclusive = false."),
            ("quantiles", 1 >= top >= bottom >= 0, "Use numbers within [0, 1], the larger first."),
            ("chunk", self.chunk is None or self.chunk >= 1, "Use 1 or more, or leave it out."),
            ("candidates", 0 < len(self.candidates) == len(set(self.candidates)), "Name each strength once."),
            ("candidates", min((*self.candidates, 0)) == 0, "Use 0 or more."),
            ("accuracy_kept", 0 < self.accuracy_kept <= 1, "Use 0.99 as in the paper."),
            ("offset", self.offset in (0, 1), "Use 0, or 1 for the published code."),
            ("offset", not self.offset or self.stride == 1, "It needs stride = 1."),
            ("ugp", self.ugp == "null" or min(strengths) > 0, "Without guidance both predictions are one."),
        )
        for name, holds, repair in rules:
            if not holds:
                what = f"{name} = {getattr(self, name)!r} is not allowed."
                raise ConfigError(what, where="[methods.anofpdm]", repair=repair)

    @classmethod
    def published(cls, **changes: Any) -> AnoFPDMSettings:
        """Give the settings under which this is what the published code does (ADR 8), with changes."""
        code: dict[str, Any] = {
            "threshold_rule": "grid",
            "m_max_over": "unhealthy",
            "ugp": "healthy",
            "start": "noised",
            "offset": 1,
            "end_exclusive": True,
            "quantile_index": "truncate",
        }
        return cls(**{**code, **changes})

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps visited, rising."""
        return tuple(range(1, self.forward_steps + 1, self.stride))
