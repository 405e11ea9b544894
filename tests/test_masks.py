"""Thresholds, filters and foreground on maps whose masks are known beforehand."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.filters import threshold_otsu

from tagmask.errors import ConfigError, InputError
from tagmask.masks import MaskSettings, binarise, separation
from tagmask.thresholds import head_foreground, otsu


def maps(*arrays: np.ndarray) -> torch.Tensor:
    """(B, 1, S, S) float32 of some (S, S)."""
    return torch.from_numpy(np.stack(arrays)[:, None].astype(np.float32))


def blob(
    size: int = 32, rows: slice = slice(8, 16), cols: slice = slice(10, 20), noise: float = 0.1
) -> np.ndarray:
    """Noise with a bright rectangle."""
    score = np.random.default_rng(3).normal(0, noise, (size, size))
    score[rows, cols] += 2
    return score.astype(np.float32)


@pytest.mark.parametrize("seed", range(8))
def test_otsu_is_that_of_scikit_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 700), rng.normal(4 + seed, 0.5, 60 * (seed + 1))])
    assert otsu(values) == pytest.approx(threshold_otsu(values, nbins=256), rel=1e-12)


def test_otsu_finds_the_blob_and_only_the_blob() -> None:
    truth = np.zeros((32, 32), bool)
    truth[8:16, 10:20] = True
    made = binarise(maps(blob()), torch.zeros(1, 1, 32, 32), MaskSettings())
    found = made.mask[0, 0].numpy()
    assert (
        found[truth].all() and (found & ~truth).sum() <= 1
    )  # the cut is the centre of the topmost noise bin
    assert made.mask.dtype == torch.bool and made.threshold.dtype == torch.float32
    assert 0.3 < float(made.threshold[0]) < 1.7


@pytest.mark.parametrize(("a", "b"), [(2.0**-20, 0.0), (2.0**12, 0.0), (3.7, -41.0)])
def test_otsu_and_quantile_do_not_move_with_unit_or_offset(a: float, b: float) -> None:
    score, picture = maps(blob()), torch.zeros(1, 1, 32, 32)
    for settings in (MaskSettings(), MaskSettings("quantile", 0.9), MaskSettings(median=3)):
        plain, moved = binarise(score, picture, settings), binarise(score * a + b, picture, settings)
        assert torch.equal(plain.mask, moved.mask)
        assert float(moved.threshold[0]) == pytest.approx(float(plain.threshold[0]) * a + b, rel=1e-4)


def test_a_map_without_contrast_gives_an_empty_mask() -> None:
    for value in (0.0, -3.0, 1e30):
        for rule in (MaskSettings(), MaskSettings("quantile", 0.5)):
            made = binarise(torch.full((2, 1, 8, 8), value), torch.zeros(2, 1, 8, 8), rule)
            assert not made.mask.any() and torch.isfinite(made.threshold).all()


def test_each_slice_alone_as_in_company_and_inputs_untouched() -> None:
    score, picture = maps(blob(), blob(noise=0.5) * 100, np.zeros((32, 32))), torch.rand(3, 2, 32, 32)
    before, settings = score.clone(), MaskSettings(median=5, min_area=4, foreground="head", erode=1)
    together = binarise(score, picture, settings)
    for i in range(3):
        alone = binarise(score[i : i + 1], picture[i : i + 1], settings)
        assert torch.equal(alone.mask[0], together.mask[i])
        assert torch.equal(alone.score_map[0], together.score_map[i])
    assert torch.equal(score, before)


def test_fixed_quantile_and_given_thresholds() -> None:
    score = maps(np.arange(64).reshape(8, 8))
    picture = torch.zeros(1, 1, 8, 8)
    assert binarise(score, picture, MaskSettings("fixed", 59.0)).mask.sum() == 4
    assert binarise(score, picture, MaskSettings("quantile", 0.75)).mask.sum() == 16
    assert binarise(score, picture, MaskSettings(), threshold=61.5).mask.sum() == 2
    assert binarise(score, picture, MaskSettings("otsu_mean"), threshold=60.0).mask.sum() == 3
    with pytest.raises(ConfigError, match="otsu_mean"):
        binarise(score, picture, MaskSettings("otsu_mean"))
    two = torch.cat([score, score])
    made = binarise(two, two, MaskSettings("method"), threshold=torch.tensor([59.0, 61.5]))
    assert made.mask.sum(dim=(1, 2, 3)).tolist() == [4, 2] and made.threshold.tolist() == [59, 61.5]
    with pytest.raises(ConfigError, match="this method gives none"):
        binarise(score, picture, MaskSettings("method"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused(value: float) -> None:
    """Otsu and a share of the peak would quietly give an empty mask."""
    score = maps(np.arange(64).reshape(8, 8)).clone()
    score[0, 0, 3, 3] = value
    with pytest.raises(InputError, match="not finite"):
        binarise(score, torch.zeros(1, 1, 8, 8), MaskSettings())


def test_thresholds_are_monotone() -> None:
    score, picture = maps(blob(noise=1.0)), torch.zeros(1, 1, 32, 32)
    masks = [binarise(score, picture, MaskSettings("quantile", q)).mask for q in (0.1, 0.5, 0.9, 0.99)]
    assert all((larger | ~smaller).all() for larger, smaller in pairwise(masks))


def test_median_mirrors_the_border_as_torch_reflect_does() -> None:
    score = maps(np.random.default_rng(0).normal(size=(16, 16)))
    padded = torch.nn.functional.pad(score, (2, 2, 2, 2), mode="reflect")
    expected = padded.unfold(2, 5, 1).unfold(3, 5, 1).reshape(1, 1, 16, 16, 25).median(dim=-1).values
    assert torch.equal(binarise(score, score, MaskSettings(median=5)).score_map, expected)


def test_small_components_go_and_area_counts_holes() -> None:
    score = np.zeros((16, 16))
    score[1, 1] = score[2, 2] = score[3, 3] = 1  # 3 px, joined by corners only
    score[6:11, 6:11] = 1
    score[7:10, 7:10] = 0  # a ring: 16 px, 25 with its hole
    kept = {
        n: int(binarise(maps(score), maps(score), MaskSettings("fixed", 0.5, min_area=n)).mask.sum())
        for n in (0, 3, 4, 25, 26)
    }
    assert kept == {0: 19, 3: 19, 4: 16, 25: 16, 26: 0}


def test_peak_is_a_share_of_the_largest_score() -> None:
    score = np.zeros((8, 8), np.float32)
    score[2, 2:6] = (1.0, 3.9, 4.1, 10.0)
    rule = MaskSettings("peak", 0.4)
    found = binarise(maps(score), maps(score), rule)
    assert found.mask[0, 0].sum() == 2 and found.threshold.item() == pytest.approx(4.0)
    # the unit of the map does not matter; a map that never rises above 0 holds no target
    assert torch.equal(binarise(maps(score * 7), maps(score), rule).mask, found.mask)
    assert not binarise(maps(score - 11), maps(score), rule).mask.any()
    with pytest.raises(ConfigError, match=r"mask\.value"):
        MaskSettings("peak", 1.2)


def test_keep_largest() -> None:
    score = np.zeros((16, 16))
    score[0:2, 0:2], score[8:12, 8:12] = 5, 1
    mask = binarise(maps(score), maps(score), MaskSettings("fixed", 0.5, keep_largest=True)).mask[0, 0]
    assert mask.sum() == 16 and mask[8:12, 8:12].all()


def head_picture() -> tuple[np.ndarray, np.ndarray]:
    """A grey disc with a bright rim and a dark hole, far-off bright dirt, noise; and the disc."""
    y, x = np.mgrid[:64, :64]
    radius = np.hypot(y - 32, x - 30)
    picture = np.random.default_rng(0).uniform(-1, -0.95, (64, 64))
    disc = radius < 24
    picture[disc] = -0.3
    picture[disc & (radius > 21)] = 0.9
    picture[30:34, 28:32] = -1
    picture[1:4, 1:4] = 1
    return picture, disc


def test_head_is_the_disc_with_its_hole_and_without_the_dirt() -> None:
    picture, disc = head_picture()
    assert np.array_equal(head_foreground(picture[None]), disc)
    assert np.array_equal(head_foreground(np.stack([picture, picture]) * 700 + 9), disc)
    shaved = head_foreground(picture[None], erode=3)
    assert np.array_equal(shaved, ndimage.binary_erosion(disc, iterations=3))
    assert not head_foreground(np.full((1, 9, 9), 4.0)).any()


def test_foreground_takes_scalp_and_air_out_of_map_threshold_and_mask() -> None:
    picture, disc = head_picture()
    score = np.where(disc, 0.0, 50.0)  # air scores highest
    score[20:26, 20:26] = 1.0
    made = binarise(maps(score), maps(picture), MaskSettings(foreground="head", erode=3))
    expected = np.zeros((64, 64), bool)
    expected[20:26, 20:26] = True
    assert np.array_equal(made.mask[0, 0].numpy(), expected)
    assert float(made.score_map.max()) == 1.0
    outside = ~head_foreground(picture[None], erode=3)
    assert (made.score_map[0, 0].numpy()[outside] == 0).all()
    low = binarise(maps(score), maps(picture), MaskSettings("fixed", -9.0, foreground="head", erode=3)).mask[
        0, 0
    ]
    assert not low.numpy()[outside].any()


def test_no_foreground_left_gives_an_empty_mask() -> None:
    picture, _ = head_picture()
    made = binarise(maps(blob(64)), maps(picture), MaskSettings(foreground="head", erode=60))
    assert not made.mask.any() and torch.isfinite(made.score_map).all()


def test_an_empty_batch_passes() -> None:
    made = binarise(torch.zeros(0, 1, 8, 8), torch.zeros(0, 1, 8, 8), MaskSettings())
    assert made.mask.shape == (0, 1, 8, 8) and made.threshold.shape == (0,)


@pytest.mark.parametrize(
    "bad",
    [
        {"rule": "triangle"},
        {"rule": "quantile"},
        {"rule": "quantile", "value": 1.5},
        {"rule": "fixed", "value": float("nan")},
        {"rule": "otsu", "value": 0.5},
        {"median": 4},
        {"median": 0},
        {"min_area": -1},
        {"foreground": "brain"},
        {"erode": 2},
        {"intensity": -1.0},
        {"intensity": float("inf")},
        {"intensity": float("nan")},
    ],
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MaskSettings(**bad)  # type: ignore[arg-type]


def test_a_real_head_is_covered(shared: Path) -> None:
    """No tumour pixel of the first val patients lies outside the head."""
    from PIL import Image

    root = shared / "data" / "brain-mri"
    seen = 0
    for path in sorted((root / "masks" / "val").glob("*.png"))[:60]:
        truth = np.asarray(Image.open(path)) > 0
        picture = np.asarray(Image.open(root / "val" / "images" / path.name), dtype=np.float32)
        head = head_foreground(picture[None])
        assert 0.05 < head.mean() < 0.7
        assert head[truth].all()
        seen += int(truth.any())
    assert seen >= 10


def test_separation_is_high_for_one_clear_target_and_nothing_for_no_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1, 32, 32, generator=generator)
    clear = noise.clone()
    clear[:, :, 8:14, 8:14] += 20
    image = torch.zeros(2, 1, 32, 32)
    settings = MaskSettings()
    target, chance = (separation(binarise(maps, image, settings)) for maps in (clear, noise))
    assert (target > 1.5 * chance).all() and (chance > 0).all()
    assert torch.equal(separation(binarise(torch.zeros(2, 1, 8, 8), image, settings)), torch.zeros(2))
    assert torch.allclose(separation(binarise(3 * clear + 7, image, settings)), target, rtol=1e-3)
