"""How AnoFPDM chooses guidance strength, healthy threshold and M_max: by the tags of validation slices alone.

Y. Che et al. 2024, Sects. 4.2 and 4.3, https://arxiv.org/abs/2404.15683.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from tagmask.errors import InputError
from tagmask.methods.anofpdm import AnoFPDM
from tagmask.types import Batch, Choice

__all__ = ["choose", "healthy_threshold"]


def choose(method: AnoFPDM, batches: Iterable[Batch], seed: int = 0) -> Choice:
    """Choose by tags, every candidate strength from one forward process a slice.

    Each strength gets the healthy threshold that tells the tags apart best. The largest strength whose accuracy
    is within `accuracy_kept` of the best is taken: more guidance shows the target more clearly, too much of it
    makes healthy slices look changed.

    Parameters
    ----------
    method
        Its settings name the candidates and the rules.
    batches
        Validation slices with tags.

    Returns
    -------
    Choice
        `guidance`, `healthy_threshold` and `m_max`; each candidate with these and its "accuracy"; the score is
        the accuracy of the chosen one.

    Raises
    ------
    InputError
        No slices, slices without tags, all with the same tag, or a network that does not react to tags.
    """
    s = method.settings
    # Neither curves nor peaks depend on where aggregation ends, and this needs no second walk.
    method = replace(method, settings=replace(s, end_ratio=1.0))
    tags: list[np.ndarray] = []
    similarities: list[list[np.ndarray]] = [[] for _ in s.candidates]  # by candidate, then batch: (B,)
    peaks: list[list[np.ndarray]] = [[] for _ in s.candidates]  # (B, C)
    for batch in batches:
        if batch.label is None:
            raise InputError(
                "these slices have no tags to choose by.",
                where=batch.ids[0],
                repair="Prepare a table with a label for every validation slice.",
            )
        tags.append(batch.label.cpu().numpy())
        for i, passage in enumerate(method.sweep(batch, seed, s.candidates)):
            similarities[i].append(passage.similarity.cpu().numpy())
            peaks[i].append(passage.peak.cpu().numpy())
    present = np.concatenate(tags) == 1 if tags else np.zeros(0, bool)
    if not present.any() or present.all():
        raise InputError(
            f"{present.sum()} of {len(present)} validation slices have tag 1, but a healthy threshold needs slices "
            "of both tags.",
            repair="Prepare a table whose validation patients have slices of both tags.",
        )
    pool = present if s.m_max_over == "unhealthy" else np.ones_like(present)
    candidates: list[dict[str, Any]] = []
    for w, similarity, peak in zip(s.candidates, similarities, peaks, strict=True):
        threshold, accuracy = healthy_threshold(np.concatenate(similarity), present, s.threshold_rule)
        m_max = tuple(float(m) for m in np.concatenate(peak)[pool].max(axis=0))
        record = {"guidance": w, "healthy_threshold": threshold, "m_max": m_max, "accuracy": accuracy}
        candidates.append(record)
    enough = s.accuracy_kept * max(record["accuracy"] for record in candidates)
    chosen = max((r for r in candidates if r["accuracy"] >= enough), key=lambda r: r["guidance"])
    if min(chosen["m_max"]) <= 0:
        raise InputError(
            f"healthy-guided and unguided predictions are equal on every slice at guidance = {chosen['guidance']}.",
            repair="Train the denoiser longer, with slices of both tags and label_dropout > 0.",
        )
    settings = {key: value for key, value in chosen.items() if key != "accuracy"}
    return Choice(
        settings, tuple(candidates), score=chosen["accuracy"], curve=("guidance", "accuracy")
    )  # Fig. 5a


def healthy_threshold(
    similarity: np.ndarray, present: np.ndarray, rule: Literal["sweep", "grid"]
) -> tuple[float, float]:
    """Find the similarity up to which slices are taken for unhealthy, and the accuracy it has.

    Parameters
    ----------
    similarity : (N,) float64 in [0, 1]
    present : (N,) bool
        Tag 1; both values occur.
    rule
        "sweep": every midpoint of neighbouring similarities, and the two ends (-1: all healthy, 1: none). "grid":
        100 quantiles of the healthy slices from 0.005 to 0.095, and a healthy slice right at one is not counted as an
        error, as published. The first of the best is taken.

    Examples
    --------
    >>> healthy_threshold(np.array([0.2, 0.4, 0.8, 1.0]), np.array([True, True, False, False]), "sweep")
    (0.6000000000000001, 1.0)
    """
    healthy, unhealthy = np.sort(similarity[~present]), np.sort(similarity[present])
    if rule == "sweep":
        level = np.unique(similarity)
        thresholds = np.concatenate([[-1.0], (level[:-1] + level[1:]) / 2, [1.0]])
    else:
        thresholds = np.quantile(healthy, np.linspace(0.005, 0.095, 100))
    missed = len(unhealthy) - np.searchsorted(unhealthy, thresholds, side="right")
    errors = missed + np.searchsorted(healthy, thresholds, side="right" if rule == "sweep" else "left")
    best = int(np.argmin(errors))
    return float(thresholds[best]), float(1 - errors[best] / len(similarity))
