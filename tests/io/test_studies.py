"""Finding files, naming cases, and paths that lead nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tagmask.errors import GeometryError, InputError
from tagmask.io import case_files, read_header, read_mask, read_study, same_grid, stem, write_png
from tests.io.files import AFFINE, save_nifti


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/case.1.nii.gz", "case.1"),
        ("case.NII", "case"),
        ("a.b.tiff", "a.b"),
        ("series_7", "series_7"),
        ("scan.v2", "scan.v2"),
        (".png", "png"),
        ("x/.p.png", "p"),
        ("...p.nii.gz", "p"),
    ],
)
def test_stem(path: str, name: str) -> None:
    assert stem(path) == stem(Path(path)) == name


def test_a_folder_without_a_name_of_its_own_is_called_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "Series 7" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert [stem(path) for path in (".", "", "./", "..", "../.", "../inner/..")] == [
        *["inner"] * 3,
        *["Series 7"] * 3,
    ]


def test_case_files_are_sorted_and_hidden_ones_skipped(tmp_path: Path) -> None:
    for name in ("b.nii.gz", "a.PNG", "c.jpeg", ".hidden.png", "labels.csv", "d.npy"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "gone.nii").symlink_to(tmp_path / "nowhere.nii")
    (tmp_path / "sub").mkdir()
    assert [p.name for p in case_files(tmp_path)] == ["a.PNG", "b.nii.gz", "c.jpeg", "gone.nii"]


def test_folders_without_cases(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no image"):
        case_files(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        case_files(tmp_path / "nowhere")


def test_folders_that_are_not_entered_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("p1/scan.nii.gz", "p2/deep/down/scan.png", "notes/readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"holds no image, but folders with images: p1, p2\. Give these folders"
    ):
        case_files(tmp_path)
    (tmp_path / "top.nii.gz").write_bytes(b"x")
    assert case_files(tmp_path) == [tmp_path / "top.nii.gz"]
    assert "not taken: p1, p2." in caplog.text and "notes" not in caplog.text


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "gone.nii")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    os.mkfifo(tmp_path / "pipe.nii")
    for name, what in (
        ("missing.nii", "no such file"),
        ("dangling.nii", "leads nowhere"),
        ("loop.nii", "cannot be reached"),
        ("pipe.nii", "not a file"),
        ("x" * 300, "cannot be reached"),
        ("nul\0.nii", "no path"),
    ):
        for read in (read_header, read_mask):
            with pytest.raises(InputError, match=what):
                read(tmp_path / name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "a.nii")
    path.chmod(0)
    with pytest.raises(InputError, match="may not be read"):
        read_study(path, id="a")


def test_permission_is_asked_before_the_file_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_nifti(tmp_path / "a.nii")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="may not be read"):
        read_study(path, id="a")


def test_a_volume_and_a_picture_are_no_channels_of_one_study(tmp_path: Path) -> None:
    write_png(tmp_path / "b.png", np.zeros((5, 6), np.uint8))
    with pytest.raises(GeometryError, match=r"picture is 5 x 6 x 1, a\.nii is a volume"):
        read_study([save_nifti(tmp_path / "a.nii"), tmp_path / "b.png"], id="a")


def test_colour_and_grey_pictures_add_up(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.full((5, 6, 3), 7, np.uint8))
    write_png(tmp_path / "b.png", np.full((5, 6), 9, np.uint8))
    study = read_study([tmp_path / "a.png", str(tmp_path / "b.png")], id="a")
    assert study.image[:, 0, 0, 0].tolist() == [7, 7, 7, 9]


def test_same_grid_measures_at_the_corners() -> None:
    shape = (512, 512, 300)
    noisy, moved, turned = AFFINE + 1e-8, AFFINE.copy(), AFFINE.copy()
    moved[2, 3] += 2e-3
    turned[0, 0] += 1e-5  # 5 microns at the far corner
    assert same_grid(AFFINE, noisy, shape) and same_grid(None, None, shape)
    assert not same_grid(AFFINE, moved, shape) and not same_grid(AFFINE, turned, shape)
    assert same_grid(AFFINE, moved, shape, tolerance=0.01) and not same_grid(AFFINE, None, shape)


def test_real_volumes_and_pictures_are_read(shared: Path) -> None:
    for path, shape in (
        (shared / "data/abdomen-mr/test/images/chaos_20.nii.gz", None),
        (shared / "data/hippocampus/test/images/hippocampus_052.nii.gz", None),
        (shared / "data/brain-mri/test/images/TCGA_DU_5872_19950223_16.png", (64, 64, 1)),
    ):
        study = read_study(path, id=stem(path))
        assert study.shape == (shape or read_header(path).shape) and np.ptp(study.image) > 0
        truth = path.parents[2] / "masks" / "test" / path.name
        assert read_mask(truth).array.shape == study.shape
