"""Counts, overlaps, Hausdorff, intervals: worlds whose numbers are known, and libraries as oracles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist
from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score, roc_auc_score

from tagmask.errors import ConfigError, GeometryError
from tagmask.metrics import (
    Counts,
    auc,
    auc_interval,
    bootstrap_ci,
    counts,
    dice,
    hd95,
    iou,
    overlap_status,
    precision,
    recall,
)


def square(size: int, top: int, left: int, edge: int) -> np.ndarray:
    out = np.zeros((size, size), bool)
    out[top : top + edge, left : left + edge] = True
    return out


def noise_pair(seed: int, share: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=(40, 33)), 2) for _ in range(2)]
    return tuple(s > np.quantile(s, 1 - share) for s in smooth)  # type: ignore[return-value]


def test_a_mask_whose_dice_is_a_fraction() -> None:
    pred, truth = square(20, 2, 2, 4), square(20, 2, 4, 4)  # 8 of 16 pixels shared
    c = counts(pred, truth)
    assert c == Counts(tp=8, fp=8, fn=8, tn=400 - 24)
    assert float(dice(*c[:3], e=0)) == 0.5
    assert float(iou(*c[:3], e=0)) == pytest.approx(1 / 3)
    assert float(precision(c.tp, c.fp)) == 0.5 and float(recall(c.tp, c.fn)) == 0.5


def test_precision_and_recall_are_not_swapped() -> None:
    c = counts(square(20, 0, 0, 10), square(20, 0, 0, 5))  # all found, a quarter true
    assert float(precision(c.tp, c.fp)) == 0.25 and float(recall(c.tp, c.fn)) == 1.0


@pytest.mark.parametrize("seed", range(5))
def test_overlaps_agree_with_scikit_learn(seed: int) -> None:

    pred, truth = noise_pair(seed)
    c, p, t = counts(pred, truth), pred.ravel(), truth.ravel()
    assert float(dice(*c[:3], e=0)) == pytest.approx(f1_score(t, p))
    assert float(iou(*c[:3], e=0)) == pytest.approx(jaccard_score(t, p))
    assert float(precision(c.tp, c.fp)) == pytest.approx(precision_score(t, p))
    assert float(recall(c.tp, c.fn)) == pytest.approx(recall_score(t, p))


def test_empty_and_full_masks() -> None:
    empty, full, some = np.zeros((9, 9), bool), np.ones((9, 9), bool), square(9, 3, 3, 2)
    cases = {
        "both_empty": (empty, empty),
        "mask_empty": (empty, some),
        "truth_empty": (some, empty),
        "ok": (full, some),
    }
    found = {name: counts(*pair) for name, pair in cases.items()}
    assert {name: overlap_status(c) for name, c in found.items()} == {name: name for name in cases}
    scores = {name: float(dice(*c[:3])) for name, c in found.items()}
    assert scores["both_empty"] == 1.0
    assert 0 < scores["mask_empty"] < 1e-5 and 0 < scores["truth_empty"] < 1e-5
    assert scores["ok"] == pytest.approx(8 / 85, abs=1e-5)
    assert math.isnan(precision(found["mask_empty"].tp, found["mask_empty"].fp))
    assert math.isnan(recall(found["truth_empty"].tp, found["truth_empty"].fn))
    assert math.isnan(dice(0, 0, 0, e=0))


def test_arrays_of_counts_are_scored_one_by_one_not_pooled() -> None:
    tp, fp, fn = np.array([8, 0, 0]), np.array([8, 0, 4]), np.array([8, 0, 0])
    assert dice(tp, fp, fn) == pytest.approx(
        [float(dice(a, b, c)) for a, b, c in zip(tp, fp, fn, strict=True)]
    )
    assert float(dice(tp, fp, fn).mean()) != pytest.approx(float(dice(tp.sum(), fp.sum(), fn.sum())))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_the_type_of_a_mask_does_not_matter(dtype: type) -> None:
    pred, truth = noise_pair(1)
    assert counts(pred.astype(dtype), truth.astype(dtype)) == counts(pred, truth)
    assert hd95(pred.astype(dtype), truth.astype(dtype)) == hd95(pred, truth)


def test_masks_of_two_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(4, 4\).*\(4, 5\)"):
        counts(np.zeros((4, 4), bool), np.zeros((4, 5), bool))


def test_hd95_of_a_shifted_line_is_the_shift() -> None:
    """All pixels of two parallel lines are as far apart as the lines."""
    pred, truth = np.zeros((30, 30), bool), np.zeros((30, 30), bool)
    pred[5, 3:27], truth[12, 3:27] = True, True
    assert hd95(pred, truth) == (7.0, "ok")
    assert hd95(pred, truth, (0.5, 9.0)) == (3.5, "ok")
    assert hd95(truth, truth) == (0.0, "ok")


def test_hd95_of_single_pixels_at_the_border() -> None:
    pred, truth = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    pred[0, 0], truth[9, 9] = True, True
    assert hd95(pred, truth)[0] == pytest.approx(math.hypot(9, 9))
    assert hd95(pred, truth, (2.0, 1.0))[0] == pytest.approx(math.hypot(18, 9))


def test_hd95_of_concentric_spheres_is_the_difference_of_the_radii() -> None:
    z, y, x = np.mgrid[:41, :41, :41] - 20
    radius = np.sqrt(z**2 + y**2 + x**2)
    assert hd95(radius <= 8, radius <= 15)[0] == pytest.approx(7, abs=0.6)
    assert hd95(radius <= 8, radius <= 15, (2.0, 2.0, 2.0))[0] == pytest.approx(14, abs=1.2)


def test_hd95_touching_the_border_counts_the_border_as_surface() -> None:
    truth, pred = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    pred[:, :10] = True
    distance = hd95(pred, truth)[0]
    assert 9 <= distance <= 10  # the far side of the full mask is a surface, ten columns away


@pytest.mark.parametrize("seed", range(4))
def test_hd95_pools_both_directions(seed: int) -> None:
    """All distances between all surface pixels, without a distance transform."""
    pred, truth = noise_pair(seed, 0.15)
    edge = np.array([2.0, 0.7])
    surfaces = [np.argwhere(m & ~ndimage.binary_erosion(m)) * edge for m in (pred, truth)]
    distances = cdist(*surfaces)
    pooled = np.concatenate([distances.min(axis=0), distances.min(axis=1)])
    assert hd95(pred, truth, edge)[0] == pytest.approx(np.percentile(pooled, 95))
    assert hd95(truth, pred, edge) == hd95(pred, truth, edge)


# MONAI 1.6 calls itself with an argument that it deprecated.
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_hd95_beside_monai(seed: int) -> None:
    """MONAI takes the larger of the two directions' percentiles; ours lies between them, or equals both."""
    monai, torch = pytest.importorskip("monai.metrics"), pytest.importorskip("torch")

    def theirs(pred: np.ndarray, truth: np.ndarray, directed: bool) -> float:
        pair = [torch.from_numpy(m)[None, None] for m in (pred, truth)]
        options = {"include_background": True, "percentile": 95, "spacing": (2.0, 0.7), "directed": directed}
        return float(monai.compute_hausdorff_distance(*pair, **options))

    pred, truth = noise_pair(seed, 0.15)
    ours = hd95(pred, truth, (2.0, 0.7))[0]
    directions = [theirs(pred, truth, True), theirs(truth, pred, True)]
    assert theirs(pred, truth, False) == pytest.approx(max(directions))
    assert min(directions) - 0.01 <= ours <= max(directions) + 0.01
    mirrored = square(32, 4, 4, 9), square(32, 4, 10, 9)
    assert hd95(*mirrored, (2.0, 0.7))[0] == pytest.approx(theirs(*mirrored, False))


