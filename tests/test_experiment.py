from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tagmask.config import build
from tagmask.datasets.presets import PRESETS
from tagmask.datasets.registry import DATASETS
from tagmask.errors import ConfigError
from tagmask.experiment import DataSettings, Experiment, load_experiment
from tagmask.masks import MaskSettings
from tagmask.methods import METHODS, settings_of
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.head import HeadSettings
from tagmask.networks.kinds import NETWORKS
from tagmask.networks.segmenter import Segmenter
from tagmask.train_settings import TrainPlan, TrainSettings
from tests import toys

ROOT = Path(__file__).parents[1]
SHIPPED = sorted(p for p in (ROOT / "experiments").rglob("*.toml") if p.parent.name != "bench")


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_a_shipped_experiment_loads_builds_and_round_trips(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    names = experiment.networks()
    assert names
    sizes = {getattr(experiment, name).size for name in names}
    assert len(sizes) == 1  # one prepared folder serves all
    for name in names:
        settings = getattr(experiment, name)
        if isinstance(settings, HeadSettings):  # whose backbone knows how many channels it has
            settings = dataclasses.replace(settings, feature_channels=(48,) * len(settings.features.blocks))
        with torch.device("meta"):
            assert parameters(NETWORKS[name].module(settings)) > 10_000
    for method in experiment.methods:
        settings = settings_of(method, experiment.settings_table(method))
        assert set(METHODS[method].needs_of(settings)) <= set(names)
        level = getattr(settings, "noise_level", 1)
        assert level <= experiment.schedule.steps
    again = tmp_path / "again.toml"
    again.write_text(experiment.to_toml(), encoding="utf-8")
    assert load_experiment(again) == experiment
    text = path.read_text(encoding="utf-8")
    assert "tagmask prepare" in text and f"experiments/{path.relative_to(ROOT / 'experiments')}" in text


def test_there_are_experiments_of_the_papers() -> None:
    assert {"cdm-brats", "cdm-chaos", "anofpdm-brats", "anofpdm-atlas", "unet-31m"} <= {
        p.stem for p in SHIPPED if p.parent.name == "papers"
    }


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_data_is_prepared_where_their_experiments_look(name: str) -> None:
    """In the file's own header and in docs/datasets.md; a network of that size and of as many channels."""
    path = ROOT / "experiments" / "papers" / f"{name}.toml"
    experiment, preset = load_experiment(path), PRESETS[name]
    for text in (
        path.read_text(encoding="utf-8"),
        (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8"),
    ):
        assert f"-o {experiment.data.prepared} --preset {name}" in text
    modalities = preset.modalities or DATASETS[preset.dataset].modalities
    assert experiment.denoiser is not None
    shape = experiment.denoiser.size, experiment.denoiser.channels
    assert shape == (preset.slices["size"], len(modalities))


@pytest.mark.parametrize(("name", "size"), [("cdm-brats", 224), ("cdm-chaos", 128)])
def test_the_papers_networks_have_the_papers_size(name: str, size: int) -> None:
    settings = load_experiment(ROOT / "experiments" / "papers" / f"{name}.toml").denoiser
    assert settings is not None and (settings.size, settings.null_row) == (size, False)
    with torch.device("meta"):
        ours = parameters(Denoiser(settings))
        published = dataclasses.replace(settings, channels=3, attention=())
        theirs = parameters(Denoiser(published))
    assert ours > 1e8
    if name == "cdm-brats":  # the published network is for RGB and attends in the middle alone
        assert theirs == 149_587_334 < ours


@pytest.mark.parametrize(("channels", "count"), [(1, 31_036_481), (3, 31_037_633)])
def test_the_papers_unet_has_31_million_parameters(channels: int, count: int) -> None:
    experiment = load_experiment(
        ROOT / "experiments" / "papers" / "unet-31m.toml", [f"segmenter.channels={channels}"]
    )
    with torch.device("meta"):
        assert parameters(Segmenter(experiment.segmenter)) == count  # type: ignore[arg-type]
    assert list(experiment.methods) == ["unet"]
    assert (experiment.mask.rule, experiment.mask.value) == ("fixed", 0.5)


def test_every_setting_survives_the_round_trip(tmp_path: Path) -> None:
    path = toys.write_experiment(tmp_path / "toy.toml", tmp_path)
    first = load_experiment(
        path,
        [
            *("train.denoiser.noise_band=[2, 9]", "train.denoiser.band_share=0.5", "schedule.steps=500"),
            *("mask.rule=quantile", "mask.value=0.9", "segmenter.widths=[8, 16]", "segmenter.size=16"),
            "cnn.widths=[8, 16]",
            "cnn.blocks=[1, 3]",
            'data.prepared=odd "name"/with ü and \\',
            *("denoiser.head_channels=16", "train.denoiser.learning_rate=1e-7"),
            *("methods.cdm.mask.rule=fixed", "methods.cdm.mask.value=2.5"),
        ],
    )
    (tmp_path / "again.toml").write_text(first.to_toml(), encoding="utf-8")
    second = load_experiment(tmp_path / "again.toml")
    assert second == first and second.to_toml() == first.to_toml()
    assert second.networks() == ("denoiser", "classifier", "cnn", "segmenter")
    assert second.data.prepared == Path('odd "name"/with ü and \\')
    assert (second.train.denoiser.noise_band, second.mask.value) == ((2, 9), 0.9)
    assert (second.mask_of("cdm").value, second.mask_of("cg_cdm").value) == (2.5, 0.9)
    assert list(second.methods) == ["cdm", "cg_cdm"]  # the first is the default
    # Defaults are written out: a later version that changes one does not change this run.
    assert "label_dropout = 0.1" in first.to_toml() and "percentiles" not in first.to_toml()


def test_every_network_has_its_tables() -> None:
    for name, kind in NETWORKS.items():
        assert build(Experiment, {"data": {"prepared": "p"}}).networks() == ()
        assert {f.name: f.default for f in dataclasses.fields(TrainPlan)}[name] == TrainSettings()
        assert (
            f"{kind.settings.__name__} | None"
            == {f.name: f.type for f in dataclasses.fields(Experiment)}[name]
        )


def test_a_table_that_is_absent_is_a_network_that_is_not_trained() -> None:
    experiment = build(Experiment, {"data": {"prepared": "p"}, "classifier": {"size": 16}})
    assert experiment.networks() == ("classifier",)
    assert Experiment(DataSettings(Path("p"))).networks() == ()


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"steps": 0}, "steps >= 1"),
        ({"batch": 0}, "batch >= 1"),
        ({"micro_batch": 0}, "micro_batch >= 1"),
        ({"learning_rate": 0.0}, "learning_rate > 0"),
        ({"learning_rate": float("nan")}, "learning_rate > 0"),
        ({"ema": 1.0}, "0 <= ema < 1"),
        ({"ema": -0.1}, "0 <= ema < 1"),
        ({"label_dropout": 1.0}, "0 <= label_dropout < 1"),
        ({"band_share": 1.5, "noise_band": (1, 2)}, "0 <= band_share <= 1"),
        ({"noise_band": (0, 5)}, "1 <= lo <= hi"),
        ({"noise_band": (6, 5)}, "1 <= lo <= hi"),
        ({"band_share": 0.5}, "noise_band is given"),
        ({"log_every": 0}, "log_every >= 1"),
        ({"checkpoint_every": 0}, "checkpoint_every >= 1"),
    ],
)
def test_train_settings_out_of_range_are_refused(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TrainSettings(**changes)
    assert rule in str(raised.value)
    name, value = next(iter(changes.items()))
    assert f"{name} = " in str(raised.value) and str(value).strip("()") in str(raised.value)
    assert "momentum = " not in str(raised.value), "what the rule does not name is left out"


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 1, "batch": 1, "micro_batch": 1},
        {"ema": 0.0, "label_dropout": 0.0},
        {"noise_band": (5, 5), "band_share": 1.0},
        {"noise_band": (1, 1000)},
        {"snapshot_every": 0, "sample_every": 0, "clip_gradient": 0.0, "warmup": 0},
    ],
)
def test_train_settings_at_the_edge_are_fine(changes: dict[str, Any]) -> None:
    made = TrainSettings(**changes)
    assert all(getattr(made, name) == value for name, value in changes.items())


