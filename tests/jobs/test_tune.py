from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tagmask.cli import main
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, RunError
from tagmask.jobs.prepare import prepare
from tagmask.jobs.segment import segment
from tagmask.jobs.tune import tune
from tagmask.masks import MaskSettings, binarise, separation
from tagmask.methods import METHODS, Recipe
from tagmask.methods.cdm import CDM
from tagmask.runs import Run
from tagmask.runs.chosen import VAL_MASKS
from tagmask.types import Batch, Choice, Prediction
from tests import toys
from tests.random_run import SLICES, write_run


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", prepared=prepared)


def clouded(image: torch.Tensor, share: float) -> torch.Tensor:
    """Hide the picture behind noise."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return (1 - share) * image + share * noise


@pytest.fixture
def hazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put methods in place that score grey values through a haze, which is the thicker the higher the noise level."""

    class Hazy:
        def __init__(self, level: int) -> None:
            self.level = level

        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            return Prediction(clouded(batch.image, self.level / 1000))

    monkeypatch.setattr(Run, "method", lambda self, name, device, **s: Hazy(s.get("noise_level", 5)))


def table_of(run: Path, method: str = "cdm") -> list[dict[str, str]]:
    with (run / f"tune-{method}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("levels", [[900, 5, 700], [5, 900, 700], [900, 700, 5]])
def test_the_setting_with_the_largest_auc_is_chosen(
    levels: list[int], run: Path, prepared: Path, hazy: None
) -> None:
    seen: list[tuple[int, int]] = []
    result = tune(run, grid={"noise_level": levels}, report=lambda *count: seen.append(count))
    assert result.best == {"noise_level": 5}
    assert (result.method, result.slices, seen) == ("cdm", 8, [(1, 3), (2, 3), (3, 3)])

    data = Prepared.open(prepared)
    batch = data.batch(data.split_indices("val"))
    assert batch.label is not None
    for candidate, level in zip(result.candidates, levels, strict=True):
        binary = binarise(clouded(batch.image, level / 1000), batch.image, MaskSettings())
        expected = roc_auc_score(batch.label.numpy(), separation(binary).numpy())
        assert candidate == {"noise_level": level, "auc": pytest.approx(expected, abs=1e-6)}
    aucs = {c["noise_level"]: c["auc"] for c in result.candidates}
    assert aucs[5] == 1.0 > max(aucs[700], aucs[900])

    chosen = [line for line in str(result).splitlines() if "chosen" in line]
    assert len(chosen) == 1 and "noise_level = 5" in chosen[0]
    assert [(row["noise_level"], float(row["auc"])) for row in table_of(run)] == [
        (str(level), pytest.approx(aucs[level])) for level in levels
    ]


def test_what_was_chosen_is_used_from_then_on(run: Path, cohort: Path, tmp_path: Path) -> None:
    before = (run / "experiment.toml").read_bytes()
    result = tune(run, grid={"noise_level": [100, 200], "stages": [1, 3]})
    assert len(result.candidates) == 4 and len({c["auc"] for c in result.candidates}) > 1
    top = max(result.candidates, key=lambda c: float(c["auc"]))
    assert result.best == {k: v for k, v in top.items() if k != "auc"}

    assert (run / "experiment.toml").read_bytes() == before
    assert "reads tags only" in (run / "tuned.toml").read_text()
    made: Any = Run.open(run).method("cdm")
    assert {k: getattr(made.settings, k) for k in result.best} == result.best
    assert made.settings.tau == 0.0  # of the experiment, as before
    done = segment(run, [cohort / "test"], out=tmp_path / "out")
    settings = json.loads((done.out / "manifest.json").read_text())["settings"]["method"]
    assert result.best.items() <= settings.items()


@pytest.mark.parametrize("asked", ["grid", "set"])
def test_members_that_were_not_chosen_are_not_used(
    asked: str, run: Path, cohort: Path, tmp_path: Path
) -> None:
    """What is judged must be what is used: a combination chosen without a member of the experiment has none of it."""
    cdm = {"noise_level": 50, "stages": 1, "tau": 0.0}
    both = "[methods.combined.members.cdm]\nnoise_level = 70\ndraws = 2\n[methods.combined.members.cg_cdm]\n"
    with (run / "experiment.toml").open("a") as file:
        file.write(both)
    chosen = {"cdm": cdm}
    if asked == "grid":
        tune(run, grid={"members": [chosen], "flips": [False]}, method="combined", limit=2)
    else:
        inline = "methods.combined.members={cdm={noise_level=50,stages=1,tau=0.0}}"
        tune(run, grid={"flips": [False]}, method="combined", overrides=[inline], limit=2)
    assert Run.open(run).settings("combined").members == chosen
    done = segment(run, [cohort / "test"], out=tmp_path / "out", method="combined", device="cpu")
    used = json.loads((done.out / "manifest.json").read_text())["settings"]["method"]
    assert used["members"] == chosen


def test_two_methods_settings_coexist(run: Path) -> None:
    tune(run, grid={"noise_level": [100]})
    tune(run, grid={"scale": [7.0], "stages": [1]}, method="cg_cdm")
    tune(run, grid={"stages": [1]}, method="cdm")
    methods = Run.open(run).experiment.methods
    assert methods["cdm"] == {"noise_level": 100, "stages": 1, "tau": 0.0}
    assert methods["cg_cdm"] == {"noise_level": 300, "stages": 1, "tau": 0.0, "scale": 7.0}
    assert Run.open(run).method_name() == "cdm"
    assert table_of(run, "cdm") and table_of(run, "cg_cdm")


def test_settings_of_the_mask_are_tuned_beside_those_of_the_method(run: Path, hazy: None) -> None:
    grid = {"mask.median": [1, 3], "noise_level": [700, 5], "mask.rule": ["otsu"]}
    result = tune(run, grid=grid)
    tried = [(c["noise_level"], c["mask.median"]) for c in result.candidates]
    assert sorted(tried) == [(5, 1), (5, 3), (700, 1), (700, 3)]
    assert result.best["noise_level"] == 5 and result.best.keys() == grid.keys()
    experiment = Run.open(run).experiment
    assert experiment.mask_of("cdm").median == result.best["mask.median"]
    assert experiment.settings_table("cdm") == {"noise_level": 5, "stages": 2, "tau": 0.0}
    tune(run, grid={"mask.median": [5]}, method="cg_cdm")  # a grid of masks alone will do
    tune(run, grid={"mask.min_area": [9]}, method="cg_cdm")
    experiment = Run.open(run).experiment
    assert experiment.mask_of("cg_cdm") == MaskSettings(median=5, min_area=9)
    assert experiment.mask_of("cdm").median == result.best["mask.median"]  # each method has its own
    assert experiment.mask == MaskSettings()
    assert experiment.settings_table("cdm")["noise_level"] == 5


def test_masks_tuned_for_all_by_an_older_version_stay(run: Path, hazy: None) -> None:
    (run / "tuned.toml").write_text('[mask]\nrule = "quantile"\nvalue = 0.9\nmedian = 3\n')
    tune(run, grid={"mask.rule": ["otsu"]})
    experiment = Run.open(run).experiment
    assert experiment.mask == experiment.mask_of("cg_cdm") == MaskSettings("quantile", 0.9, median=3)
    assert experiment.mask_of("cdm") == MaskSettings("otsu", median=3)


def test_segment_uses_the_masks_of_its_method(run: Path, cohort: Path, tmp_path: Path) -> None:
    tune(run, grid={"mask.rule": ["fixed"], "mask.value": [1e9]}, method="cg_cdm")
    for method, rule in (("cdm", "otsu"), ("cg_cdm", "fixed")):
        done = segment(run, [cohort / "test"], out=tmp_path / method, method=method, tags="none")
        assert json.loads((done.out / "manifest.json").read_text())["settings"]["mask"]["rule"] == rule
        with (done.out / "slices.csv").open(newline="") as file:
            empty = {row["mask_pixels"] == "0" for row in csv.DictReader(file)}
        assert empty == {rule == "fixed"}


def test_the_methods_own_threshold_is_a_rule_to_be_tried(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Low:
        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            return Prediction(batch.image, threshold=torch.full((len(batch),), -9.0))

    monkeypatch.setattr(Run, "method", lambda *_, **__: Low())
    aucs = {c["mask.rule"]: c["auc"] for c in tune(run, grid={"mask.rule": ["method", "otsu"]}).candidates}
    assert aucs["method"] == 0.5 < aucs["otsu"]  # all of every slice is above -9, which separates nothing


@dataclass(frozen=True)
class ToySettings:
    strength: float = 1.0
    peaks: tuple[float, ...] = ()
    start: int = 7
    curve: tuple[str, str] | None = None
    ones: int = 0
    draw: int = 0


@dataclass(frozen=True)
class Toy:
    """A method with a rule of its own: it looks at every slice twice."""

    settings: ToySettings

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        return Prediction(self.settings.strength * batch.image)

    def choose(self, batches: Iterable[Batch], seed: int) -> Choice:
        bright = torch.cat([batch.image.amax(dim=(1, 2, 3)) for batch in batches])
        tags = torch.cat([cast(torch.Tensor, batch.label) for batch in batches])
        assert self.settings.strength == 2.0, "that of the run"
        start = self.settings.start
        candidates = [{"strength": s, "accuracy": float(s == 0.5)} for s in (0.25, 0.5)]
        chosen = {"strength": 0.5, "peaks": (float(bright[tags == 1].max()), 3.0)}
        if seed:
            chosen["ones"], chosen["draw"] = int(tags.sum()), seed
        return Choice(chosen, tuple(candidates), -abs(start - 5), self.settings.curve)


@pytest.fixture
def toy(run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    recipe = Recipe(ToySettings, ("denoiser",), lambda _, s: Toy(s), choose=Toy.choose)
    monkeypatch.setitem(cast(dict[str, Recipe], METHODS), "toy", recipe)
    experiment = run / "experiment.toml"
    experiment.write_text(experiment.read_text() + "\n[methods.toy]\nstrength = 2.0\nstart = 3\n")
    return run


def test_a_rule_that_was_chosen_does_not_keep_the_value_of_the_one_before(run: Path, hazy: None) -> None:
    with (run / "experiment.toml").open("a") as file:
        file.write('\n[methods.cdm.mask]\nrule = "peak"\nvalue = 0.2\n')
    tune(run, grid={"mask.rule": ["otsu"], "noise_level": [5]}, method="cdm")
    mask = Run.open(run).experiment.mask_of("cdm")
    assert (mask.rule, mask.value) == ("otsu", None)


def test_a_method_may_choose_by_itself(toy: Path, prepared: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = tune(toy, method="toy", report=lambda *count: seen.append(count))
    data = Prepared.open(prepared)
    batch = data.batch(data.split_indices("val"))
    peak = float(batch.image[batch.label == 1].max())
    assert result.best == {"strength": 0.5, "peaks": (peak, 3.0)}
    assert (result.slices, set(seen)) == (8, {(8, 8)})
    made: Any = Run.open(toy).method("toy")
    assert made.settings == ToySettings(strength=0.5, peaks=(peak, 3.0), start=3)
    assert table_of(toy, "toy") == [
        {"strength": "0.25", "accuracy": "0.0"},
        {"strength": "0.5", "accuracy": "1.0"},
    ]
    text = str(result)
    assert "strength = 0.25, accuracy = 0.0\n" in text and text.splitlines()[-1].startswith(
        "  chosen: strength"
    )
    assert "reads tags only" in (toy / "tuned.toml").read_text()


def test_a_method_that_chooses_by_itself_sees_tags_as_often_as_they_come(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accuracy depends on how many slices there are of each tag; an area under the curve does not."""
    data = Prepared.open(Run.open(toy).experiment.data.prepared)
    rows, rare = data.split_indices("val"), data.labels.copy()
    rare[rows[data.labels[rows] == 1][1::2]] = 0
    monkeypatch.setattr(Prepared, "open", staticmethod(lambda path: replace(data, labels=rare)))
    share = rare[rows].mean()
    assert 0 < share < 0.5
    again: dict[str, Any] = {
        "method": "toy",
        "overrides": ["methods.toy.strength=2.0"],
    }  # what was tuned before is the start
    whole = tune(toy, seed=1, **again)
    assert (whole.best["ones"], whole.best["draw"]) == (round(share * len(rows)), 1)
    seen = [tune(toy, seed=seed, limit=6, **again) for seed in range(1, 9)]
    assert {result.slices for result in seen} == {6}
    assert np.mean([result.best["ones"] for result in seen]) == pytest.approx(6 * share, abs=0.7)
    assert [result.best["draw"] for result in seen] == list(range(1, 9))
    assert tune(toy, grid={"strength": [4.0]}, method="toy", limit=2).slices == 4, "two of either tag"


def test_how_candidates_were_judged_is_drawn_and_an_old_figure_goes(toy: Path) -> None:
    figures = [toy / "tune-toy.png", toy / "tune-toy.svg"]
    tune(
        toy,
        method="toy",
        own=True,
        grid={"start": [1, 4]},
        overrides=['methods.toy.curve=["strength", "accuracy"]'],
    )
    assert figures[0].read_bytes().startswith(b"\x89PNG")
    text = figures[1].read_text()
    assert all(says in text for says in ("start = 1", "start = 4", "strength", "accuracy by tags"))
    tune(toy, method="toy", grid={"start": [1]})
    assert not any(path.exists() for path in figures)


def test_a_grid_goes_before_the_methods_own_rule(toy: Path) -> None:
    result = tune(toy, method="toy", grid={"strength": [4.0]})
    assert result.best == {"strength": 4.0} and "auc" in result.candidates[0]


def test_a_method_chooses_by_itself_under_each_setting_of_a_grid(toy: Path) -> None:
    result = tune(toy, method="toy", own=True, grid={"start": [1, 6, 4, 9]})
    assert {key: result.best[key] for key in ("start", "strength")} == {"start": 6, "strength": 0.5}
    assert [(c["start"], c["strength"]) for c in result.candidates] == [
        (start, strength) for start in (1, 6, 4, 9) for strength in (0.25, 0.5)
    ]
    made: Any = Run.open(toy).method("toy")
    assert (made.settings.start, made.settings.strength) == (6, 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {"mask.median": [1, 3]}}, "mask.median is not one of them"),
        ({"grid": {"start": []}}, "nothing to try"),
        ({"grid": {"stages": [1]}, "method": "cdm"}, "cdm has no rule of its own"),
    ],
)
def test_a_choice_of_its_own_has_its_limits(toy: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(toy, **{"method": "toy", "own": True, **options})
    assert not list(toy.glob("tune-*")) and not (toy / "tuned.toml").exists()


def test_a_choice_that_is_no_setting_is_not_written(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        cast(dict[str, Recipe], METHODS),
        "toy",
        replace(METHODS["toy"], choose=lambda *_: Choice({"strenght": 1.0}, ())),
    )
    with pytest.raises(ConfigError, match="Did you mean strength"):
        tune(toy, method="toy")
    assert not list(toy.glob("tune-*")) and not (toy / "tuned.toml").exists()


def test_tuning_again_starts_from_what_was_tuned(run: Path) -> None:
    tune(run, grid={"noise_level": [100]})
    tune(run, grid={"stages": [1]}, overrides=["methods.cdm.tau=0.5"])
    made: Any = Run.open(run).method("cdm")
    assert (made.settings.noise_level, made.settings.stages, made.settings.tau) == (100, 1, 0.5)


def test_no_mask_is_needed(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags alone: every mask is unreadable, and whoever asks for one fails."""
    blind = Path(shutil.copytree(cohort, tmp_path / "blind"))
    broken = list((blind / "masks").rglob("*.png"))
    assert broken
    for mask in broken:
        mask.write_bytes(b"unreadable")
    prepare(blind, tmp_path / "prepared", settings=SLICES)
    assert not (tmp_path / "prepared" / "masks.npy").exists()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a mask was asked for")

    for name in (
        "tagmask.io.read_mask",
        "tagmask.io.studies.read_mask",
        "tagmask.data.prepared.Prepared.open_masks",
    ):
        monkeypatch.setattr(name, fail)
    run = write_run(tmp_path / "run", prepared=tmp_path / "prepared")
    assert tune(run, grid={"stages": [1, 2]}).slices == 8


def test_few_slices_of_either_tag_by_seed(run: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, ...]] = []

    class Flat:
        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            assert batch.label is not None
            assert sorted(batch.label.tolist()) == [0] * (len(batch) // 2) + [1] * (len(batch) // 2)
            seen.append(batch.ids)
            return Prediction(torch.zeros_like(batch.image))

    monkeypatch.setattr(Run, "method", lambda *_, **__: Flat())
    assert tune(run, grid={"stages": [1]}, limit=100).slices == 8
    for seed in (0, 0, 1, 2, 3):
        assert tune(run, grid={"stages": [1]}, limit=2, seed=seed).slices == 4
    whole, first, again, *others = seen
    assert len(whole) == 8 and len(first) == 4 and set(first) < set(whole)
    assert first == again and any(first != other for other in others)


def test_the_batch_does_not_matter(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, sizes, real = tune(run, grid={"stages": [1, 2]}), set[int](), CDM.predict

    def seen(self: CDM, batch: Batch, seed: int = 0) -> Prediction:
        sizes.add(len(batch))
        return real(self, batch, seed)

    monkeypatch.setattr(CDM, "predict", seen)
    parts = tune(run, grid={"stages": [1, 2]}, batch=3)
    assert sizes == {2, 3}  # eight slices in three batches
    for a, b in zip(whole.candidates, parts.candidates, strict=True):
        assert a["auc"] == pytest.approx(b["auc"], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "test"}, ConfigError, "test split"),
        ({"split": "vla"}, ConfigError, "no split 'vla'"),
        ({"grid": {}}, ConfigError, r"nothing to try, and cdm has no rule of its own.*--grid"),
        ({"grid": None}, ConfigError, "nothing to try"),
        ({"grid": {"stages": []}}, ConfigError, "nothing to try"),
        ({"grid": {"stages": [1], "noise_level": []}}, ConfigError, "nothing to try"),
        ({"grid": {"stage": [1]}}, ConfigError, "Did you mean stages"),
        ({"grid": {"stages": [1, 0]}}, ConfigError, "stages = 0"),
        ({"grid": {"stages": ["one"]}}, ConfigError, "stages = 'one'"),
        ({"grid": {"noise_level": [100, 1001]}}, ConfigError, "1000 steps"),
        ({"method": "cmd"}, ConfigError, "unknown method 'cmd'"),
        ({"method": "unet", "grid": {"mask.median": [1]}}, RunError, "segmenter that unet needs"),
        ({"grid": {"mask.medain": [1]}}, ConfigError, "Did you mean median"),
        ({"grid": {"mask.median": [2]}}, ConfigError, r"mask\.median"),
        ({"grid": {"mask.rule": ["method"]}}, ConfigError, "this method gives none"),
        ({"limit": 0}, ConfigError, "limit = 0"),
        ({"seed": -1, "limit": 2}, ConfigError, r"seed = -1 is not allowed\. Use a whole number from 0"),
        ({"seed": 2**63}, ConfigError, "seed = 9223372036854775808"),
        ({"batch": 0}, ConfigError, "batch = 0"),
        ({"device": "gpu"}, ConfigError, "'gpu' cannot be used"),
        ({"overrides": ["methods.cdm.foo=1"]}, ConfigError, "unknown key"),
        ({"overrides": ['data.prepared="nowhere"']}, InputError, "nowhere"),
    ],
)
def test_what_cannot_be_tuned_is_refused_and_nothing_written(
    options: dict[str, Any], error: type[Exception], message: str, run: Path
) -> None:
    with pytest.raises(error, match=message):
        tune(run, **{"grid": {"stages": [1]}, **options})
    assert not (run / "tuned.toml").exists() and not list(run.glob("tune-*"))


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        (
            "mask=[1]",
            '--grid: mask = [1], but it is a table of settings. Name one, as --grid "mask.median=[1, 3]"',
        ),
        ("mask=otsu", "--grid: mask = otsu, but it is a table of settings"),
        ("noise_level=1979-05-27", "--grid: noise_level = 1979-05-27 is a date"),
        ("[1]", "--grid '[1]' is not of the form"),
        ("mask.value.x=[1]", "value = {'x': [1]}"),
        ("noise_level.x=[1]", "noise_level = {'x': [1]}"),
    ],
)
def test_a_grid_of_another_shape_is_named(
    grid: str, says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["tune", str(run), "--grid", grid])
    message = capsys.readouterr().err
    assert left.value.code == 2 and says in message and "fault" not in message
    assert not (run / "tuned.toml").exists() and not list(run.glob("tune-*"))


def test_one_tag_in_val_is_refused(cohort: Path, tmp_path: Path) -> None:
    one = Path(shutil.copytree(cohort, tmp_path / "one"))
    labels = one / "val" / "labels.csv"
    rows = labels.read_text().splitlines()
    labels.write_text("\n".join([rows[0], *(row for row in rows[1:] if row.split(",")[2] == "0")]) + "\n")
    prepare(one, tmp_path / "prepared", settings=SLICES)
    run = write_run(tmp_path / "run", prepared=tmp_path / "prepared")
    with pytest.raises(InputError, match="no slice with tag 1") as raised:
        tune(run, grid={"stages": [1]})
    assert str(tmp_path / "prepared") in str(raised.value)


def test_an_open_run_will_do(run: Path) -> None:
    assert tune(Run.open(run), grid={"stages": [1]}).best == {"stages": 1}
    with pytest.raises(ConfigError, match="open already"):
        tune(Run.open(run), grid={"stages": [1]}, overrides=["methods.cdm.tau=0.5"])


def test_ties_go_to_the_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat:
        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            return Prediction(torch.zeros_like(batch.image))

    monkeypatch.setattr(Run, "method", lambda *_, **__: Flat())
    result = tune(run, grid={"stages": [2, 1]})
    assert [c["auc"] for c in result.candidates] == [0.5, 0.5]
    assert result.best == {"stages": 2}


def test_a_run_names_the_commands_that_made_it(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagmask.jobs.train import train

    def typed(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["/bin/tagmask", *words])

    typed("prepare", "my scans")
    prepare(cohort, tmp_path / "prepared", settings=SLICES)
    for _ in range(2):  # one that goes on is no other
        typed("train", "e.toml")
        train(toys.write_experiment(tmp_path / "e.toml", tmp_path / "prepared"), out=tmp_path / "run")
    typed("tune", "run")
    tune(
        tmp_path / "run", grid={"noise_level": [2]}, method="cdm", overrides=["methods.cdm.stages=1"], limit=2
    )
    typed("segment", "run")
    segment(tmp_path / "run", [cohort / "test" / "labels.csv"], out=tmp_path / "out", device="cpu")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["commands"] == ["tagmask prepare 'my scans'", "tagmask train e.toml", "tagmask tune run"]
    assert manifest["environment"]["command"] == ["/bin/tagmask", "segment", "run"]


def test_a_run_open_with_what_masks_chose_is_refused(run: Path) -> None:
    (run / VAL_MASKS).write_text('[methods.cdm.mask]\nrule = "fixed"\nvalue = 0.3\n')
    with pytest.raises(ConfigError, match="settings that validation masks chose"):
        tune(Run.open(run, val_masks="cdm"), grid={"noise_level": [150]})
    assert not (run / "tuned.toml").exists()
