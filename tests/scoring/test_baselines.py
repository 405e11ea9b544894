"""Rules that know next to nothing, on pictures where what they should find is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tagmask.data.table import Case, read_table
from tagmask.metrics import auc, counts, dice
from tagmask.scoring.baselines import (
    FRACTIONS,
    SHAVES,
    IntensityRule,
    IntensitySearch,
    MeanMask,
    PositionPrior,
    relative_positions,
)


def head(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A disc with a rim 2 px wide that is brighter than the lesion in it: picture (1, H, W), lesion, disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :48]
    radius = np.hypot(y - 24, x - 24)
    picture = rng.uniform(0, 3, (48, 48)) + np.where(radius < 20, 60, 0)
    picture[(radius < 20) & (radius > 18)] = 250
    lesion = np.hypot(y - 20 - seed % 3, x - 28) < 5
    picture[lesion] = 150
    return picture[None], lesion, radius < 20


def test_the_rule_marks_its_share_of_the_head() -> None:
    picture, _, disc = head()
    for fraction in (0.1, 0.25, 1.0):
        mask, score = IntensityRule(fraction, 0).apply(picture)
        assert mask.sum() == round(fraction * disc.sum()) and not (mask & ~disc).any()
        assert score[mask].min() >= score[disc & ~mask].max(initial=-np.inf)
        assert score.dtype == np.float32


def test_shaving_takes_the_scalp_away() -> None:
    picture, lesion, disc = head()
    share = lesion.sum() / disc.sum()
    with_scalp = IntensityRule(share, 0).apply(picture)[0]
    without = IntensityRule(0.1, 4).apply(picture)[0]
    assert (with_scalp & lesion).sum() == 0
    assert (without & lesion).sum() / lesion.sum() > 0.95


@pytest.mark.parametrize("dark", [False, True])
def test_search_agrees_with_applying_each_rule(dark: bool) -> None:
    search = IntensitySearch()
    pairs = [head(seed)[:2] for seed in range(3)]
    if dark:
        pairs = [(np.where(lesion, 20.0, picture), lesion) for picture, lesion in pairs]
    for picture, lesion in pairs:
        search.add(picture, lesion)
    rule, value = search.best()

    def mean(rule: IntensityRule) -> float:
        return float(np.mean([dice(*counts(rule.apply(p)[0], t)[:3]) for p, t in pairs]))

    tried = {
        (f, n, d): mean(IntensityRule(f, n, d)) for f in FRACTIONS for n in SHAVES for d in (False, True)
    }
    assert value == pytest.approx(max(tried.values())) == pytest.approx(mean(rule))
    assert search.slices == 3 and rule.dark == dark and (dark or rule.shave >= 2) and value > 0.85


def test_the_darkest_are_the_brightest_of_the_negative_within_the_same_head() -> None:
    picture, lesion, disc = head()
    picture = np.where(lesion, 20.0, picture)
    mask, score = IntensityRule(lesion.sum() / disc.sum(), 0, dark=True).apply(picture)
    assert (
        (mask == lesion).all()
        and score[lesion].min() > score[disc & ~lesion].max()
        and not score[~disc].any()
    )


def test_a_picture_without_contrast_gives_an_empty_mask() -> None:
    mask, score = IntensityRule(0.5, 3).apply(np.full((2, 8, 8), 7.0))
    assert not mask.any() and np.isfinite(score).all()


def test_mean_mask_says_where() -> None:
    masks = np.zeros((6, 10, 10), np.uint8)
    masks[:4, 2:5, 2:5] = 1
    masks[0, 2, 2:5] = 0
    mean = MeanMask.fit(masks, np.linspace(0, 1, 6))
    assert mean.maps.shape == (1, 10, 10) and mean.maps.dtype == np.float32
    assert mean.maps[0, 3, 3] == 1 and mean.maps[0, 2, 2] == 0.75  # the two empty masks do not thin it
    marked = mean.at(np.array([0.5, 1.0])) > mean.threshold
    assert np.array_equal(marked[0], masks[1] > 0) and np.array_equal(marked[0], marked[1])


def test_mean_mask_by_position_says_whether_too() -> None:
    positions = np.tile(np.linspace(0, 1, 10), 3)
    masks = np.zeros((30, 8, 8), np.uint8)
    masks[positions > 0.5, 1:4, 1:4] = 1
    mean = MeanMask.fit(masks, positions, bins=10)
    marks = mean.at(np.array([0.0, 0.4, 0.9])) > mean.threshold
    assert [int(m.sum()) for m in marks] == [0, 0, 9]


def test_the_threshold_of_the_mean_mask_is_the_best_on_the_train_masks() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:20, :20]
    masks = np.stack([np.hypot(y - rng.normal(10, 2), x - rng.normal(10, 2)) < 5 for _ in range(40)])
    mean = MeanMask.fit(masks, np.full(40, 0.5))

    def score(threshold: float) -> float:
        return float(np.mean([dice(*counts(mean.maps[0] > threshold, m)[:3]) for m in masks]))

    assert score(mean.threshold) == pytest.approx(max(score(t) for t in np.arange(0.05, 0.95, 0.05)))


def test_position_prior_learns_where_tags_are() -> None:
    rng = np.random.default_rng(0)
    positions = rng.random(2000)
    tags = (positions > 0.7).astype(int)  # not in the middle
    assert auc(PositionPrior.fit(positions, tags).score(positions), tags == 1) > 0.97
    assert auc(PositionPrior().score(positions), tags == 1) < 0.5
    middle = np.abs(positions - 0.5) < 0.2
    assert auc(PositionPrior().score(positions), middle) == 1.0


def test_position_prior_survives_empty_bins() -> None:
    prior = PositionPrior.fit(np.array([0.05, 0.95]), np.array([0, 1]))
    assert prior.frequency is not None and np.isfinite(prior.frequency).all()
    assert prior.score(np.array([0.0]))[0] < prior.score(np.array([0.5]))[0] < prior.score(np.array([1.0]))[0]


def test_relative_positions() -> None:
    assert relative_positions(np.array([4, 2, 10])).tolist() == [0.25, 0.0, 1.0]
    assert relative_positions(np.array([7])).tolist() == [0.5]


def test_position_alone_tells_the_tags_of_brain_mri(shared: Path) -> None:
    """The data's README: slice position alone gives an AUC of 0.87 on test."""

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        groups: dict[str, list[Case]] = {}
        for case in read_table(shared / "data" / "brain-mri" / split / "labels.csv"):
            groups.setdefault(case.patient, []).append(case)
        positions = [relative_positions(np.array([c.slice for c in g])) for g in groups.values()]
        return np.concatenate(positions), np.array([c.label for g in groups.values() for c in g])

    prior = PositionPrior.fit(*read("train"))
    positions, tags = read("test")
    assert auc(prior.score(positions), tags == 1) == pytest.approx(0.87, abs=0.005)
