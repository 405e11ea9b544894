"""The histogram against numpy's, whatever the range and the order."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tagmask.scoring.score_histogram import ScoreHistogram


def read(path: Path) -> np.ndarray:
    with path.open(newline="") as file:
        return np.asarray([[float(v) for v in row.values()] for row in csv.DictReader(file)])


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_counts_are_those_of_numpy(tmp_path: Path, scale: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.3, 1, (20, 500)) * np.geomspace(1e-3, 1, 20)[:, None] * scale
    truth = rng.random(scores.shape) < 0.2
    histogram = ScoreHistogram()
    for line, known in zip(scores, truth, strict=True):
        histogram.add(line, known)
    assert histogram.counts.shape[1] <= 1024
    histogram.write(tmp_path / "h.csv")
    table = read(tmp_path / "h.csv")
    assert len(table) <= 256
    edges = np.append(table[:, 0], table[-1, 1])
    assert (table[1:, 0] == table[:-1, 1]).all()
    assert (table[:, 2] == np.histogram(scores[~truth], edges)[0]).all()
    assert (table[:, 3] == np.histogram(scores[truth], edges)[0]).all()


def test_order_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.normal(m, 1, 300) for m in (0, 50, -900)]
    sums = []
    for order in ((0, 1, 2), (2, 0, 1)):
        histogram = ScoreHistogram()
        for k in order:
            histogram.add(parts[k], parts[k] > m if (m := 0) else np.zeros(300, bool))
        sums.append((histogram.counts.sum(), histogram.width))
    assert sums[0] == sums[1] and sums[0][0] == 900


def test_a_constant_map_and_what_is_not_finite(tmp_path: Path) -> None:
    histogram = ScoreHistogram()
    histogram.write(tmp_path / "none.csv")
    assert not (tmp_path / "none.csv").exists()
    histogram.add(np.array([np.nan, np.inf]), np.array([True, False]))
    assert not histogram.counts.size
    histogram.add(np.full((3, 4), 7.0), np.eye(3, 4, dtype=bool))
    histogram.add(np.zeros(0), np.zeros(0, bool))
    assert histogram.counts.tolist() == [[9], [3]]
    histogram.write(tmp_path / "h.csv")
    low, high, *counts = read(tmp_path / "h.csv")[0]
    assert low <= 7 < high and counts == [9, 3]


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="3 scores, but 2 truths"):
        ScoreHistogram().add(np.zeros(3), np.zeros(2, bool))
