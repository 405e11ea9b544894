"""Slices: which way up, which grey values, and back again."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tagmask.errors import ConfigError, InputError
from tagmask.io import read_study
from tagmask.slices import SliceSettings, join, split, split_map
from tagmask.types import Study

SPACING = (1.0, 1.0, 1.0)
AFFINES = [
    (permutation, signs)
    for permutation in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def study_of(image: np.ndarray, affine: np.ndarray | None = None, kind: Any = "volume") -> Study:
    image = np.asarray(image, dtype=np.float32)
    image = image[None] if image.ndim == 3 else image
    return Study("a", image, np.eye(4) if affine is None and kind == "volume" else affine, kind, ())


def affine_of(
    permutation: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...] = SPACING
) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = 0
    for file_axis, (axis, sign, edge) in enumerate(zip(permutation, signs, spacing, strict=True)):
        affine[axis, file_axis] = sign * edge
    return affine


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def triangle(before: int, after: int) -> np.ndarray:
    """Give the antialiased bilinear resampling of one axis as a matrix, from its definition."""
    scale = before / after
    distance = np.abs((np.arange(before) + 0.5) - (np.arange(after)[:, None] + 0.5) * scale) / max(1, scale)
    weights = np.maximum(0, 1 - distance)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


# There and back.


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "i", "j", "k"])
@pytest.mark.parametrize(("permutation", "signs"), AFFINES)
def test_join_undoes_split_exactly(permutation: tuple[int, ...], signs: tuple[int, ...], plane: Any) -> None:
    study = study_of(noise((7, 7, 7)), affine_of(permutation, signs))
    slices = split(study, SliceSettings(plane=plane, size=7, normalise="window", window=(-9, 9)))
    np.testing.assert_allclose(join(slices.image[:, 0], slices.grid) * 9, study.image[0], atol=2e-6)
    scores = noise(study.shape, 1)
    np.testing.assert_array_equal(join(split_map(scores, slices.grid), slices.grid), scores)


@pytest.mark.parametrize("shape", [(5, 8, 3), (8, 5, 3), (1, 8, 3), (8, 8, 1), (3, 4, 9), (2, 2, 2)])
def test_join_undoes_split_with_padding(shape: tuple[int, int, int]) -> None:
    for affine in (affine_of(p, s) for p, s in AFFINES[::5]):
        for plane in ("axial", "coronal", "sagittal"):
            study = study_of(noise(shape), affine)
            grid = split(study, SliceSettings(plane=plane, size=1)).grid
            longer = max(shape[grid.rows], shape[grid.cols])
            grid = split(study, SliceSettings(plane=plane, size=longer)).grid
            np.testing.assert_array_equal(join(split_map(study.image[0], grid), grid), study.image[0])


@pytest.mark.parametrize("size", [16, 40, 64])
def test_a_smooth_map_survives_resampling(size: int) -> None:
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in (30, 44, 3)), indexing="ij")
    smooth = (i**2 - j + k).astype(np.float32)
    grid = split(study_of(smooth, np.diag([1, 0.7, 5, 1])), SliceSettings(size=size)).grid
    assert np.abs(join(split_map(smooth, grid), grid) - smooth).mean() < 0.02


def test_a_map_stays_in_place_when_resampled() -> None:
    """The centre of a blob is the same, in voxels, after going to a smaller grid and back."""
    volume = np.zeros((61, 47, 2), np.float32)
    volume[12:19, 30:41] = 1
    for affine in (np.diag([1, 1, 1, 1.0]), np.diag([-1, 1.3, 1, 1.0])):
        grid = split(study_of(volume, affine), SliceSettings(size=24)).grid
        back = join(split_map(volume, grid), grid)[..., 0]
        centre = [float((back * axis).sum() / back.sum()) for axis in np.indices(back.shape)]
        assert centre == pytest.approx([15, 35], abs=0.15)
        assert back.sum() == pytest.approx(77, rel=0.03)


def test_maps_may_be_tensors_with_a_channel() -> None:
    study = study_of(noise((4, 4, 3)))
    grid = split(study, SliceSettings(size=4)).grid
    maps = split_map(study.image[0], grid)
    np.testing.assert_array_equal(
        join(torch.from_numpy(maps)[:, None].requires_grad_(), grid), study.image[0]
    )
    for wrong in (maps[:2], maps[:, :3], maps[:, None].repeat(2, axis=1)):
        with pytest.raises(ValueError, match="Expected an array"):
            join(wrong, grid)
    with pytest.raises(ValueError, match="Expected an array"):
        split_map(study.image[0][:3], grid)


def test_some_slices_only() -> None:
    study = study_of(noise((6, 5, 9)))
    settings = SliceSettings(size=10)
    every, some = split(study, settings), split(study, settings, only=[7, 2])
    np.testing.assert_array_equal(some.image, every.image[[7, 2]])
    assert some.indices.tolist() == [7, 2] and every.indices.tolist() == list(range(9))
    maps = split_map(study.image[0], every.grid)
    np.testing.assert_array_equal(split_map(study.image[0], every.grid, only=[7, 2]), maps[[7, 2]])
    joined = join(maps[[7, 2]], every.grid, only=[7, 2], fill=-5)
    np.testing.assert_array_equal(joined[..., [7, 2]], join(maps, every.grid)[..., [7, 2]])
    assert (np.delete(joined, [7, 2], axis=2) == -5).all()
    with pytest.raises(InputError, match="Slice 9 is asked for, of 9 along k"):
        split(study, settings, only=[9])


def test_a_batch_names_its_slices() -> None:
    batch = split(study_of(noise((4, 4, 3))), SliceSettings(size=4), only=[2, 0]).batch("p/1", [1, 0])
    assert batch.ids == ("p/1/2", "p/1/0") and batch.image.dtype == torch.float32
    assert batch.label is not None and batch.label.tolist() == [1, 0] and batch.label.dtype == torch.int64


# Which way up.


@pytest.mark.parametrize(("permutation", "signs"), AFFINES)
def test_display_convention(permutation: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """In each plane, rows run to posterior or inferior, columns to left or posterior, always."""
    shape = [3, 3, 3]
    affine = affine_of(permutation, signs)
    world = np.stack(np.meshgrid(*(range(n) for n in shape), indexing="ij"), axis=-1) @ affine[:3, :3].T
    grids = {}
    plane: Any
    for plane, (down, right) in {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}.items():
        grid = grids[plane] = split(
            study_of(np.zeros(shape), affine), SliceSettings(plane=plane, size=3)
        ).grid
        for axis in range(3):
            cut = split_map(world[..., axis].astype(np.float32), grid)
            expected = [0, -1 if axis == down else 0, -1 if axis == right else 0]
            for n in (1, 2):
                assert (np.diff(cut, axis=n) == expected[n]).all()
    # The order of slices is the file's own.
    for axis, grid in enumerate((grids["sagittal"], grids["coronal"], grids["axial"])):
        assert grid.axis == permutation.index(axis)
        index = np.indices(shape)[grid.axis].astype(np.float32)
        assert split_map(index, grid)[:, 0, 0].tolist() == [0, 1, 2]


def test_the_nearest_axis_agrees_with_nibabel() -> None:
    generator = np.random.default_rng(0)
    plane: Any
    for _ in range(200):
        rotation, _ = np.linalg.qr(np.eye(3)[generator.permutation(3)] + generator.normal(size=(3, 3)) * 0.15)
        affine = np.eye(4)
        affine[:3, :3] = rotation * generator.choice([-1, 1], 3) * (0.5, 1, 4)
        axes: Any = nib.aff2axcodes(affine)  # type: ignore[no-untyped-call]
        for plane, letters in {"axial": "IS", "coronal": "PA", "sagittal": "LR"}.items():
            grid = split(study_of(np.zeros((2, 3, 4)), affine), SliceSettings(plane=plane, size=4)).grid
            assert axes[grid.axis] in letters
            assert grid.flip_rows == (axes[grid.rows] in "RAS") and grid.flip_cols == (
                axes[grid.cols] in "RAS"
            )


def test_a_known_head_is_shown_as_radiologists_do() -> None:
    volume = np.zeros((4, 5, 3))
    volume[3, 4, 1] = 1  # right, anterior in RAS
    image = split(study_of(volume), SliceSettings(size=5, normalise="window", window=(0, 1))).image
    assert np.argwhere(image == 1).tolist() == [[1, 0, 0, 0]]  # top left


def test_a_single_slice_is_cut_in_its_own_plane() -> None:
    thin = study_of(noise((1, 6, 8)))
    assert split(thin, SliceSettings(plane="axial", size=8)).image.shape == (1, 1, 8, 8)
    assert split(thin, SliceSettings(plane="k", size=8)).image.shape == (8, 1, 8, 8)


def test_a_picture_stays_as_it_is() -> None:
    picture = study_of(noise((3, 6, 4, 1)), kind="picture")
    for plane in ("axial", "sagittal", "i"):
        slices = split(picture, SliceSettings(plane=plane, size=6, normalise="window", window=(-8, 8)))
        assert slices.image.shape == (1, 3, 6, 6)
        np.testing.assert_allclose(slices.image[0, :, :, 1:5] * 8, picture.image[..., 0], atol=2e-6)
        assert (slices.image[..., [0, 5]] == -1).all()


@pytest.mark.parametrize(
    ("shape", "spacing", "size", "content"),
    [
        ((100, 100, 1), (1, 1, 1), 64, (64, 64)),
        ((100, 50, 1), (1, 1, 1), 64, (32, 64)),
        ((100, 50, 1), (1, 2, 1), 64, (64, 64)),
        ((50, 100, 1), (0.5, 1, 9), 64, (64, 16)),
        ((1000, 2, 1), (1, 1, 1), 64, (1, 64)),
    ],
)
def test_pixels_become_square(shape: Any, spacing: Any, size: int, content: tuple[int, int]) -> None:
    slices = split(study_of(noise(shape), np.diag([*spacing, 1])), SliceSettings(size=size))
    assert slices.grid.content == content
    inside = slices.image[0, 0][slices.grid.window]
    assert inside.shape == content
    assert (slices.image == -1).sum() - (inside == -1).sum() == size * size - content[0] * content[1]


@pytest.mark.parametrize(("before", "after"), [((30, 41), (12, 16)), ((9, 12), (24, 32)), ((7, 40), (6, 32))])
def test_resampling_is_antialiased_bilinear(before: tuple[int, int], after: tuple[int, int]) -> None:
    picture = study_of(noise((1, *before, 1)), kind="picture")
    grid = split(picture, SliceSettings(size=max(after))).grid
    assert grid.content == after
    expected = triangle(before[0], after[0]) @ picture.image[0, ..., 0] @ triangle(before[1], after[1]).T
    np.testing.assert_allclose(split_map(picture.image[0], grid)[0][grid.window], expected, atol=1e-5)


# Grey values.


def test_volume_percentiles_are_of_the_whole_channel() -> None:
    image = np.stack([noise((9, 9, 6)), noise((9, 9, 6), 1) * 1000 + 400])
    settings = SliceSettings(size=9, percentiles=(2, 90))
    slices = split(study_of(image), settings)
    for channel in range(2):
        low, high = np.percentile(image[channel], (2, 90))
        expected = np.clip((image[channel] - low) / (high - low) * 2 - 1, -1, 1)
        np.testing.assert_allclose(join(slices.image[:, channel], slices.grid), expected, atol=1e-5)
    # A single slice has the grey values it has in the whole.
    np.testing.assert_array_equal(split(study_of(image), settings, only=[3]).image[0], slices.image[3])


def test_slice_extremes() -> None:
    image = noise((9, 9, 4)) * np.array([1, 10, 100, 0])
    image = split(study_of(image), SliceSettings(size=9, normalise="slice")).image
    for n in range(3):
        assert (image[n].min(), image[n].max()) == (-1, 1)
    assert (image[3] == -1).all()


def test_a_fixed_window_and_chosen_channels() -> None:
    image = np.stack([np.full((3, 3, 2), value) for value in (-200, 40, 140)])
    settings = SliceSettings(size=3, normalise="window", window=(-160, 240), channels=(2, 0))
    assert split(study_of(image), settings).image[0, :, 0, 0].tolist() == [0.5, -1]
    with pytest.raises(InputError, match="Channel 2 is asked for, but there are 1"):
        split(study_of(noise((3, 3, 2))), settings)


@pytest.mark.parametrize("value", [0, 7, -3.5, 1e30])
@pytest.mark.parametrize("normalise", ["volume", "slice"])
def test_a_constant_image_is_minus_1(value: float, normalise: Any) -> None:
    image = split(study_of(np.full((5, 4, 3), value)), SliceSettings(size=8, normalise=normalise)).image
    assert (image == -1).all()


def test_an_image_that_is_almost_constant_keeps_what_it_has() -> None:
    image = np.zeros((30, 30, 3))
    image[4, 5, 1] = 9
    assert split(study_of(image), SliceSettings(size=30)).image.max() == 1


def test_extreme_numbers_stay_in_range() -> None:
    for image in (noise((6, 6, 3)) * 1e38, noise((6, 6, 3)) * 1e-42, noise((6, 6, 3)) + 1e7):
        out = split(study_of(image), SliceSettings(size=4, percentiles=(0, 100))).image
        assert np.isfinite(out).all() and out.min() >= -1 and 0 < out.max() <= 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalise", ["volume", "slice", "window"])
def test_voxels_that_are_not_finite_are_refused(value: float, normalise: Any) -> None:
    window = (0, 1) if normalise == "window" else None
    for image in (noise((4, 4, 3)), np.full((4, 4, 3), value)):
        image[1, 2, 0] = value
        with pytest.raises(InputError, match="NaN or infinite"):
            split(study_of(image), SliceSettings(normalise=normalise, window=window))


def test_the_study_is_not_changed_and_slices_do_not_share_its_memory() -> None:
    study = study_of(noise((5, 5, 3)))
    before = study.image.copy()
    slices = split(study, SliceSettings(size=5))
    slices.image[...] = 3
    np.testing.assert_array_equal(study.image, before)
    maps = split_map(study.image[0], slices.grid)
    maps[...] = 3
    join(maps, slices.grid)[...] = 4
    np.testing.assert_array_equal(study.image, before)
    assert (maps == 3).all()


def test_memory_is_the_slices_and_one_copy_for_the_percentiles() -> None:
    study = study_of(noise((128, 128, 60)))
    tracemalloc.start()
    split(study, SliceSettings(size=32))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.6 * study.image.nbytes


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plane", "oblique"),
        ("size", 0),
        ("normalise", "z"),
        ("percentiles", (99, 1)),
        ("percentiles", (0, 101)),
        ("window", (0, 1)),
        ("channels", ()),
        ("channels", (-1,)),
    ],
)
def test_settings_are_checked(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"slices\.{field}"):
        SliceSettings(**{field: value})


@pytest.mark.parametrize("window", [None, (2, 1), (0, np.inf)])
def test_a_window_must_be_a_window(window: Any) -> None:
    with pytest.raises(ConfigError, match=r"slices\.window"):
        SliceSettings(normalise="window", window=window)


def test_real_slices_come_back(shared: Path) -> None:
    path = shared / "data/hippocampus/test/images/hippocampus_052.nii.gz"
    study = read_study(path, id="a")
    longer = max(study.shape[1:])
    grid = split(study, SliceSettings(plane="sagittal", size=longer)).grid
    assert (grid.axis, grid.depth) == (0, study.shape[0])
    np.testing.assert_array_equal(join(split_map(study.image[0], grid), grid), study.image[0])