def test_hd95_rules_for_empty_masks() -> None:
    empty, some = np.zeros((30, 40), bool), square(40, 3, 3, 4)[:30]
    for pair in ((empty, some), (some, empty)):
        assert math.isnan(hd95(*pair)[0]) and hd95(*pair)[1] == "excluded"
        assert hd95(*pair, (2.0, 2.0), "diagonal") == (100.0, "penalised")
        assert hd95(*pair, None, "zero") == (0.0, "zero")
    assert hd95(empty, empty, None, "diagonal")[1] == "excluded"
    assert hd95(empty, empty, None, "zero") == (0.0, "zero")
    with pytest.raises(ConfigError, match="worst"):
        hd95(some, some, None, "worst")  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(4))
def test_auc_is_that_of_scikit_learn_ties_included(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label = rng.random(200) < 0.3
    score = np.round(rng.normal(size=200) + label, seed % 2)
    assert auc(score, label) == pytest.approx(roc_auc_score(label, score))


def test_auc_of_worlds() -> None:
    label = np.array([0, 0, 1, 1], bool)
    assert auc(np.array([1, 2, 3, 4]), label) == 1.0
    assert auc(np.array([4, 3, 2, 1]), label) == 0.0
    assert auc(np.zeros(4), label) == 0.5
    assert math.isnan(auc(np.arange(4), np.ones(4, bool)))


def test_auc_interval_resamples_patients() -> None:
    """The bilinear form over patients equals scikit-learn on the slices of each resample."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(6), 20)
    label = rng.random(120) < 0.4
    score = label + rng.normal(size=120) + rng.normal(size=6)[patient]
    found = auc_interval(score, label, patient, resamples=300, seed=5)
    weights = np.random.default_rng(5).multinomial(6, np.full(6, 1 / 6), size=300)
    drawn = [roc_auc_score(label, score, sample_weight=w[patient]) for w in weights]
    assert found.value == pytest.approx(roc_auc_score(label, score))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def ratio(totals: np.ndarray) -> np.ndarray:
    return totals[:, 0] / totals[:, 1]


def test_bootstrap_is_over_patients_seeded_and_covers() -> None:
    rng = np.random.default_rng(1)
    sums = np.stack([rng.normal(10, 2, 50), np.ones(50)], axis=1)
    first, again, other = (bootstrap_ci(sums, ratio, seed=s) for s in (0, 0, 1))
    assert first == again != other
    assert first.value == pytest.approx(sums[:, 0].mean())
    error = sums[:, 0].std() / math.sqrt(50)
    assert first.low == pytest.approx(first.value - 1.96 * error, abs=0.3 * error)
    assert first.high == pytest.approx(first.value + 1.96 * error, abs=0.3 * error)


def test_one_patient_has_no_interval() -> None:
    found = bootstrap_ci(np.array([[3.0, 4.0]]), ratio)
    assert found.value == 0.75 and math.isnan(found.low) and math.isnan(found.high)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        sums = np.stack([rng.normal(0, 1, 40), np.ones(40)], axis=1)
        _, low, high = bootstrap_ci(sums, ratio, resamples=400, seed=trial)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize("seed", range(3))
def test_overlaps_beside_monai(seed: int) -> None:
    """The second library for Dice and IoU."""
    monai, torch = pytest.importorskip("monai.metrics"), pytest.importorskip("torch")
    pred, truth = noise_pair(seed)
    pair = [torch.from_numpy(m)[None, None].float() for m in (pred, truth)]
    c = counts(pred, truth)
    assert float(dice(*c[:3])) == pytest.approx(float(monai.compute_dice(*pair)), abs=1e-5)
    assert float(iou(*c[:3])) == pytest.approx(float(monai.compute_iou(*pair)), abs=1e-5)
