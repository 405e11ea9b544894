"""DICOM series: order, geometry, grey values, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedCTImageStorage, JPEG2000Lossless, RLELossless

from tagmask.errors import GeometryError, InputError, ResourceError, TagmaskError
from tagmask.io import case_files, guards, read_header, read_mask, read_study, same_grid, write_mask
from tests.io.files import save_dicom, save_series, slice_dataset

HEIGHTS = [0.0, 3.0, 6.0, 9.0]
PIXELS = np.arange(4 * 5 * 7).reshape(4, 5, 7) - 20


def refused(path: Path, what: str, kind: type[TagmaskError] = InputError) -> None:
    """Read a series that must be refused with these words, a path and a repair."""
    with pytest.raises(kind, match=what) as caught:
        read_study(path, id="a")
    assert str(path) in caught.value.where and caught.value.repair


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_a_series_is_put_in_order_and_into_ras(tmp_path: Path, order: list[int]) -> None:
    folder = save_series(tmp_path / "s", PIXELS[order], [HEIGHTS[n] for n in order])
    study = read_study(folder, id="a")
    # (columns, rows, slices), rescaled by 2 x - 1000.
    np.testing.assert_array_equal(study.image[0], PIXELS.transpose(2, 1, 0) * 2 - 1000)
    np.testing.assert_array_equal(
        study.affine, [[-0.5, 0, 0, 30], [0, -0.8, 0, 40], [0, 0, 3, 0], [0, 0, 0, 1]]
    )
    assert (study.kind, study.sources, study.spacing) == ("volume", (folder,), (0.5, 0.8, 3))
    header = read_header(folder)
    assert (header.shape, header.channels, header.kind) == ((7, 5, 4), 1, "volume")


def test_a_sagittal_oblique_series(tmp_path: Path) -> None:
    along_row, along_column = np.array([0, 1, 0]), np.array([0.6, 0, -0.8])
    normal = np.cross(along_row, along_column)
    folder = tmp_path / "s"
    folder.mkdir()
    for n in range(3):
        fields: dict[str, Any] = {
            "ImageOrientationPatient": [*along_row, *along_column],
            "ImagePositionPatient": list(np.array([5, 6, 7]) + 2 * n * normal),
        }
        save_dicom(folder / f"{9 - n}.dcm", slice_dataset(PIXELS[n], 0, **fields))
    study = read_study(folder, id="a")
    np.testing.assert_array_equal(study.image[0], PIXELS[:3].transpose(2, 1, 0) * 2 - 1000)
    to_ras = np.diag([-1, -1, 1])
    expected = to_ras @ np.stack([along_row * 0.5, along_column * 0.8, normal * 2], axis=1)
    assert study.affine is not None
    np.testing.assert_allclose(study.affine[:3, :3], expected, atol=1e-9)
    np.testing.assert_allclose(study.affine[:3, 3], to_ras @ [5, 6, 7])


def test_results_are_nifti_on_the_series_grid(tmp_path: Path) -> None:
    study = read_study(save_series(tmp_path / "s", PIXELS, HEIGHTS), id="a")
    mask = read_mask(write_mask(tmp_path / "m", study.image[0] > -900, study))
    np.testing.assert_array_equal(mask.array, study.image[0] > -900)
    assert study.affine is not None and mask.affine is not None
    np.testing.assert_allclose(mask.affine, study.affine, atol=1e-6)


def test_results_of_a_slightly_tilted_series_are_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for n in range(40):
        place = [-30, -40 + 0.015 * 3 * n, 3 * n]
        save_dicom(folder / f"{n:02d}.dcm", slice_dataset(PIXELS[n % 4], 0, ImagePositionPatient=place))
    study = read_study(folder, id="a")
    mask = read_mask(write_mask(tmp_path / "m", study.image[0] > -900, study))
    np.testing.assert_array_equal(mask.array, study.image[0] > -900)
    assert same_grid(mask.affine, study.affine, study.shape)


def test_one_file_is_one_slice(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", slice_dataset(PIXELS[1], 12))
    study = read_study(path, id="a")
    assert study.shape == (7, 5, 1) and study.spacing == (0.5, 0.8, 3)


def test_an_image_without_a_position_is_a_picture(tmp_path: Path) -> None:
    data = slice_dataset(PIXELS[1], 0)
    del data.ImagePositionPatient, data.ImageOrientationPatient, data.RescaleSlope, data.RescaleIntercept
    study = read_study(save_dicom(tmp_path / "a.dcm", data), id="a")
    np.testing.assert_array_equal(study.image[0, ..., 0], PIXELS[1])
    assert (study.kind, study.affine, study.shape) == ("picture", None, (5, 7, 1))
    assert write_mask(tmp_path / "m", np.ones((5, 7, 1), bool), study).name == "m.png"


def test_monochrome1_is_inverted(tmp_path: Path) -> None:
    fields: dict[str, Any] = {
        "PhotometricInterpretation": "MONOCHROME1",
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
    }
    signed = save_dicom(tmp_path / "a.dcm", slice_dataset(PIXELS[0], 0, **fields))
    np.testing.assert_array_equal(read_study(signed, id="a").image[0, ..., 0].T, -1 - PIXELS[0])
    fields |= {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11}
    unsigned = save_dicom(tmp_path / "b.dcm", slice_dataset(PIXELS[3], 0, **fields))
    np.testing.assert_array_equal(read_study(unsigned, id="a").image[0, ..., 0].T, 4095 - PIXELS[3])


def test_rle_is_read(tmp_path: Path) -> None:
    data = slice_dataset(PIXELS[0], 0)
    data.compress(RLELossless)
    study = read_study(save_dicom(tmp_path / "a.dcm", data), id="a")
    np.testing.assert_array_equal(study.image[0, ..., 0].T, PIXELS[0] * 2 - 1000)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", PIXELS, HEIGHTS)
    for name in ("notes.txt", "DICOMDIR", ".hidden"):
        (folder / name).write_text("x")
    assert read_study(folder, id="a").shape == (7, 5, 4)
    (folder / "broken.dcm").write_text("x")
    with pytest.raises(InputError, match=r"broken.dcm.*not DICOM"):
        read_study(folder, id="a")


def test_a_missing_slice(tmp_path: Path) -> None:
    heights = [0.0, 3.0, 9.0, 12.0]
    refused(save_series(tmp_path / "s", PIXELS, heights), "im007.dcm and im014.dcm is 6 mm", GeometryError)


def test_uneven_slices(tmp_path: Path) -> None:
    assert read_study(save_series(tmp_path / "a", PIXELS, [0, 3.01, 6, 9]), id="a").shape == (7, 5, 4)
    refused(save_series(tmp_path / "b", PIXELS, [0, 3.1, 6, 9]), "missing or uneven", GeometryError)


def test_a_slice_given_twice(tmp_path: Path) -> None:
    heights = [0.0, 3.0, 3.0, 6.0]
    refused(
        save_series(tmp_path / "s", PIXELS, heights), "im007.dcm and im014.dcm lie in the same", GeometryError
    )


def test_several_series_are_named(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", PIXELS, HEIGHTS)
    save_dicom(folder / "x.dcm", slice_dataset(PIXELS[0], 20, series="1.2.3.9"))
    refused(folder, r"2 series: series 4 \(1.2.3.4, 4 files\); series 9 \(1.2.3.9, 1 files\)")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"PixelSpacing": [1, 1]}, "orientation or pixel spacing"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "orientation or pixel spacing"),
        ({"ImagePositionPatient": [-10, -40, 12]}, "on one line"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 0, 1.002, 0]},
            r"x.dcm: ImageOrientationPatient is .*, 1.002, ",
        ),
        ({"ImagePositionPatient": None}, "ImagePositionPatient is None"),
        ({"PixelSpacing": None}, "PixelSpacing is None"),
    ],
)
def test_a_slice_that_does_not_belong(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    folder = save_series(tmp_path / "s", PIXELS, HEIGHTS)
    save_dicom(folder / "x.dcm", slice_dataset(PIXELS[0], 12, **fields))
    with pytest.raises(GeometryError, match=what):
        read_study(folder, id="a")


@pytest.mark.parametrize(
    "directions",
    [[2, 0, 0, 0, 2, 0], [1, 0, 0, 0.01, 1, 0], [0, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0], [0.7, 0, 0, 0, 1, 0]],
)
def test_directions_that_are_none(tmp_path: Path, directions: list[float]) -> None:
    folder = save_series(tmp_path / "s", PIXELS, HEIGHTS, ImageOrientationPatient=directions)
    what = rf"im\d+\.dcm: ImageOrientationPatient is \[{float(directions[0])}, .*at right angles.*Export the series"
    refused(folder, what, GeometryError)


def test_directions_that_were_rounded(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"ImageOrientationPatient": [0.9991, 0.0009, 0, 0, 1.0009, 0]}
    study = read_study(save_dicom(tmp_path / "a.dcm", slice_dataset(PIXELS[0], 0, **fields)), id="a")
    assert study.affine is not None
    np.testing.assert_allclose(study.affine[:2, 0], [-0.5 * 0.9991, -0.5 * 0.0009])


def test_slices_of_another_size(tmp_path: Path) -> None:
    folder = save_series(tmp_path / "s", PIXELS, HEIGHTS)
    save_dicom(folder / "x.dcm", slice_dataset(PIXELS[0, :4], 12))
    refused(folder, "differ in size", GeometryError)


def test_a_tilted_gantry(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for n in range(4):
        save_dicom(folder / f"{n}.dcm", slice_dataset(PIXELS[n], 0, ImagePositionPatient=[0, n, 3 * n]))
    refused(folder, "not at right angles", GeometryError)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"NumberOfFrames": 3}, "3 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not grey"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not grey"),
        ({"Rows": None}, "no image"),
        ({"RescaleSlope": 0}, "Grey values are 0 x"),
        ({"RescaleSlope": None}, "RescaleSlope is empty, not one number. .*delete RescaleSlope and"),
        ({"RescaleSlope": [1, 2]}, r"RescaleSlope is \[1.*, 2.*\], not one number"),
        ({"RescaleIntercept": ""}, "RescaleIntercept is empty, not one number"),
        ({"RescaleIntercept": [0, 5]}, r"RescaleIntercept is \[0.*, 5.*\], not one number"),
        ({"Rows": 50}, "damaged"),
    ],
)
def test_files_that_are_no_grey_slice(tmp_path: Path, fields: dict[str, Any], what: str) -> None:
    refused(save_dicom(tmp_path / "a.dcm", slice_dataset(PIXELS[0], 0, **fields)), what)


def test_a_rescale_that_is_no_number(tmp_path: Path) -> None:
    path = save_dicom(tmp_path / "a.dcm", slice_dataset(PIXELS[0], 0))
    path.write_bytes(path.read_bytes().replace(b"-1000", b"-1x00"))
    refused(path, "RescaleIntercept is -1x00.*, not one number")


@pytest.mark.parametrize("key", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
@pytest.mark.parametrize("frames", [None, 1])
def test_an_enhanced_image_of_one_frame(tmp_path: Path, key: str, frames: int | None) -> None:
    data = slice_dataset(PIXELS[0], 0, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=frames)
    data.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    place, group = Dataset(), Dataset()
    place.ImagePositionPatient = data.ImagePositionPatient
    group.PlanePositionSequence = [place]
    setattr(data, key, [group])
    del data.ImagePositionPatient, data.ImageOrientationPatient, data.RescaleSlope, data.RescaleIntercept
    refused(
        save_dicom(tmp_path / "a.dcm", data),
        r"enhanced \(Enhanced CT Image Storage\): its place and grey values .*functional groups\. Convert it to NIfTI",
    )


def test_a_compression_without_a_decoder_is_named(tmp_path: Path) -> None:
    data = slice_dataset(PIXELS[0], 0)
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    data.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(40)])
    refused(save_dicom(tmp_path / "a.dcm", data), r"JPEG 2000.*Decompress the series")


def test_a_deflated_file_is_not_inflated(tmp_path: Path) -> None:
    data = slice_dataset(PIXELS[0], 0)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    refused(save_dicom(tmp_path / "a.dcm", data), "deflated")


@pytest.mark.parametrize("part", [0.2, 0.5, 0.9])
def test_cut_files(tmp_path: Path, part: float) -> None:
    path = save_dicom(tmp_path / "a.dcm", slice_dataset(np.zeros((40, 40)), 0))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    refused(path, "damaged|no image|no pixels")


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("x")
    refused(tmp_path, "no DICOM file")
    (tmp_path / "empty.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"empty.dcm.*0 bytes"):
        read_study(tmp_path, id="a")


def test_too_many_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_series(tmp_path / "s", PIXELS, HEIGHTS)
    monkeypatch.setattr(guards, "MAX_VOXELS", 139)
    refused(folder, "7 x 5 x 4", ResourceError)


def test_series_are_found(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save_series(tmp_path / name, PIXELS, HEIGHTS)
    (tmp_path / "other").mkdir()
    assert case_files(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert case_files(tmp_path / "a") == [tmp_path / "a"]


def test_images_beside_a_series_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_series(tmp_path, PIXELS, HEIGHTS)
    assert case_files(tmp_path) == [tmp_path] and not caplog.text
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    (tmp_path / "bare.dcm").write_bytes(b"x")  # DICOM files may lack the mark that tells them
    save_series(tmp_path / "second", PIXELS, HEIGHTS)
    assert case_files(tmp_path) == [tmp_path]
    assert "beside the DICOM files are not taken: scan.nii.gz, second." in caplog.text


def test_files_of_formats_that_are_not_read_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.nii", "b.mha", "c.NRRD", "d.txt", "e.mgz", "f.bmp"):
        (tmp_path / name).touch()
    assert case_files(tmp_path) == [tmp_path / "a.nii"]
    assert (
        "files of other formats are not taken: b.mha, c.NRRD, e.mgz and 1 more. Convert them" in caplog.text
    )
