"""NIfTI: what is read, what is refused, and with which words."""

from __future__ import annotations

import gzip
import itertools
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tagmask.errors import GeometryError, InputError, ResourceError, TagmaskError
from tagmask.io import guards, read_header, read_mask, read_scores, read_study, write_mask, write_scores
from tagmask.types import Study
from tests.io.files import AFFINE, nifti_bytes, save_nifti, volume

PACKED = gzip.compress(nifti_bytes(volume((20, 20, 20))), mtime=0)


def refused(path: Path, what: str, kind: type[TagmaskError] = InputError) -> TagmaskError:
    """Read a file that must be refused with these words, the file's name and a repair."""
    with pytest.raises(kind, match=what) as caught:
        read_study(path, id="a")
    assert str(path) in str(caught.value)
    assert caught.value.repair.endswith(".")
    return caught.value


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def save_nifti_2(path: Path) -> None:
    image: Any = nib  # which is not typed
    image.save(image.Nifti2Image(volume(), AFFINE), path)


# What is read.


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "u8", "f4", ">f4", "f8"])
def test_grey_types_are_read_exactly(tmp_path: Path, dtype: str, name: str) -> None:
    array = volume(dtype=dtype)
    library: Any = nib  # which is not typed
    header = library.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    library.save(library.Nifti1Image(array, AFFINE, dtype=np.dtype(dtype), header=header), tmp_path / name)
    study = read_study(tmp_path / name, id="a")
    assert study.image.dtype == np.float32 and study.image.shape == (1, 5, 6, 4)
    np.testing.assert_array_equal(study.image[0], array)
    np.testing.assert_array_equal(study.affine, AFFINE)
    assert (study.id, study.kind, study.sources, study.spacing) == (
        "a",
        "volume",
        (tmp_path / name,),
        (2, 1.5, 3),
    )


def test_nifti_2_is_read(tmp_path: Path) -> None:
    save_nifti_2(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_study(tmp_path / "a.nii.gz", id="a").image[0], volume())


def test_a_bool_mask_saved_as_bytes_is_read(tmp_path: Path) -> None:
    array = volume() % 2 == 0
    path = save_nifti(tmp_path / "a.nii.gz", array.astype(np.uint8))
    np.testing.assert_array_equal(read_mask(path).array, array)


@pytest.mark.parametrize(
    ("slope", "inter", "expected"), [(2, 5, lambda x: 2 * x + 5), (-0.5, 0, lambda x: -0.5 * x)]
)
def test_scaling_is_applied(tmp_path: Path, slope: float, inter: float, expected: Any) -> None:
    path = save_nifti(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter)
    np.testing.assert_array_equal(read_study(path, id="a").image[0], expected(volume().astype(np.float32)))


@pytest.mark.parametrize("slope", [0, np.nan])
def test_a_slope_of_0_or_nan_means_none(tmp_path: Path, slope: float) -> None:
    path = save_nifti(tmp_path / "a.nii", scl_slope=slope, scl_inter=7)
    np.testing.assert_array_equal(read_study(path, id="a").image[0], volume())


@pytest.mark.parametrize(("slope", "inter"), [(np.inf, 0), (2, np.nan)])
def test_a_scaling_that_is_not_finite_is_refused(tmp_path: Path, slope: float, inter: float) -> None:
    refused(save_nifti(tmp_path / "a.nii", scl_slope=slope, scl_inter=inter), "scaling of grey values")


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.nii.gz", nifti_bytes())
    packed = write(tmp_path / "packed.nii", gzip.compress(nifti_bytes()))
    for path in (plain, packed):
        np.testing.assert_array_equal(read_study(path, id="a").image[0], volume())


