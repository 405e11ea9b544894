from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tagmask.errors import ConfigError, InputError
from tagmask.experiment import DataSettings, Experiment
from tagmask.networks.denoiser import DenoiserSettings
from tagmask.networks.learnt import Learnt, tagged
from tagmask.runs import Run
from tagmask.train_settings import TrainPlan, TrainSettings
from tests.random_run import ALL, write_run


def test_it_is_told_from_the_settings() -> None:
    assert Learnt.by(DenoiserSettings(), TrainSettings()) == Learnt()
    assert not Learnt.by(DenoiserSettings(), TrainSettings(label_dropout=0.0)).null
    assert not Learnt.by(DenoiserSettings(null_row=False), TrainSettings()).null
    assert Learnt.by(DenoiserSettings(null_row=False, conditioning="attention"), TrainSettings()).null
    plain = Learnt.by(
        DenoiserSettings(classes=0), TrainSettings(only_tag=0, noise="simplex", label_dropout=0.0)
    )
    assert plain == Learnt(conditional=False, null=True, only_tag=0, noise="simplex")


REFUSED: list[tuple[str, tuple[str, ...], str]] = [
    ("anoddpm", (), r"tag 0 alone, but this one learnt from both tags\. Train one with only_tag = 0\."),
    ("anoddpm", ("train.denoiser.only_tag=1",), "tag 0 alone, but this one learnt from tag 1 alone"),
    (
        "anoddpm",
        ("train.denoiser.only_tag=0", "train.denoiser.noise=simplex"),
        r'removes gaussian noise.*learnt to remove simplex.*noise = "simplex"',
    ),
    ("anoddpm", ("train.denoiser.only_tag=0", "methods.anoddpm.noise=simplex"), "learnt to remove gaussian"),
    ("ddib", ("train.denoiser.label_dropout=0.0",), "Train with label dropout"),
    ("cg_diff", ("train.denoiser.label_dropout=0.0",), "Train with label dropout"),
    *((name, ("train.denoiser.only_tag=0",), "both tags") for name in ("cdm", "cg_cdm", "ddib", "cg_diff")),
    *((name, ("train.denoiser.noise=simplex",), "gaussian") for name in ("cdm", "cg_cdm", "ddib", "cg_diff")),
]


@pytest.mark.parametrize(("name", "training", "message"), REFUSED)
def test_a_method_refuses_what_it_cannot_use(
    name: str, training: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    run = Run.open(write_run(tmp_path / "run", *training, networks=ALL))
    with pytest.raises(ConfigError, match=message) as raised:
        run.method(name)
    assert raised.value.repair and "[train.denoiser]" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("cg_diff", ("train.denoiser.label_dropout=0.0", "methods.cg_diff.condition=healthy")),
        ("cdm", ("train.denoiser.label_dropout=0.0",)),
        (
            "anoddpm",
            ("train.denoiser.only_tag=0", "train.denoiser.noise=simplex", "methods.anoddpm.noise=simplex"),
        ),
    ],
)
def test_a_method_takes_what_it_can_use(name: str, training: tuple[str, ...], tmp_path: Path) -> None:
    Run.open(write_run(tmp_path / "run", *training, networks=ALL)).method(name)


def test_an_unconditional_denoiser() -> None:
    """It does for AnoDDPM and for CG-Diff without a condition, and for nothing that tells it the tag."""
    plain = Learnt(conditional=False)
    plain.check("cg_diff", null=True)
    with pytest.raises(ConfigError, match=r"unconditional.*classes = 2"):
        plain.check("ddib", conditional=True, null=True)


def test_rows_of_one_tag() -> None:
    rows, labels = np.array([1, 2, 4]), np.array([0, 0, 1, 1, 0])
    assert tagged(rows, labels, None).tolist() == [1, 2, 4]
    assert tagged(rows, labels, 0).tolist() == [1, 4] and tagged(rows, labels, 1).tolist() == [2]
    with pytest.raises(InputError, match="none of the 2 training slices has tag 1"):
        tagged(np.array([0, 1]), labels, 1)


@pytest.mark.parametrize("name", ["classifier", "segmenter"])
def test_only_denoisers_learn_from_one_tag(name: str) -> None:
    settings: Any = {name: TrainSettings(only_tag=0)}
    with pytest.raises(ConfigError, match=f"a {name} learns from both tags"):
        Experiment(DataSettings(Path("p")), train=TrainPlan(**settings))
    with pytest.raises(ConfigError, match="only_tag is 0 or 1"):
        TrainSettings(only_tag=2)
