"""What tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import toys

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and oracle arrays beside the repository; tests that need it skip without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no folder ../shared")
    return folder


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up pictures with tags and masks, split by patient. Read only."""
    return toys.write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="session")
def prepared(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort prepared from tags alone. Read only."""
    from tagmask.jobs.prepare import prepare
    from tagmask.slices import SliceSettings

    out = tmp_path_factory.mktemp("prepared") / "toy"
    prepare(cohort, out, settings=SliceSettings(size=toys.SIZE, normalise="window", window=(0.0, 255.0)))
    return out


@pytest.fixture(scope="session")
def masked(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort prepared with its masks. Read only."""
    from tagmask.jobs.prepare import prepare
    from tagmask.slices import SliceSettings

    out = tmp_path_factory.mktemp("masked") / "toy"
    settings = SliceSettings(size=toys.SIZE, normalise="window", window=(0.0, 255.0))
    prepare(cohort, out, settings=settings, supervised=True, masks=cohort / "masks")
    return out


@pytest.fixture(scope="session")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a denoiser and a classifier of a few steps. Read only: copy it to change it."""
    from tagmask.jobs.train import train

    folder = tmp_path_factory.mktemp("runs")
    train(toys.write_experiment(folder / "toy.toml", prepared), out=folder / "toy")
    return folder / "toy"