def test_the_header_alone(tmp_path: Path) -> None:
    data = gzip.compress(nifti_bytes(volume((64, 64, 64))))
    header = read_header(write(tmp_path / "cut.nii.gz", data[: len(data) // 2]))
    assert (header.shape, header.channels, header.kind) == ((64, 64, 64), 1, "volume")
    np.testing.assert_array_equal(header.affine, AFFINE)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 6), (5, 6, 1)), ((5, 6, 1), (5, 6, 1)), ((5, 6, 4, 1), (5, 6, 4)), ((5, 6, 4, 1, 1), (5, 6, 4))],
)
def test_axes_of_length_one_are_no_more_volumes(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    study = read_study(save_nifti(tmp_path / "a.nii.gz", volume(shape)), id="a")
    assert study.shape == expected
    np.testing.assert_array_equal(study.image[0], volume(shape).reshape(expected))


def test_channels_from_several_files(tmp_path: Path) -> None:
    paths = [save_nifti(tmp_path / f"{n}.nii.gz", volume() + n) for n in range(3)]
    study = read_study(paths, id="a")
    assert study.sources == tuple(paths)
    np.testing.assert_array_equal(study.image, np.stack([volume() + n for n in range(3)]))


def test_channels_on_other_grids_are_refused(tmp_path: Path) -> None:
    first = save_nifti(tmp_path / "first.nii.gz")
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 5e-4
    far[0, 3] += 5e-3
    assert len(read_study([first, save_nifti(tmp_path / "near.nii", affine=near)], id="a").image) == 2
    with pytest.raises(GeometryError, match=r"far.*0.005 mm off the grid of first.nii.gz"):
        read_study([first, save_nifti(tmp_path / "far.nii", affine=far)], id="a")
    with pytest.raises(GeometryError, match="5 x 6 x 3"):
        read_study([first, save_nifti(tmp_path / "short.nii", volume((5, 6, 3)))], id="a")
    with pytest.raises(InputError, match="No file"):
        read_study([], id="a")


# F1, F2: damage and bombs.


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.png"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    refused(write(tmp_path / name, b""), "0 bytes")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_cut_gzip(tmp_path: Path, part: float) -> None:
    refused(write(tmp_path / "a.nii.gz", PACKED[: int(len(PACKED) * part)]), "ends early")


def test_gzip_cut_within_its_checksum(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.nii.gz", PACKED[:-3]), "ends early")


def test_a_wrong_checksum(tmp_path: Path) -> None:
    data = bytearray(PACKED)
    data[-8] ^= 1
    refused(write(tmp_path / "a.nii.gz", bytes(data)), "damaged")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_data_shorter_than_the_header_says(tmp_path: Path, name: str) -> None:
    data = nifti_bytes()[:-10]
    refused(
        write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data),
        "declares 240 bytes.* 230",
    )


def test_a_tail_after_the_data(tmp_path: Path) -> None:
    refused(write(tmp_path / "a.nii", nifti_bytes() + b"x"), "More data follows")
    refused(write(tmp_path / "b.nii.gz", gzip.compress(nifti_bytes() + b"x")), "More data follows")
    refused(write(tmp_path / "c.nii.gz", gzip.compress(nifti_bytes()) + b"garbage"), "damaged")


def test_wrong_magic_and_pairs(tmp_path: Path) -> None:
    refused(save_nifti(tmp_path / "a.nii", magic=b"abc"), "magic number")
    refused(save_nifti(tmp_path / "b.nii", magic=b"ni1"), "one half of a .hdr/.img pair")
    refused(write(tmp_path / "c.nii", b"no header" * 99), "none of NIfTI")
    refused(write(tmp_path / "d.nii.gz", gzip.compress(b"no header" * 99)), "not NIfTI")
    refused(write(tmp_path / "e.nii", nifti_bytes()[:100]), "ends inside its header")
    refused(write(tmp_path / "f.nii", b"PK\3\4" + bytes(200)), "zip archive")
    refused(write(tmp_path / "g.nii", b"\x80\x04\x95" + bytes(200)), "none of NIfTI")


@pytest.mark.parametrize("offset", [100, np.nan, 1e9, 352.5, -352])
def test_a_wrong_offset(tmp_path: Path, offset: float) -> None:
    refused(save_nifti(tmp_path / "a.nii", vox_offset=offset), "begin at byte")


def test_a_gzip_bomb_is_not_inflated(tmp_path: Path) -> None:
    bomb = write(tmp_path / "a.nii.gz", gzip.compress(nifti_bytes() + bytes(200_000_000), compresslevel=1))
    tracemalloc.start()
    refused(bomb, "More data follows")
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_header_that_claims_more_than_gzip_could_hold(tmp_path: Path) -> None:
    header = bytearray(nifti_bytes()[:352])
    struct.pack_into("<8h", header, 40, 3, 512, 512, 512, 1, 1, 1, 1)
    refused(write(tmp_path / "a.nii.gz", gzip.compress(bytes(header))), "at most")


def test_a_grid_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(
        save_nifti(tmp_path / "a.nii.gz", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]),
        "536,870,912",
        ResourceError,
    )
    assert error.exit_code == 3
    paths = [save_nifti(tmp_path / f"{n}.nii.gz") for n in range(2)]
    monkeypatch.setattr(guards, "MAX_VOXELS", 200)
    assert read_study(paths[0], id="a").shape == (5, 6, 4)
    with pytest.raises(ResourceError, match="2 x 5 x 6 x 4"):
        read_study(paths, id="a")


