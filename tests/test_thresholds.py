"""The picture's say in a mask: worlds whose rim is known, and scikit-learn as oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.naive_bayes import GaussianNB

from tagmask.masks import MaskSettings, binarise
from tagmask.thresholds import body, on_one_scale, prior_of, slice_body, with_picture

SIZE = 48


def disc(radius: float, row: int = 24, column: int = 24) -> np.ndarray:
    y, x = np.mgrid[:SIZE, :SIZE]
    return np.asarray((y - row) ** 2 + (x - column) ** 2 <= radius**2)


def world(contrast: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A target, its picture (1, S, S) and a score map that is blurred and lies beside it, as a CAM's does."""
    target = disc(8)
    noise = np.random.default_rng(0).normal(0, 0.1, (SIZE, SIZE))
    picture = contrast * target + noise
    score = ndimage.gaussian_filter(disc(6, 26, 22).astype(float), 5)
    return target, picture[None].astype(np.float32), score.astype(np.float32)


def mask_of(score: np.ndarray, picture: np.ndarray, settings: MaskSettings) -> np.ndarray:
    made = binarise(torch.from_numpy(score)[None, None], torch.from_numpy(picture)[None], settings)
    return made.mask[0, 0].numpy()


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    return float(2 * (mask & truth).sum() / (mask.sum() + truth.sum()))


@pytest.mark.parametrize("contrast", [1.0, -1.0])
@pytest.mark.parametrize("value", [0.4, 0.6, 0.8])
def test_the_rim_is_the_pictures_whether_the_target_is_bright_or_dark(value: float, contrast: float) -> None:
    target, picture, score = world(contrast)
    alone = mask_of(score, picture, MaskSettings("peak", value))
    seen = mask_of(score, picture, MaskSettings("peak", value, intensity=1.0))
    assert dice(alone, target) < 0.85
    assert dice(seen, target) > 0.97


def test_the_same_brightness_far_away_stays_outside() -> None:
    target, picture, score = world(1.0)
    score[score < 0.05 * score.max()] = 0
    picture[0, 2:8, 2:8] = 1.0
    seen = mask_of(score, picture, MaskSettings("peak", 0.5, intensity=1.0))
    assert not seen[:10, :10].any() and dice(seen, target) > 0.97


@pytest.mark.parametrize("rule", ["otsu", "peak"])
def test_without_weight_or_contrast_the_threshold_decides(rule: str) -> None:
    _, picture, score = world(1.0)
    value = 0.5 if rule == "peak" else None
    threshold = mask_of(score, picture, MaskSettings(rule, value))  # type: ignore[arg-type]
    flat = np.full_like(picture, 0.3)
    seen = mask_of(score, flat, MaskSettings(rule, value, intensity=1.0))  # type: ignore[arg-type]
    assert threshold.any() and np.array_equal(seen, threshold)


def test_unit_and_offset_of_the_picture_do_not_matter() -> None:
    _, picture, score = world(1.0)
    settings = MaskSettings("otsu", intensity=1.0)
    assert np.array_equal(mask_of(score, picture, settings), mask_of(score, 7 * picture - 3, settings))


def test_a_map_of_nothing_stays_nothing() -> None:
    _, picture, score = world(1.0)
    for settings in (MaskSettings("otsu", intensity=1.0), MaskSettings("peak", 0.2, intensity=1.0)):
        assert not mask_of(np.zeros_like(score), picture, settings).any()
    assert not mask_of(-score - 1, picture, MaskSettings("peak", 0.2, intensity=1.0)).any()


def test_the_rim_is_looked_for_within_the_foreground_alone() -> None:
    target, picture, score = world(1.0)
    head = disc(20)
    picture = np.where(head, picture + 1, 0).astype(np.float32)  # the air would be the darker class
    seen = mask_of(score, picture, MaskSettings("peak", 0.5, intensity=1.0, foreground="head"))
    assert dice(seen, target) > 0.97 and not (seen & ~head).any()


