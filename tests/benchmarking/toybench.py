"""A benchmark on made-up pictures. Its methods are grey values behind noise: fast, and seeds differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tagmask.diffusion.noise import gaussian
from tagmask.methods.cdm import CDMSettings
from tagmask.runs import Run
from tagmask.types import Batch, Prediction
from tests import toys
from tests.random_run import write_run

PROTOCOL = "[protocol]\nseeds = [0, 1]\nresamples = 50\n"


@dataclass(frozen=True)
class Hazy:
    """Grey values behind noise, the more of it the higher the noise level. Notes which slices it was asked for."""

    settings: CDMSettings
    asked: list[tuple[str, int]]

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        self.asked.extend((name, seed) for name in batch.ids)
        share = self.settings.noise_level / 1000
        return Prediction((1 - share) * batch.image[:, :1] + share * gaussian(batch, seed, 0)[:, :1])


def hazy(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Put it in the place of every method of every run; give the list of what is asked."""
    asked: list[tuple[str, int]] = []

    def method(self: Run, name: str | None = None, *, device: str = "cpu", **changes: Any) -> Hazy:
        table = {**self.experiment.methods.get(name or "cdm", {}), **changes}
        return Hazy(CDMSettings(**table), asked)

    monkeypatch.setattr(Run, "method", method)
    return asked


def cohort(folder: Path) -> Path:
    """Two patients of two pictures in each split, one of them with the target."""
    return toys.write_cohort(folder, patients=2, slices=2)


def row(name: str, run: Path, *more: str, method: str = "cdm") -> str:
    return "\n".join(["[[row]]", f'name = "{name}"', f'method = "{method}"', f'run = "{run}"', *more, ""])


def data(folder: Path, *more: str, truth: str = "test") -> str:
    lines = ["[data.toy]", f'inputs = "{folder}/test/labels.csv"', f'truth = "{folder}/{truth}"', *more, ""]
    return "\n".join(lines)


def write(path: Path, *parts: str) -> Path:
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def runs(folder: Path) -> Path:
    """A run with denoiser and classifier."""
    return write_run(folder / "run")
