"""Average precision: known curves, scikit-learn as oracle, and the pooled one in bounded memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from tagmask.scoring.precision_recall import PooledScores, average_precision, pr_curve


@pytest.mark.parametrize("digits", [0, 1, 8])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_agrees_with_scikit_learn_ties_included(digits: int, share: float) -> None:
    rng = np.random.default_rng(digits)
    truth = rng.random((40, 40)) < share
    score = np.round(rng.normal(size=(40, 40)) + truth, digits)
    value, status = average_precision(score, truth)
    assert status == "ok" and value == pytest.approx(average_precision_score(truth.ravel(), score.ravel()))


def test_known_curves() -> None:
    truth = np.array([1, 1, 0, 0], bool)
    assert average_precision(np.array([4, 3, 2, 1]), truth) == (1.0, "ok")
    assert average_precision(np.zeros(4), truth) == (0.5, "ok")  # no contrast: the prevalence
    assert average_precision(np.array([1, 2, 3, 4]), truth)[0] == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_not_defined_is_said() -> None:
    value, status = average_precision(np.arange(4), np.zeros(4, bool))
    assert math.isnan(value) and status == "no_positives"
    for bad in (np.nan, np.inf):
        value, status = average_precision(np.array([1, bad]), np.array([True, False]))
        assert math.isnan(value) and status == "not_finite"
    assert average_precision(np.zeros(0), np.zeros(0, bool))[1] == "no_positives"


def test_curve_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    truth, score = rng.random(300) < 0.2, np.round(rng.normal(size=300), 1)
    precision, recall, threshold = pr_curve(score, truth)
    theirs = precision_recall_curve(truth, score)
    assert precision == pytest.approx(theirs[0][:-1][::-1])
    assert recall == pytest.approx(theirs[1][:-1][::-1])
    assert threshold == pytest.approx(theirs[2][::-1])


def slices(seed: int, n: int = 30) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    truths = [rng.random((32, 32)) < 0.1 for _ in range(n)]
    return [((rng.normal(size=t.shape) + t).astype(np.float32), t) for t in truths]


def test_pooled_equals_all_at_once_whatever_the_order() -> None:
    parts = slices(0)
    score, truth = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
    expected = average_precision_score(truth, score)
    for order in (parts, parts[::-1]):
        pool = PooledScores()
        for part in order:
            pool.add(*part)
        assert pool.exact and pool.average_precision() == (pytest.approx(expected), "ok")


def test_pooled_is_not_the_mean_of_slices() -> None:
    easy = (np.array([3.0, 1.0, 1.0]), np.array([True, False, False]))
    hard = (np.array([9.0, 1.0, 2.0]), np.array([False, True, False]))
    pool = PooledScores()
    for part in (easy, hard):
        pool.add(*part)
    mean = np.mean([average_precision(*part)[0] for part in (easy, hard)])
    assert pool.average_precision()[0] != pytest.approx(mean)


def test_beyond_its_limit_it_stays_small_and_close() -> None:
    parts = slices(1, 60)
    score, truth = (np.concatenate([p[i].ravel() for p in parts]) for i in (0, 1))
    pool = PooledScores(limit=2000)
    for part in parts:
        pool.add(*part)
    value = pool.average_precision()[0]
    assert not pool.exact
    assert value == pytest.approx(average_precision_score(truth, score), abs=1e-4)
    many = PooledScores(limit=100)
    for part in parts:
        many.add(part[0] * 0 + np.float32(0.5), part[1])
    assert many.exact and many.average_precision()[0] == pytest.approx(truth.mean())


def test_rounding_keeps_sign_order_and_size() -> None:
    pool = PooledScores(limit=1)
    pool.exact = False
    score = np.sort(np.random.default_rng(0).normal(size=1000).astype(np.float32) * 1e6)
    rounded = pool._rounded(score)
    assert (np.diff(rounded) >= 0).all()
    assert rounded == pytest.approx(score, rel=1 / 8000)


def test_nothing_and_no_positives() -> None:
    pool = PooledScores()
    assert pool.average_precision()[1] == "no_positives"
    pool.add(np.arange(5.0), np.zeros(5, bool))
    assert pool.average_precision()[1] == "no_positives" and len(pool.curve()[0]) == 0