def test_densities_and_bayes_are_those_of_scikit_learn() -> None:
    """Every pixel twice, once in each class, counting as much as the prior says."""
    rng = np.random.default_rng(1)
    prior, picture = rng.uniform(0.01, 0.99, 500), rng.normal(size=(3, 500))
    picture[:2] += prior * [[3.0], [-1.0]]
    # A class's own share is taken back out: here the prior is that of each pixel.
    model = GaussianNB(priors=[0.5, 0.5], var_smoothing=0.0)
    model.fit(
        np.vstack([picture.T, picture.T]),
        np.repeat([0, 1], 500),
        sample_weight=np.concatenate([1 - prior, prior]),
    )
    # The least spread that a density may have is on top of its variance.
    model.var_ += 0.01 * picture.var(axis=1)
    log_odds = np.diff(model.predict_joint_log_proba(picture.T), axis=1)[:, 0] + np.log(prior / (1 - prior))
    assert np.array_equal(with_picture(prior, picture), log_odds > 0)
    assert (with_picture(prior, picture) != (prior > 0.5)).sum() > 20


def test_certain_pixels_are_not_moved() -> None:
    prior = np.array([0.0, 0.0, 0.4, 0.6, 1.0, 1.0])
    against = np.array([[5.0, 5.0, 0.0, 5.0, 0.0, 5.0]])
    assert with_picture(prior, against, 100.0)[[0, 1, 4, 5]].tolist() == [False, False, True, True]


@pytest.mark.parametrize(("cut", "zero"), [(1.0, 0.0), (2.5, -1.0)])
def test_the_threshold_has_even_odds_and_order_is_kept(cut: float, zero: float) -> None:
    values = np.array([-2.0, -1.0, 0.5, cut, 3.0, 4.0])
    prior = prior_of(values, cut, zero)
    assert prior[3] == pytest.approx(0.5) and prior[-1] == 1 and prior[0] == 0
    assert (np.diff(np.sort(values)) >= 0).all() and (np.diff(prior[np.argsort(values)]) >= 0).all()
    assert np.array_equal(prior > 0.5, values > cut)


def test_a_threshold_beyond_the_map_leaves_no_doubt() -> None:
    values = np.array([0.0, 1.0, 2.0])
    assert prior_of(values, 5.0, 0.0).tolist() == [0, 0, 0]
    assert prior_of(values, -1.0, 0.0).tolist() == [1, 1, 1]


def test_a_hot_voxel_does_not_hide_the_body_and_modalities_count_alike() -> None:
    rng = np.random.default_rng(0)
    inside = np.zeros((16, 16, 16), dtype=bool)
    inside[4:12, 3:13, 2:14] = True
    flair, t1 = np.where(inside, rng.uniform(40, 100, (2, 16, 16, 16)), rng.uniform(0, 1, (2, 16, 16, 16)))
    plain = on_one_scale(np.stack([flair, 50 * t1 + 900]).astype(np.float32), "volume")
    assert np.array_equal(body(plain), inside) and plain.min() == 0
    assert plain.max(axis=(1, 2, 3)) == pytest.approx(1, abs=0.01)
    t1[0, 0, 0] = 1e7
    assert np.array_equal(body(on_one_scale(np.stack([flair, t1]), "volume"))[1:], inside[1:])
    picture = on_one_scale(np.stack([flair, 2 * flair]), "picture")
    assert picture[1].max() > 1.9 * picture[0].max(), "colours keep their balance"
    assert not on_one_scale(np.full((2, 4, 4, 4), 7.0), "volume").any()
    few = np.zeros((1, 1, 1, 5000))
    few[..., :3] = [1.0, 2.0, 4.0]
    assert on_one_scale(few, "volume").max() == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_body_of_each_slice_is_what_a_network_sees_above_its_rim(axis: int) -> None:
    """As Che et al. 2024 score: -0.95 in [-1, 1], after the scaling of each slice and modality."""
    rng = np.random.default_rng(1)
    image = rng.gamma(0.3, 100, (2, 7, 8, 9))  # modalities in units of their own, many dark pixels
    image[1] = 5 * image[1] + 1000
    image[0, 3, 3, 3] = 1e5  # a hot voxel: the case's range minds little, its own slice's much
    found = slice_body(on_one_scale(image, "volume"), axis)
    for k in range(image.shape[axis + 1]):
        one = image.take(k, axis=axis + 1).reshape(2, -1)
        low, high = one.min(axis=1, keepdims=True), one.max(axis=1, keepdims=True)
        seen = (2 * (one - low) / (high - low) - 1).mean(axis=0) > -0.95
        assert np.array_equal(found.take(k, axis=axis).ravel(), seen)
    assert not np.array_equal(found, body(on_one_scale(image, "volume")))
    assert not slice_body(np.full((1, 3, 3, 3), 0.7), axis).any()