def test_a_band_beyond_the_schedule_is_refused() -> None:
    plan = TrainPlan(classifier=TrainSettings(noise_band=(1, 1001)))
    with pytest.raises(ConfigError, match="1000 steps"):
        Experiment(DataSettings(Path("p")), train=plan)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("methods.cmd.stages=5", ["unknown method 'cmd'", "cdm, cg_cdm"]),
        ("methods.cdm.stage=5", ["stage", "stages"]),
        ("methods.cdm.stages=0", ["stages = 0"]),
        ("methods.cdm.mask.medain=3", ["[methods.cdm.mask]", "medain", "Did you mean median"]),
        ("methods.cdm.mask.median=2", ["[methods.cdm.mask]", "mask.median", "odd"]),
        ("methods.cdm.mask=3", ["[methods.cdm]", "mask = 3", "table"]),
        ("denoiser.widht=[8]", ["denoiser.widht", "denoiser.widths"]),
        ("train.denoisr.steps=3", ["train.denoisr", "train.denoiser"]),
        ("trian.denoiser.steps=3", ["trian", "train"]),
        ('train.denoiser.steps="many"', ["train.denoiser.steps", "many"]),
        ('train.denoiser.precision="fp8"', ["precision", "fp8"]),
        ("data=3", ["data"]),
        ("mask.rule=quantile", ["mask.value"]),
    ],
)
def test_a_bad_key_is_named_with_its_file(override: str, words: list[str], tmp_path: Path) -> None:
    path = toys.write_experiment(tmp_path / "toy.toml", tmp_path)
    with pytest.raises(ConfigError) as raised:
        load_experiment(path, [override])
    assert all(
        word in str(raised.value) for word in [*words, *(["toy.toml"] if "methods" not in override else [])]
    )


