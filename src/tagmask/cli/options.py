"""Options that several commands share, and how they are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tagmask.errors import ConfigError

__all__ = [
    "DatasetName",
    "Device",
    "MaskLabels",
    "Method",
    "Override",
    "Overwrite",
    "Plane",
    "PresetName",
    "RunFolder",
    "Seed",
    "given",
    "integers",
]

DatasetName = Literal[
    "brats",
    "atlas",
    "chaos",
    "brain-mri",
    "abdomen-mr",
    "hippocampus",
    "monuseg",
    "qata-cov19",
    "mosmeddata",
]
PresetName = Literal["cdm-brats", "cdm-chaos", "anofpdm-brats", "anofpdm-atlas"]
Plane = Literal["axial", "coronal", "sagittal", "i", "j", "k"]
Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change a setting. May be repeated.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]
Method = Annotated[
    str | None, typer.Option(help="A method, such as cdm or cg_cdm; by default the experiment's first.")
]
MaskLabels = Annotated[
    str | None,
    typer.Option(
        metavar="N,N", help="Values of a mask that count, as 2,3 or 110-135; by default all above 0."
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder made by tagmask train.")]


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the options that were not given, so that the settings' own defaults hold."""
    return {key: value for key, value in options.items() if value is not None}


def integers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read "0,2" as (0, 2), and "1-3" as (1, 2, 3)."""
    if text is None:
        return None
    try:
        return tuple(number for part in text.split(",") for number in _numbers(part))
    except ValueError:
        raise ConfigError(
            f"{text!r} is no list of whole numbers.", where=option, repair="Write it as 0,2."
        ) from None


def _numbers(part: str) -> Iterable[int]:
    span = re.fullmatch(r"\s*(\d{1,5})-(\d{1,5})\s*", part)
    if span is None:
        return (int(part),)
    if int(span[1]) > int(span[2]):
        raise ValueError(part)
    return range(int(span[1]), int(span[2]) + 1)
