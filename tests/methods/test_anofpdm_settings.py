from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tagmask.config import build, read_toml, write_toml
from tagmask.errors import ConfigError
from tagmask.experiment import Experiment
from tagmask.jobs.train import train
from tagmask.methods.anofpdm import AnoFPDMSettings
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.runs import Run
from tests.anofpdm_worlds import method, two_tags
from tests.random_run import write_run


@pytest.mark.parametrize(
    "settings",
    [
        {"guidance": -0.5},
        {"forward_steps": 1},
        {"stride": 0},
        {"stride": 600},
        {"healthy_threshold": 1.5},
        {"m_max": (0.1, 0.0)},
        {"modalities": ()},
        {"modalities": (0, 0)},
        {"modalities": (-1,)},
        {"end_ratio": 0.0},
        {"interval": 0},
        {"interval": 2, "map": "single"},
        {"interval": 2, "end_exclusive": True},
        {"quantiles": (0.9, 0.98)},
        {"quantiles": (1.1, 0.9)},
        {"chunk": 0},
        {"candidates": ()},
        {"candidates": (1.0, 1.0)},
        {"candidates": (-1.0,)},
        {"accuracy_kept": 0.0},
        {"offset": 2},
        {"offset": 1, "stride": 2},
        {"ugp": "healthy", "guidance": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    with pytest.raises(ConfigError) as raised:
        AnoFPDMSettings(**settings)
    assert str(raised.value).startswith(f"[methods.anofpdm]: {name} = {settings[name]!r} is not allowed. ")
    assert raised.value.repair


def test_more_steps_than_the_schedule_are_refused() -> None:
    world = two_tags()
    method(world, forward_steps=200)
    with pytest.raises(ConfigError, match=r"forward_steps = 201, .* 200 steps.* at most 200"):
        method(world, forward_steps=201)
    with pytest.raises(ConfigError, match="at most 199"):
        method(world, forward_steps=200, offset=1)


def test_a_denoiser_that_knows_no_missing_tag_is_refused() -> None:
    shape: dict[str, Any] = {"size": 16, "widths": (16, 16), "attention": (1,), "head_channels": 16}
    with pytest.raises(ConfigError, match="without a row for no class"):
        method(Denoiser(DenoiserSettings(**shape, null_row=False)))
    with pytest.raises(ConfigError, match="no difference between tag 0 and no tag"):
        method(Denoiser(DenoiserSettings(**shape, classes=0)))
    for conditioning in ("add", "attention"):
        method(Denoiser(DenoiserSettings(**shape, conditioning=conditioning)))


def test_a_run_that_hid_no_tag_in_training_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    table = read_toml(path / "experiment.toml")
    table["train"] = {"denoiser": {"label_dropout": 0.0}}
    match = r"\[train\.denoiser\]: anofpdm asks the denoiser without a tag.* label_dropout = 0\.1"
    table["denoiser"] = {"size": 16}
    with pytest.raises(ConfigError, match=match):  # before a training begins
        train(build(Experiment, table), out=tmp_path / "new")
    assert not (tmp_path / "new").exists()
    del table["methods"]["anofpdm"]
    (path / "experiment.toml").write_text(write_toml(table), encoding="utf-8")
    run = Run.open(path)
    run.method("cdm")
    with pytest.raises(ConfigError, match=match) as raised:  # by who asks for it later
        run.method("anofpdm")
    assert str(raised.value).startswith(str(path))