# F3: geometry.


def turned(permutation: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    affine = np.zeros((4, 4))
    for file_axis, (axis, sign) in enumerate(zip(permutation, signs, strict=True)):
        affine[axis, file_axis] = sign * (0.7, 1.3, 2.5)[file_axis]
    affine[:, 3] = 11, -7, 3.25, 1
    return affine


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
def test_flips_and_permutations_come_back_exactly(tmp_path: Path, permutation: tuple[int, ...]) -> None:
    scores = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    for signs in itertools.product((1, -1), repeat=3):
        path = save_nifti(tmp_path / "a.nii.gz", affine=turned(permutation, signs))
        study = read_study(path, id="a")
        mask_file, score_file = (
            write_mask(tmp_path / "m", scores > 0, study),
            write_scores(tmp_path / "s", scores, study),
        )
        mask = read_mask(mask_file)
        np.testing.assert_array_equal(mask.array, scores > 0)
        np.testing.assert_array_equal(read_scores(score_file), scores)
        source: Any = nib.load(path)
        for file in (mask_file, score_file):
            image: Any = nib.load(file)
            np.testing.assert_array_equal(image.affine, source.affine)
            np.testing.assert_array_equal(image.header.get_qform(), source.header.get_qform())
            assert image.header.get_zooms() == source.header.get_zooms()


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (0, 1), (2, 0), (0, 0), (4, 1)])
def test_codes_of_the_affines_are_kept(tmp_path: Path, sform: int, qform: int) -> None:
    path = save_nifti(tmp_path / "a.nii.gz", sform_code=sform, qform_code=qform, xyzt_units=2)
    study = read_study(path, id="a")
    source: Any = nib.load(path)
    np.testing.assert_array_equal(study.affine, source.affine)
    image: Any = nib.load(write_mask(tmp_path / "m", np.ones(study.shape, bool), study))
    np.testing.assert_array_equal(image.affine, source.affine)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (sform, qform)
    assert image.header.get_xyzt_units()[0] == "mm" and image.get_data_dtype() == np.uint8


def test_two_axes_and_nifti_2_are_written_as_they_came(tmp_path: Path) -> None:
    flat = read_study(save_nifti(tmp_path / "a.nii.gz", volume((5, 6))), id="a")
    image: Any = nib.load(write_scores(tmp_path / "s", np.ones((5, 6, 1), np.float32), flat))
    assert image.shape == (5, 6)
    save_nifti_2(tmp_path / "b.nii.gz")
    second = write_scores(
        tmp_path / "t", np.ones((5, 6, 4), np.float32), read_study(tmp_path / "b.nii.gz", id="b")
    )
    assert isinstance(nib.load(second), nib.Nifti2Image)


def test_the_same_mask_gives_the_same_bytes(tmp_path: Path) -> None:
    study = read_study(save_nifti(tmp_path / "a.nii.gz"), id="a")
    files = [write_mask(tmp_path / name, volume() > 60, study).read_bytes() for name in ("m", "n.1")]
    assert files[0] == files[1]
    assert files[0][3] == 0 and files[0][4:8] == bytes(4)  # neither a name nor a time in the archive
    assert (tmp_path / "n.1.nii.gz").exists()


def test_an_oblique_grid_is_fine(tmp_path: Path) -> None:
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = AFFINE.copy()
    affine[:3, :3] = turn @ AFFINE[:3, :3]
    assert read_study(save_nifti(tmp_path / "a.nii.gz", affine=affine), id="a").spacing == pytest.approx(
        (2, 1.5, 3)
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_grid_turned_halfway_between_two_axes_comes_back(tmp_path: Path, sign: int) -> None:
    half = np.sqrt(0.5)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[half, -half, 0], [half, half, 0], [0, 0, 1]]) @ np.diag([sign * 0.7, 0.7, 3])
    study = Study("a", np.zeros((1, 5, 6, 4), np.float32), affine, "volume", ())
    path = write_mask(tmp_path / "m", volume() > 60, study)
    image: Any = nib.load(path)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)
    found = read_mask(path)
    np.testing.assert_array_equal(found.array, volume() > 60)
    np.testing.assert_allclose(found.affine, affine, atol=1e-6)  # type: ignore[arg-type]


