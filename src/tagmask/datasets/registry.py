"""The data sets by name, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tagmask.data.csv_rows import read_rows
from tagmask.data.table import TAG
from tagmask.datasets.atlas import find_atlas, list_atlas
from tagmask.datasets.brats import MODALITIES, find_brats, list_brats
from tagmask.datasets.chaos import ORGANS, find_chaos, list_chaos
from tagmask.datasets.layouts import Listing
from tagmask.datasets.lvit import LAYOUT, find_lvit, list_lvit
from tagmask.errors import ConfigError, InputError, did_you_mean
from tagmask.io import stem

__all__ = ["DATASETS", "Dataset", "Target", "find_dataset", "meant", "not_found"]


@dataclass(frozen=True)
class Target:
    """What is to be segmented.

    Parameters
    ----------
    labels
        Values of the masks that are it; None is all above 0.
    tag
        The column that tells of it, in a data set with tables.
    """

    labels: tuple[int, ...] | None = None
    tag: str = TAG


@dataclass(frozen=True)
class Dataset:
    """One data set.

    Parameters
    ----------
    title
        What people call it.
    looked_for
        How its files are called.
    find
        Tells from a folder whether it holds the data set, and which release; opens no image.
    targets
        By name; the first is the default.
    cases
        Lists the volumes of a folder, for the modalities asked for.
    pictures
        Lists the pictures of a folder, with tags, texts and splits of their own. None, and no `cases`: the folder
        holds tables.
    modalities
        The channels that can be had, in order.
    splits
        The rule of a data set without splits of its own.
    slices
        Arguments of SliceSettings that fit it, where there is no preset.
    """

    title: str
    looked_for: str
    find: Callable[[Path], str | None]
    targets: Mapping[str, Target]
    cases: Callable[[Path, tuple[str, ...]], Listing] | None = None
    pictures: Callable[[Path], Listing] | None = None
    modalities: tuple[str, ...] = ()
    splits: str = ""
    slices: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lists(self) -> bool:
        """Whether its rows are listed from files, and not read from tables."""
        return self.cases is not None or self.pictures is not None


def _find(folder: Path, title: str, begins: str) -> str | None:
    """Tell a set with a table of tags for each split by how the names of its images begin."""
    try:
        _, fields = next(iter(read_rows(folder / "train" / "labels.csv", ("image", "label"))))
    except InputError:
        return None
    return title if stem(fields["image"]).startswith(begins) else None


def _tabled(title: str, begins: str, targets: Mapping[str, Target], **slices: Any) -> Dataset:
    return Dataset(
        title=title,
        looked_for=f"train/labels.csv and train/images/{begins}*",
        find=partial(_find, title=title, begins=begins),
        targets=targets,
        slices=slices,
    )


def _lvit(name: str, title: str, target: str) -> Dataset:
    return Dataset(
        title=title,
        looked_for=LAYOUT,
        find=partial(find_lvit, name=name),
        targets={target: Target()},
        pictures=partial(list_lvit, name=name),
        slices={"size": 256, "normalise": "window", "window": [0, 255]},  # Feng et al. 2024
    )


DATASETS = {
    "brats": Dataset(
        title="BraTS 2020, 2021 or 2023",
        looked_for="BraTS20_Training_*/, BraTS2021_*/ or BraTS-GLI-*-*/ with NIfTI files",
        find=find_brats,
        targets={"tumour": Target()},
        cases=list_brats,
        modalities=MODALITIES,
        splits="anofpdm",
    ),
    "atlas": Dataset(
        title="ATLAS v2.0",
        looked_for="Training/R*/sub-*/ses-*/anat/*_space-MNI152NLin2009aSym_T1w.nii.gz",
        find=find_atlas,
        targets={"lesion": Target()},
        cases=lambda folder, _: list_atlas(folder),
        modalities=("t1",),
        splits="anofpdm",
    ),
    "chaos": Dataset(
        title="CHAOS (MR, T2-SPIR)",
        looked_for="Train_Sets/MR/*/T2SPIR/ with DICOM_anon/*.dcm and Ground/*.png",
        find=find_chaos,
        targets={name: Target(values) for name, values in ORGANS.items()},
        cases=lambda folder, _: list_chaos(folder),
        modalities=("t2spir",),
        splits="cdm-chaos",
    ),
    "brain-mri": _tabled(
        "brain-mri (LGG, FLAIR)",
        "TCGA_",
        {"tumour": Target()},
        size=64,
        normalise="window",
        window=[0, 255],
    ),
    "abdomen-mr": _tabled(
        "abdomen-mr (CHAOS as NIfTI)",
        "chaos_",
        {
            "kidney": Target((2, 3)),
            "kidney-right": Target((2,), "kidney_right"),
            "kidney-left": Target((3,), "kidney_left"),
            "liver": Target((1,), "liver"),
            "spleen": Target((4,), "spleen"),
        },
        size=96,
        percentiles=[0.5, 99.8],
    ),
    "hippocampus": _tabled(
        "hippocampus (MSD Task04)",
        "hippocampus_",
        {"hippocampus": Target()},
        plane="sagittal",
        size=48,
    ),
    "monuseg": _lvit("monuseg", "MoNuSeg", "nuclei"),
    "qata-cov19": _lvit("qata-cov19", "QaTa-COV19", "infection"),
    "mosmeddata": _lvit("mosmeddata", "MosMedData+", "infection"),
}


def find_dataset(name: str) -> Dataset:
    """Give a data set by name.

    Raises
    ------
    ConfigError
        None of this name.
    """
    if name not in DATASETS:
        repair = did_you_mean(name.lower(), DATASETS)
        raise ConfigError(f"There is no data set {name!r}.", where="dataset", repair=repair)
    return DATASETS[name]


def meant(folder: Path, error: InputError) -> InputError:
    """Say which data set a folder looks like that cannot be read as a table; else give the error as it is."""
    for name, dataset in DATASETS.items():
        if found := dataset.find(folder):
            return InputError(f"This looks like {found}.", where=folder, repair=f"Use --dataset {name}.")
    return error


def not_found(name: str, folder: Path) -> InputError:
    """Say that a folder does not hold a data set, and what it holds instead."""
    wanted = DATASETS[name]
    for other, dataset in DATASETS.items():
        found = dataset.find(folder)
        if other != name and found:
            return InputError(
                f"This looks like {found}, not like {wanted.title}.",
                where=folder,
                repair=f"Use --dataset {other}, or give another folder.",
            )
    return InputError(
        f"No case of {wanted.title} was found; looked for {wanted.looked_for}.",
        where=folder,
        repair="Give the folder as it was unpacked, or one level above.",
    )
