from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmask.config import write_toml
from tagmask.errors import ConfigError, RunError, SecurityError, TagmaskError
from tagmask.masks import MaskSettings
from tagmask.methods import METHODS
from tagmask.networks import weights
from tagmask.runs import Run
from tests.random_run import ALL, SLICES, TRAINING, network, write_run


@pytest.fixture(scope="module")
def all_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that can do every method. Read only."""
    return write_run(tmp_path_factory.mktemp("random") / "run", networks=ALL)


@pytest.fixture
def run(all_networks: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    return Path(shutil.copytree(all_networks, tmp_path / "run"))


def same(a: torch.nn.Module | None, b: torch.nn.Module | None) -> bool:
    assert a is not None and b is not None
    return all(
        torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_an_open_run_has_everything(all_networks: Path) -> None:
    run = Run.open(all_networks)
    for name in ALL:
        made = run.network(name)
        assert same(made, network(name)) and not made.training
        assert not any(p.requires_grad for p in made.parameters())
    assert run.slices == SLICES
    assert (run.snapshot, run.method_name(), run.method_name("unet")) == (None, "cdm", "unet")


def test_a_trained_run_knows_its_slices_and_its_data(trained: Path, prepared: Path) -> None:
    run = Run.open(trained)
    assert run.slices == SLICES
    assert run.environment["data"] == json.loads((prepared / "fingerprint.json").read_text())["fingerprint"]
    assert run.experiment.data.prepared == prepared


def test_each_method_takes_its_settings_from_the_run(all_networks: Path) -> None:
    run = Run.open(all_networks, overrides=["methods.cg_cdm.scale=7.0", "methods.cdm.stages=3"])
    made: dict[str, Any] = {name: run.method(name) for name in METHODS if name not in TRAINING}
    assert (made["cg_cdm"].settings.scale, made["cdm"].settings.stages, made["cg_cdm"].settings.stages) == (
        7,
        3,
        2,
    )
    assert made["cdm"].classifier is None and made["cg_cdm"].classifier is run.network("classifier")
    changed: Any = run.method("cdm", stages=5)
    assert (changed.settings.stages, changed.settings.noise_level) == (5, 300)


# folders that are no runs


def test_a_folder_that_is_not_there_or_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "nowhere", tmp_path / "scans", tmp_path / "file"):
        with pytest.raises(RunError, match=r"no experiment\.toml.*tagmask train") as raised:
            Run.open(path)
        assert str(raised.value).startswith(str(path))


@pytest.mark.parametrize("name", ["experiment.toml", "tuned.toml"])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[data\n", "cannot be read as TOML"),
        (b"\xff\xfe\x00", "cannot be read as TOML"),
        (b"[dta]\n", "unknown key dta"),
        (b"[methods.cdm]\nnoise_level = -5\n", "noise_level = -5"),
        (b"[methods.cdm]\nnoise = 5\n", "unknown key noise"),
    ],
)
def test_a_damaged_settings_file_is_named(name: str, text: bytes, message: str, run: Path) -> None:
    if name == "experiment.toml" and b"methods" in text:
        text = b'[data]\nprepared = "p"\n' + text
    (run / name).write_bytes(text)
    with pytest.raises(ConfigError, match=message) as raised:
        Run.open(run)
    assert name in str(raised.value) or "methods" in str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        *(None, b"", b"[1, 2]", b"{", b"\xff", b"[" * 100_000),
        *(b'{"slices": 5}', b'{"versions": {}}', b'{"slices": {"size": 0}}'),
    ],
)
def test_a_run_that_does_not_say_how_slices_were_cut(content: bytes | None, run: Path) -> None:
    path = run / "environment.json"
    path.unlink() if content is None else path.write_bytes(content)
    opened = Run.open(run)
    with pytest.raises(TagmaskError, match=r"environment\.json|slices\.size"):
        _ = opened.slices


# weights


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_network_is_refused_by_name(method: str, run: Path) -> None:
    need = Run.open(run).needs(method)[-1]
    (run / "weights" / f"{need}.safetensors").unlink()
    opened = Run.open(run, overrides=TRAINING.get(method, ()))
    with pytest.raises(RunError, match=f"no weights of the {need} that {method} needs") as raised:
        opened.method(method)
    assert str(run) in str(raised.value) and f"[{need}]" in str(raised.value)
    for other in METHODS:
        if need not in opened.needs(other):
            Run.open(run, overrides=TRAINING.get(other, ())).method(other)


def test_damaged_foreign_and_pickled_weights(run: Path) -> None:
    path = run / "weights" / "denoiser.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(RunError, match="whole safetensors"):
        Run.open(run).method()
    shutil.copy(run / "weights" / "classifier.safetensors", path)
    with pytest.raises(RunError, match="holds a classifier"):
        Run.open(run).method()
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(SecurityError, match="zip archive"):
        Run.open(run).method()


def test_unknown_methods_and_settings(run: Path) -> None:
    opened = Run.open(run)
    with pytest.raises(ConfigError, match=r"unknown method 'nn'.*cdm, cg_cdm, .*unet"):
        opened.method("nn")
    with pytest.raises(ConfigError, match="Did you mean stages"):
        opened.method("cdm", stage=3)
    with pytest.raises(ConfigError, match="1000 steps"):
        opened.method("cdm", noise_level=1001)
    with pytest.raises(ConfigError, match="unknown key"):
        Run.open(run, overrides=["methods.cdm.foo=1"])


# snapshots


def keep(run: Path, name: str, *steps: int) -> None:
    for step in steps:
        weights.save(
            run / "snapshots" / f"{name}-{step:06d}.safetensors", network(name, seed=step), {"step": step}
        )


def test_a_snapshot_is_used_where_there_is_one(run: Path) -> None:
    keep(run, "denoiser", 10, 20)
    for step in (10, 20):
        opened = Run.open(run, snapshot=step)
        assert opened.weights_path("denoiser") == run / "snapshots" / f"denoiser-{step:06d}.safetensors"
        assert same(opened.network("denoiser"), network("denoiser", seed=step))
        # What kept no snapshots is as it was at the end.
        assert opened.weights_path("classifier") == run / "weights" / "classifier.safetensors"
        assert same(opened.network("classifier"), network("classifier"))
    assert same(Run.open(run).network("denoiser"), network("denoiser"))
    assert Run.open(run).snapshots("denoiser") == [10, 20]


def test_a_network_of_fewer_steps_gives_its_last_weights(run: Path) -> None:
    keep(run, "denoiser", 10, 20, 30)
    keep(run, "classifier", 10, 15)
    opened = Run.open(run, snapshot=20)
    assert opened.weights_path("classifier") == run / "weights" / "classifier.safetensors"
    assert same(Run.open(run, snapshot=10).network("classifier"), network("classifier", seed=10))


@pytest.mark.parametrize("step", [0, 11, 40, -1])
def test_a_snapshot_that_was_not_kept_is_refused_with_those_that_were(step: int, run: Path) -> None:
    keep(run, "denoiser", 10, 20)
    (run / "snapshots" / "denoiser-notes.safetensors").touch()
    with pytest.raises(RunError, match=rf"after {step} steps.*denoiser: 10, 20"):
        Run.open(run, snapshot=step)


def test_a_run_without_snapshots_says_so(run: Path) -> None:
    with pytest.raises(RunError, match=r"Kept are: none.*snapshot_every"):
        Run.open(run, snapshot=10)


def test_last_weights_do_not_pass_for_a_snapshot(run: Path) -> None:
    """The classifier was kept after 5 steps, the denoiser was not: its last weights are something else."""
    keep(run, "denoiser", 10)
    keep(run, "classifier", 5, 10)
    opened = Run.open(run, snapshot=5)
    for ask in (lambda: opened.network("denoiser"), lambda: opened.method("cg_cdm")):
        with pytest.raises(RunError, match="after 5 steps"):
            ask()
    # and a method that has no use for it is not concerned
    made: Any = opened.method("layer_cam", network="classifier")
    assert same(made.network, network("classifier", seed=5))


# tuned settings


def test_tuned_settings_win_and_overrides_win_over_them(run: Path) -> None:
    tuned = {"methods": {"cdm": {"noise_level": 200}, "cg_cdm": {"scale": 4.0}}}
    (run / "tuned.toml").write_text(write_toml(tuned))
    opened = Run.open(run)
    assert opened.experiment.methods["cdm"] == {"noise_level": 200, "stages": 2, "tau": 0.0}
    assert opened.experiment.methods["cg_cdm"] == {"noise_level": 300, "stages": 2, "tau": 0.0, "scale": 4.0}
    assert Run.open(run, tuned=False).experiment.methods["cdm"]["noise_level"] == 300
    over = Run.open(run, overrides=["methods.cdm.noise_level=50"])
    assert over.experiment.methods["cdm"]["noise_level"] == 50
    assert over.experiment.methods["cg_cdm"]["scale"] == 4.0
    assert next(iter(opened.experiment.methods)) == "cdm"


def test_tuned_masks_belong_to_their_method(run: Path) -> None:
    before = (run / "experiment.toml").read_text()
    (run / "experiment.toml").write_text(
        f'{before}[methods.cdm.mask]\nrule = "fixed"\nvalue = 2.0\nerode = 0\n'
    )
    tuned = {"methods": {"cdm": {"mask": {"rule": "otsu", "median": 5}}}, "mask": {"min_area": 7}}
    (run / "tuned.toml").write_text(write_toml(tuned))  # [mask], as older versions wrote it, is for all
    opened = Run.open(run).experiment
    assert opened.mask_of("cdm") == MaskSettings("otsu", median=5, min_area=7)
    assert opened.mask_of("cg_cdm") == MaskSettings(min_area=7)
    assert Run.open(run, overrides=["mask.median=1"]).experiment.mask_of("cdm").median == 1
    (run / "tuned.toml").write_text("[methods.cdm.mask]\nmedain = 5\n")
    with pytest.raises(ConfigError, match=r"tuned\.toml.*medain.*Did you mean median"):
        Run.open(run)


def test_an_open_run_is_taken_as_it_is(run: Path) -> None:
    opened = Run.open(run)
    assert Run.of(opened) is opened
    assert Run.of(str(run)).path == run
    assert Run.of(run, overrides=["mask.median=3"]).experiment.mask.median == 3
    with pytest.raises(ConfigError, match="open already"):
        Run.of(opened, overrides=["mask.median=3"])