def test_shear_that_a_qform_cannot_hold_is_kept_by_the_sform_alone(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 0.015 * affine[2, 2]  # within guards.MAX_SHEAR
    study = Study("a", np.zeros((1, 16, 16, 40), np.float32), affine, "volume", ())
    scores = np.random.default_rng(0).normal(size=study.shape).astype(np.float32)
    mask_file = write_mask(tmp_path / "m", scores > 0, study)
    score_file = write_scores(tmp_path / "s", scores, study)
    for file in (mask_file, score_file):
        image: Any = nib.load(file)
        assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
        np.testing.assert_allclose(image.affine, affine, atol=1e-6)
    np.testing.assert_array_equal(read_mask(mask_file).array, scores > 0)
    np.testing.assert_allclose(read_mask(mask_file).affine, affine, atol=1e-6)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_scores(score_file), scores)


def test_shear_of_rounding_leaves_the_qform(tmp_path: Path) -> None:
    affine = AFFINE.copy()
    affine[1, 2] = 0.005  # positions of two decimals; without a qform, ITK would not open the file
    study = Study("a", np.zeros((1, 5, 6, 4), np.float32), affine, "volume", ())
    image: Any = nib.load(write_mask(tmp_path / "m", volume() > 60, study))
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 1)


def raw_sform(path: Path, affine: np.ndarray) -> Path:
    """Write an affine that nibabel would not write."""
    return save_nifti(
        path, **{f"srow_{axis}": affine[n] for n, axis in enumerate("xyz")}, sform_code=2, qform_code=0
    )


def test_affines_that_say_nothing_are_refused(tmp_path: Path) -> None:
    sheared, singular, missing = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
    sheared[1, 2] = 0.9
    singular[:3, 1] = singular[:3, 0]
    missing[0, 0] = np.nan
    for affine, what in (
        (sheared, r"right angles \(off by 16.7 degrees"),
        (singular, "singular"),
        (missing, "NaN"),
    ):
        refused(raw_sform(tmp_path / "a.nii", affine), what, GeometryError)
    slightly = AFFINE.copy()
    slightly[1, 2] = 0.01
    assert read_study(raw_sform(tmp_path / "b.nii", slightly), id="b").shape == (5, 6, 4)


@pytest.mark.parametrize("edge", [1e-6, 1e6, 0])
def test_absurd_spacing_in_the_sform(tmp_path: Path, edge: float) -> None:
    refused(raw_sform(tmp_path / "a.nii", np.diag([1, edge, 1, 1])), "Voxel edges", GeometryError)


@pytest.mark.parametrize("edge", [0, -1, np.nan])
@pytest.mark.parametrize("qform", [0, 1])
def test_absurd_spacing_without_an_sform(tmp_path: Path, edge: float, qform: int) -> None:
    pixdim = [1, 2, edge, 3, 0, 0, 0, 0]
    refused(
        save_nifti(tmp_path / "a.nii", pixdim=pixdim, sform_code=0, qform_code=qform),
        "voxel edges",
        GeometryError,
    )


def test_spacing_that_nothing_reads_does_no_harm(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii", pixdim=[1, 0, 0, 0, 0, 0, 0, 0], sform_code=1, qform_code=0)
    assert read_study(path, id="a").spacing == (2, 1.5, 3)


def test_a_qform_that_is_no_rotation(tmp_path: Path) -> None:
    refused(
        save_nifti(tmp_path / "a.nii", quatern_b=0.9, quatern_c=0.9, sform_code=0),
        "not a rotation",
        GeometryError,
    )
    refused(
        save_nifti(tmp_path / "c.nii", pixdim=[1, 0, 1, 1, 0, 0, 0, 0]),
        "Voxel edges of 0|positive",
        GeometryError,
    )
    refused(save_nifti(tmp_path / "b.nii", quatern_b=np.nan, sform_code=0), "NaN|rotation", GeometryError)


def test_two_affines_that_disagree(tmp_path: Path) -> None:
    # Rounding, and an atlas's space beside the scanner's, are no contradiction.
    for fields in ({"qoffset_x": 10.2}, {"qoffset_x": 99, "sform_code": 4}):
        affine = read_study(save_nifti(tmp_path / "a.nii", **fields), id="a").affine
        assert affine is not None and affine[0, 3] == 10
    refused(save_nifti(tmp_path / "b.nii", qoffset_x=11), "disagree by 1 mm", GeometryError)
    refused(
        save_nifti(tmp_path / "c.nii", sform_code=4, quatern_b=1, quatern_c=0, quatern_d=0),
        "qform",
        GeometryError,
    )


def test_other_units_than_mm(tmp_path: Path) -> None:
    refused(save_nifti(tmp_path / "a.nii", xyzt_units=3), "microns", GeometryError)


@pytest.mark.parametrize(
    ("shape", "what"), [((5, 6, 4, 2), "2 volumes"), ((5, 6, 4, 1, 3), "5 axes"), ((5,), "one axis")]
)
def test_other_numbers_of_axes(tmp_path: Path, shape: tuple[int, ...], what: str) -> None:
    refused(save_nifti(tmp_path / "a.nii", volume(shape)), what, GeometryError)


def test_edges_of_no_length(tmp_path: Path) -> None:
    refused(save_nifti(tmp_path / "a.nii", dim=[3, 5, 0, 4, 1, 1, 1, 1]), "is empty", GeometryError)
    refused(save_nifti(tmp_path / "b.nii", dim=[3, 5, -6, 4, 1, 1, 1, 1]), "is empty", GeometryError)
    refused(save_nifti(tmp_path / "c.nii", dim=[9, 5, 6, 4, 1, 1, 1, 1]), "9 axes")


# F4: voxels.


@pytest.mark.parametrize(
    ("code", "name"),
    [(32, "complex64"), (128, "RGB"), (2304, "RGBA"), (1536, "float128"), (1, "binary"), (77, "number 77")],
)
def test_types_that_are_no_grey_value(tmp_path: Path, code: int, name: str) -> None:
    refused(save_nifti(tmp_path / "a.nii", datatype=code), name)


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([np.nan], "1 of 120"),
        ([np.inf, -np.inf], "2 of 120"),
        ([np.nan] * 120, "120 of 120"),
        ([1e300], "1 of 120"),
    ],
)
def test_voxels_that_are_not_finite(tmp_path: Path, values: list[float], count: str) -> None:
    array = volume(dtype=np.float64)
    array.flat[: len(values)] = values
    assert "nan_to_num" in refused(save_nifti(tmp_path / "a.nii.gz", array), count).repair


