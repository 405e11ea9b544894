from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tagmask
from tagmask.data.prepared import Prepared
from tagmask.datasets.presets import PRESETS
from tagmask.datasets.registry import DATASETS
from tagmask.datasets.rows import tissue_range
from tagmask.datasets.settings import DatasetSettings, default_slices, with_preset
from tagmask.datasets.splits import RULES
from tagmask.errors import ConfigError, InputError
from tagmask.grids import plan
from tagmask.slices import SliceSettings
from tagmask.types import Study
from tests.datasets import folders

ANOFPDM = SliceSettings(size=128, normalise="slice", tissue=0.5)


@pytest.mark.parametrize(
    ("preset", "slices", "modalities"),
    [
        ("cdm-brats", SliceSettings(size=224, percentiles=(0, 100)), ("flair",)),
        ("cdm-chaos", SliceSettings(size=128, percentiles=(0, 100)), None),
        ("anofpdm-brats", ANOFPDM, None),
        ("anofpdm-atlas", ANOFPDM, None),
    ],
)
def test_presets_are_the_papers(preset: str, slices: SliceSettings, modalities: Any) -> None:
    name = PRESETS[preset].dataset
    chosen = with_preset(name, preset)
    assert chosen is not None and chosen.modalities == modalities
    assert chosen.splits == PRESETS[preset].splits in RULES
    assert default_slices(chosen, preset) == slices
    small = (0.05, "body") if preset == "cdm-chaos" else (0, "slice")
    assert (chosen.min_area_frac, chosen.area_of) == small


def test_what_is_given_comes_before_the_preset() -> None:
    mine = DatasetSettings("chaos", splits="drawn", min_area_frac=0.0, area_of="body")
    chosen = with_preset(mine, "cdm-chaos")
    assert chosen == mine
    brats = with_preset(DatasetSettings("brats", ("t2",)), "cdm-brats")
    assert brats is not None and brats.modalities == ("t2",) and brats.splits == "cdm-brats"
    one = default_slices(None, "cdm-brats", size=96, percentiles=(1.0, 99.0))
    assert one == SliceSettings(size=96, percentiles=(1, 99))
    assert default_slices(None, "anofpdm-brats", percentiles=(1.0, 99.0)).normalise == "volume"
    window = default_slices(None, "anofpdm-brats", window=(0.0, 5.0))
    assert (window.normalise, window.window) == ("window", (0, 5))
    chosen = DatasetSettings("brain-mri")
    assert default_slices(chosen, None, normalise="slice") == SliceSettings(normalise="slice")
    with pytest.raises(ConfigError, match=r"slices\.window"):
        default_slices(chosen, None, normalise="slice", window=(0.0, 5.0))


def test_a_preset_of_another_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="cdm-chaos is made for chaos, not for brats"):
        with_preset("brats", "cdm-chaos")
    with pytest.raises(ConfigError, match=r"no preset 'cdm-brat'\. Did you mean cdm-brats"):
        with_preset("brats", "cdm-brat")
    with pytest.raises(ConfigError, match=r"no data set 'BraTS'\. Did you mean brats"):
        DatasetSettings("BraTS")
    with pytest.raises(
        ConfigError, match="Known here: brats, atlas, chaos, brain-mri, abdomen-mr, hippocampus"
    ):
        DatasetSettings("zzz")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "brats", "modalities": ("flair", "dwi")}, r"brats has flair, t1, t1ce, t2"),
        ({"name": "brats", "modalities": ()}, "modalities"),
        ({"name": "chaos", "min_area_frac": 1.5}, "min_area_frac"),
        ({"name": "chaos", "area_of": "image"}, "area_of"),
        ({"name": "hippocampus", "splits": "anofpdm"}, "comes with its own tags and splits"),
        ({"name": "brain-mri", "min_area_frac": 0.1}, "comes with its own tags and splits"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DatasetSettings(**settings)


def test_a_preset_of_slices_for_a_table(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    tagmask.prepare(tmp_path / "in", tmp_path / "out", dataset="brats", preset="anofpdm-brats")
    first = Prepared.open(tmp_path / "out")
    assert first.images.shape == (24, 4, 128, 128) and first.settings == ANOFPDM
    tagmask.prepare(tmp_path / "out" / "tables", tmp_path / "again", preset="anofpdm-brats")
    assert Prepared.open(tmp_path / "again").settings == ANOFPDM


def test_cdm_brats_keeps_every_slice(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in", count=10)
    tagmask.prepare(tmp_path / "in", tmp_path / "out", dataset="brats", preset="cdm-brats")
    prepared = Prepared.open(tmp_path / "out")
    assert prepared.images.shape == (60, 1, 224, 224)
    parts = {row["patient"]: row["split"] for row in prepared.index}
    assert sorted(parts.values()) == ["test"] + ["train"] * 9


# tissue


def study(image: np.ndarray) -> Study:
    return Study("x", image.astype(np.float32), np.eye(4), "volume", ())


def test_tissue_is_counted_over_pixels_and_averaged_over_channels() -> None:
    image = np.zeros((2, 4, 4, 8))
    image[0, 0, 0, 5] = 1000  # the 99th percentile of the channel, but for the dim ones
    image[0, 1, 1, 2] = 400
    settings = SliceSettings(tissue=0.5)
    grid = plan(study(image), "axial", 8)
    top = np.percentile([400, 1000], 99)
    assert 1000 / top / 2 > 0.5 > 400 / top / 2
    assert tissue_range(study(image), settings, grid) == range(5, 6)
    image[1, 2, 2, 1] = 7  # one pixel of its own scale: 1 / 2, which is not more than 0.5
    assert tissue_range(study(image), settings, grid) == range(5, 6)
    image[1, 2, 3, 1] = 7  # two of them
    assert tissue_range(study(image), settings, grid) == range(1, 6)  # 2 to 4 lie between
    assert tissue_range(study(image), SliceSettings(channels=(0,), tissue=0.5), grid) == range(5, 6)
    assert tissue_range(study(image), SliceSettings(), grid) == range(8)
    assert tissue_range(study(image * 0), settings, grid) == range(0)
    sagittal = plan(study(image), "sagittal", 8)
    assert tissue_range(study(image), settings, sagittal) == range(0, 3)


def test_an_image_without_tissue_fails_alone(tmp_path: Path) -> None:
    folders.brats(tmp_path / "in")
    path = tmp_path / "in/BraTS2021_00002/BraTS2021_00002_flair.nii.gz"
    folders.save(path, folders.scan(0) * 0, folders.BRATS_AFFINE)
    chosen = DatasetSettings("brats", ("flair",))
    settings = SliceSettings(size=8, tissue=0.5)
    summary = tagmask.prepare(tmp_path / "in", tmp_path / "out", dataset=chosen, settings=settings)
    (failed,) = summary.failed
    assert failed.case == "BraTS2021_00002" and "No slice shows more tissue than 0.5" in failed.what
    with pytest.raises(InputError, match="Channel 4 is asked for"):
        wrong = SliceSettings(size=8, tissue=0.5, channels=(4,))
        tagmask.prepare(tmp_path / "in", tmp_path / "x", dataset="brats", settings=wrong)


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_tissue_out_of_range(value: float) -> None:
    with pytest.raises(ConfigError, match=r"slices\.tissue"):
        SliceSettings(tissue=value)


def test_every_data_set_names_itself() -> None:
    for dataset in DATASETS.values():
        assert dataset.title and dataset.looked_for and dataset.targets
        assert (dataset.cases is None) == (not dataset.splits) == (not dataset.modalities)