def masks(table: dict[str, Any], method: dict[str, Any]) -> Experiment:
    return build(Experiment, {"data": {"prepared": "p"}, "mask": table, "methods": {"cdm": {"mask": method}}})


def test_a_methods_masks_lie_over_those_of_all() -> None:
    made = masks({"rule": "quantile", "value": 0.9, "median": 3}, {"median": 5, "min_area": 4})
    assert made.mask_of("cdm") == MaskSettings("quantile", 0.9, median=5, min_area=4)
    assert made.mask_of("cdm", {"median": 7}).median == 7
    assert made.mask_of("cg_cdm") == made.mask == MaskSettings("quantile", 0.9, median=3)
    assert made.settings_table("cdm") == {} == made.settings_table("unet")


def test_a_value_goes_with_the_rule_it_belongs_to() -> None:
    quantile = {"rule": "quantile", "value": 0.9}
    assert masks(quantile, {"rule": "otsu"}).mask_of("cdm") == MaskSettings()
    assert masks({}, quantile).mask_of("cdm", {"rule": "otsu"}) == MaskSettings()
    assert masks(quantile, {"rule": "quantile"}).mask_of("cdm").value == 0.9
    assert masks(quantile, {"value": 0.8}).mask_of("cdm").value == 0.8
    with pytest.raises(ConfigError, match="needs one"):
        masks(quantile, {"rule": "fixed"})  # the share is no threshold


def test_an_override_of_the_mask_is_for_every_method(tmp_path: Path) -> None:
    path = toys.write_experiment(tmp_path / "toy.toml", tmp_path)
    text = path.read_text() + '[methods.cdm.mask]\nrule = "fixed"\nvalue = 2.0\nmedian = 5\n'
    path.write_text(text)
    assert load_experiment(path, ["mask.median=3"]).mask_of("cdm") == MaskSettings("fixed", 2.0, median=3)
    assert load_experiment(path, ["mask.rule=otsu"]).mask_of("cdm") == MaskSettings(median=5)
    both = load_experiment(path, ["mask.median=3", "methods.cdm.mask.median=7"])
    assert (both.mask_of("cdm").median, both.mask_of("cg_cdm").median) == (7, 3)


def test_the_data_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "e.toml").write_text("[denoiser]\nsize = 16\n")
    with pytest.raises(ConfigError, match=r"e\.toml.*data"):
        load_experiment(tmp_path / "e.toml")


def test_the_defaults_are_sound() -> None:
    for settings in (TrainSettings, TrainPlan, DenoiserSettings):
        settings()
    for recipe in METHODS.values():
        recipe.settings()
