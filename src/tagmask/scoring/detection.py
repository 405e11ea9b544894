"""Whole slices told apart: by the method's score, by position alone, by masks that are not empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tagmask.metrics import auc_interval
from tagmask.scoring.baselines import PositionPrior
from tagmask.scoring.slice_records import SliceRecord

__all__ = ["image_level"]

_NAN = float("nan")


def image_level(
    rows: Mapping[str, Sequence[SliceRecord]],
    prior: PositionPrior,
    score_from: str,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Say how well whole slices are told apart: by score, by position alone, by non-empty masks.

    Parameters
    ----------
    rows
        Records by row, the same slices in each; "method" among them.
    prior
        The rule that knows the position only.
    score_from
        Where the method's image-level score came from.

    Returns
    -------
    dict
        See summary.json. The truth is the tags where every slice has one, else whether the slice's mask is
        empty.
    """
    records = rows["method"]
    tagged = all(r.tag is not None for r in records)
    labels = np.array([r.tag == 1 if tagged else r.counts.tp + r.counts.fn > 0 for r in records], dtype=bool)
    patients = np.array([r.patient for r in records])

    def area(score: np.ndarray) -> dict[str, float]:
        if not np.isfinite(score).all():
            return {"auc": _NAN, "low": _NAN, "high": _NAN}
        value, low, high = auc_interval(score, labels, patients, resamples=resamples, seed=seed)
        return {"auc": value, "low": low, "high": high}

    detection = []
    for key, found in rows.items():
        marked = np.array([r.counts.tp + r.counts.fp > 0 for r in found], dtype=bool)
        rates = {"sensitivity": _share(marked[labels]), "false_positive_rate": _share(marked[~labels])}
        detection.append({"row": key, **rates})
    place = prior.score(np.array([r.position for r in records]))
    return {
        "against": "tags" if tagged else "truth",
        "n": len(records),
        "positives": int(labels.sum()),
        "method": {**area(np.array([r.score for r in records])), "score": score_from},
        "position": {**area(place), "fit": "nothing" if prior.frequency is None else "train tags"},
        "detection": detection,
    }


def _share(marked: np.ndarray) -> float:
    """Share of True, NaN of nothing."""
    return float(marked.mean()) if marked.size else _NAN
