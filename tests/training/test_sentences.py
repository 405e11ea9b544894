"""What is said of a training slice: it follows the slice's turn, on the picture's sides or on the patient's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import torch

from tagmask.data.augment import AugmentSettings
from tagmask.errors import ConfigError
from tagmask.text import TextEncoder
from tagmask.train_settings import TrainSettings
from tagmask.training.sentences import Sentences

TEXTS = ["left", None, ""]


@dataclass
class Listener:
    """Stands for the encoder: hands back what it is told."""

    def __call__(self, texts: list[str | None]) -> list[str | None]:
        return texts


def said(variant: int, **settings: object) -> list[str | None]:
    """Give what is said of three slices turned and mirrored alike."""
    augment = AugmentSettings(dihedral="even", **settings)  # type: ignore[arg-type]
    sentences = Sentences(TEXTS, cast(TextEncoder, Listener()), TrainSettings(augment=augment))
    return cast("list[str | None]", sentences.of(0, [0, 1, 2], torch.full((3,), variant)))


@pytest.mark.parametrize(
    ("variant", "of_picture", "of_patient"),
    [
        (0, "left", "left"),
        (1, "lower", "upper"),
        (2, "right", "right"),
        (4, "right", "right"),
        (5, "lower", "upper"),
    ],
)
def test_sides_are_those_of_the_picture_or_of_the_patient(
    variant: int, of_picture: str, of_patient: str
) -> None:
    assert said(variant, rewrite_text=True) == [of_picture, None, ""]
    assert said(variant, rewrite_text=True, sides_of="patient") == [of_patient, None, ""]
    assert said(variant) == TEXTS


def test_sides_that_nothing_reads_are_refused() -> None:
    with pytest.raises(ConfigError, match="no sentence is rewritten"):
        AugmentSettings(dihedral="even", sides_of="patient")
    with pytest.raises(ConfigError, match='sides_of = "doctor"'):
        AugmentSettings(dihedral="even", rewrite_text=True, sides_of="doctor")  # type: ignore[arg-type]