@pytest.mark.parametrize("high", [255, 0.5, 3, 1])
def test_a_mask_of_two_values_is_foreground_where_it_is_above_0(tmp_path: Path, high: float) -> None:
    array = np.where(volume() > 60, high, 0).astype(np.float32)
    np.testing.assert_array_equal(read_mask(save_nifti(tmp_path / "m.nii.gz", array)).array, volume() > 60)


def test_labels_are_chosen(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "m.nii.gz", volume() % 4)
    np.testing.assert_array_equal(read_mask(path, labels=(2, 3)).array, volume() % 4 >= 2)


def test_soft_masks_are_refused(tmp_path: Path) -> None:
    for array, labels in ((volume() / 120, None), (np.full((2, 2, 2), 0.5), None), (volume() % 2 / 2, (1,))):
        path = save_nifti(tmp_path / "m.nii.gz", array.astype(np.float32))
        with pytest.raises(InputError, match=r"soft|fractions"):
            read_mask(path, labels=labels)


# Writers.


def test_writers_check_what_they_are_given(tmp_path: Path) -> None:
    study = read_study(save_nifti(tmp_path / "a.nii.gz"), id="a")
    with pytest.raises(GeometryError, match="not on the grid"):
        write_mask(tmp_path / "m", np.ones((5, 6, 3), bool), study)
    with pytest.raises(ValueError, match="bool"):
        write_mask(tmp_path / "m", np.ones((5, 6, 4)), study)
    with pytest.raises(InputError, match="1 of 120"):
        write_scores(tmp_path / "m", np.where(volume() == 0, np.nan, 1).astype(np.float32), study)
    with pytest.raises(InputError, match="overwrite its own input"):
        write_mask(tmp_path / "a", np.ones((5, 6, 4), bool), study)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


# Fuzz.


@pytest.mark.parametrize("seed", range(4))
def test_mutants_are_read_or_refused(tmp_path: Path, seed: int) -> None:
    """No damage to a header or to data leads to anything but a study or one of our errors."""
    generator = random.Random(seed)
    for number in range(60):
        data = bytearray(nifti_bytes())
        for _ in range(generator.choice((1, 2, 8))):
            data[generator.randrange(len(data) if number % 4 == 0 else 352)] = generator.choice(
                (0, 1, 127, 128, 255, generator.randrange(256))
            )
        if number % 5 == 0:
            del data[generator.randrange(len(data)) :]
        packed = bytearray(gzip.compress(bytes(data)) if number % 2 else bytes(data))
        if number % 6 == 1:
            packed[generator.randrange(len(packed))] ^= 1 << generator.randrange(8)
        path = write(tmp_path / "a.nii.gz", bytes(packed))
        try:
            study = read_study(path, id="a")
        except TagmaskError as error:
            assert str(path) in str(error)
        else:
            assert np.isfinite(study.image).all() and study.affine is not None
