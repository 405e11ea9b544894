"""The papers' ablation figures: every kind by name. A new kind is an `Ablation` in a file here and a line below."""

from __future__ import annotations

from collections.abc import Mapping

from tagmask.ablations import anofpdm, cdm, costs
from tagmask.ablations.kinds import Ablation

__all__ = ["ABLATIONS"]

ABLATIONS: Mapping[str, Ablation] = {
    "Q": cdm.NOISE_LEVEL,
    "R": cdm.STAGES,
    "tau": cdm.TAU,
    "s": cdm.SCALE,
    "steps": costs.STEPS,
    "stride": costs.STRIDE,
    "w": anofpdm.GUIDANCE,
    "end": anofpdm.END,
    "threshold": anofpdm.THRESHOLD,
    "curves": anofpdm.CURVES,
    "size": anofpdm.SIZE,
    "regions": anofpdm.REGIONS,
    "sam": anofpdm.SAM,
}
