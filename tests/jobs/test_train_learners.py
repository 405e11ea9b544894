"""Every mask learner is trained, stopped, resumed and used; with its backbone, its sentences and its encoder."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tagmask.config import plain, write_toml
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, RunError, TagmaskError
from tagmask.io import sha256
from tagmask.jobs.prepare import prepare
from tagmask.jobs.segment import segment
from tagmask.jobs.train import train
from tagmask.networks import weights
from tagmask.networks.checkpoints import read_checkpoint
from tagmask.networks.features import FrozenFeatures
from tagmask.networks.kinds import MASK_LEARNERS
from tagmask.runs import Run
from tagmask.slices import SliceSettings
from tagmask.text import TextEncoder
from tagmask.training.kept_features import shared_features
from tagmask.training.start import begin
from tagmask.training.trainer import Trainer
from tests import random_run, toys
from tests.berts import write_bert

SIZE = 32
SENTENCES = ("The nuclei density in the upper left is high.", "The lungs.")


@pytest.fixture(scope="module")
def told_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toys with a sentence each, but for the last picture of train and the first of test. Read only."""
    folder = toys.write_cohort(tmp_path_factory.mktemp("told") / "cohort")
    for split in ("train", "val", "test"):
        table = folder / split / "labels.csv"
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for i, row in enumerate(rows):
            row["text"] = SENTENCES[int(row["label"])]
            if (split, i) in (("train", len(rows) - 1), ("test", 0)):
                row["text"] = ""
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return folder


@pytest.fixture(scope="module")
def told(told_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared with masks at 32 px. Read only."""
    out = tmp_path_factory.mktemp("told") / "prepared"
    settings = SliceSettings(size=SIZE, normalise="window", window=(0.0, 255.0))
    prepare(told_cohort, out, settings=settings, supervised=True, masks=told_cohort / "masks")
    return out


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unconditional denoiser of random weights. Read only."""
    path = tmp_path_factory.mktemp("backbone") / "denoiser.safetensors"
    weights.save(path, random_run.network("denoiser", size=SIZE, seed=5), {"step": 1})
    return path


Learn = Callable[..., Run]


@pytest.fixture
def learn(told: Path, bert: Path, backbone: Path, tmp_path: Path) -> Learn:
    """(name, folder, overrides) -> the run of a tiny network of that name, trained for four steps on six pictures."""

    def learnt(name: str, out: str, *overrides: str, shape: dict[str, Any] | None = None) -> Run:
        network = {"size": SIZE, "channels": 1, **random_run.SHAPES[name], **(shape or {})}
        network.pop("feature_channels", None)
        network = {k: list(v) if isinstance(v, tuple) else v for k, v in network.items()}
        if "text_width" in network:
            network |= {"text_width": 8}
        if name in ("textdiff", "pixel_classifier"):
            network["features"] = {"weights": str(backbone), "blocks": [1, 3], "steps": [51, 251]}
        how = {"steps": 4, "batch": 2, "checkpoint_every": 2, "ema": 0.5, "learning_rate": 1e-2}
        if network.get("null_text") and not any("null_text" in o or "text=none" in o for o in overrides):
            how["text_dropout"] = 0.2
        table = {
            "data": {"prepared": str(told), "shots": ["train0_0", "train0_1", "train1_1", "train2_0"]},
            "text": {"encoder": str(bert)},
            name: network,
            "train": {name: {**how, "augment": {"dihedral": "even"}}},
            "methods": {"unet" if name == "segmenter" else name: {}},
        }
        path = tmp_path / f"{out}.toml"
        path.write_text(write_toml(table))
        return train(path, out=tmp_path / out, overrides=overrides)

    return learnt


def state(run: Path, name: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(sorted((run / "checkpoints").glob(f"{name}-*"))[-1])[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", MASK_LEARNERS)
def test_each_is_trained_stopped_resumed_and_used(
    name: str, learn: Learn, told_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learn(name, "whole", f"train.{name}.select_every=2")
    real = Trainer._one_step

    def killed(self: Trainer, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt
        real(self, step)

    monkeypatch.setattr(Trainer, "_one_step", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(name, "killed", f"train.{name}.select_every=2")
    monkeypatch.undo()
    again = learn(name, "killed", f"train.{name}.select_every=2")
    assert same(state(again.path, name), state(whole.path, name))
    before = state(again.path, name)
    assert any(float(v.float().abs().max()) > 0 for k, v in before.items() if k.startswith("optimizer."))
    result = segment(again, [told_cohort / "test"], out=tmp_path / "out")
    assert len(result.done) == 8 and not result.failed  # the picture without text too: null_text
    texts = " + texts" if name in ("textdiff", "lvit") else ""
    method, silent = again.method_name(), "false" if name == "lvit" else "none"
    assert again.reads(method) == "train masks + val masks" + texts
    now = [f"train.{name}.select_every=0"]
    if texts:
        now += [f"{name}.text={silent}", f"{name}.null_text=false", f"train.{name}.text_dropout=0"]
    assert (
        Run.open(again.path, overrides=now).reads(method) == "train masks + val masks" + texts
    )  # it was trained so


# features


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"schedule": {"kind": "cosine", "steps": 1000}},
            "a cosine schedule of 1000 steps",
        ),
        ({"schedule": {"kind": "linear", "steps": 500}}, "a linear schedule of 500 steps"),
        ({"learnt": {"noise": "simplex"}}, "this denoiser learnt to remove simplex noise"),
        ({"learnt": {"null": False}}, "its tag was never hidden from it"),
    ],
)
def test_a_backbone_is_asked_for_nothing_that_its_training_has_not_shown_it(
    record: dict[str, Any], message: str, learn: Learn, backbone: Path
) -> None:
    denoiser, before = random_run.network("denoiser", size=SIZE, seed=5), backbone.read_bytes()
    fitting: dict[str, Any] = {"schedule": {"kind": "linear", "steps": 1000}, "learnt": {"only_tag": 0}}
    try:
        weights.save(backbone, denoiser, {"step": 1, **fitting, **record})
        with pytest.raises(ConfigError, match=message) as raised:
            learn("textdiff", "a")
        assert str(backbone) in str(raised.value)
        weights.save(backbone, denoiser, {"step": 1, **fitting})
        assert learn("textdiff", "b").weights_path("textdiff").is_file()
    finally:
        backbone.write_bytes(before)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of every call of a backbone."""
    found: list[int] = []
    real = FrozenFeatures.__call__

    def counted(self: FrozenFeatures, image: torch.Tensor) -> list[torch.Tensor]:
        found.append(len(image))
        return real(self, image)

    monkeypatch.setattr(FrozenFeatures, "__call__", counted)
    return found


def test_features_that_are_kept_teach_what_new_ones_do(learn: Learn, calls: list[int]) -> None:
    one = ["train.textdiff.batch=1", "train.textdiff.steps=12", "train.textdiff.augment.dihedral=mirror"]
    kept = learn("textdiff", "kept", *one)
    assert calls == [1] * len(calls) and len(calls) <= 8  # four pictures, each with its mirror image
    calls.clear()
    new = learn("textdiff", "new", *one, "train.textdiff.keep_features=false")
    assert calls == [1] * 12
    assert same(state(kept.path, "textdiff"), state(new.path, "textdiff"))
    calls.clear()
    other = learn("textdiff", "other", *one, "train.textdiff.augment.gamma=0.2")  # no picture comes twice
    assert calls == [1] * 12
    assert not same(state(kept.path, "textdiff"), state(other.path, "textdiff"))


def test_heads_of_one_backbone_share_what_they_keep(learn: Learn, calls: list[int]) -> None:
    one = ["train.textdiff.batch=1", "train.textdiff.steps=12", "train.textdiff.augment.dihedral=mirror"]
    other = [*one, "textdiff.text=mean"]
    alone = [
        state(learn("textdiff", name, *how).path, "textdiff") for name, how in (("a", one), ("b", other))
    ]
    each = len(calls) // 2
    calls.clear()
    with shared_features():
        first, second = learn("textdiff", "c", *one), learn("textdiff", "d", *other)
        assert len(calls) == each, "the second computes none"
        learn("textdiff", "e", *one, "textdiff.features.steps=[7]")
        assert len(calls) == 2 * each, "other features are others"
    assert all(
        same(state(run.path, "textdiff"), own) for run, own in zip((first, second), alone, strict=True)
    )


def test_no_other_backbone_will_do(learn: Learn, backbone: Path, tmp_path: Path) -> None:
    run = learn("textdiff", "a", "train.textdiff.steps=2")
    found = weights.read_metadata(run.weights_path("textdiff"))["metadata"]
    assert found["backbone_sha256"] == sha256(backbone)
    moved = tmp_path / "moved.safetensors"
    shutil.copy(backbone, moved)
    Run.open(run.path, overrides=[f"textdiff.features.weights={moved}"]).method()
    weights.save(moved, random_run.network("denoiser", size=SIZE, seed=6), {"step": 1})
    with pytest.raises(RunError, match="another file than the features were learnt on"):
        Run.open(run.path, overrides=[f"textdiff.features.weights={moved}"]).method()
    with pytest.raises(RunError, match="cannot be read") as raised:
        Run.open(run.path, overrides=["textdiff.features.weights=nowhere.safetensors"]).method()
    assert "nowhere.safetensors" in str(raised.value)
    weights.save(moved, random_run.network("denoiser", size=SIZE, seed=6, channels=2), {"step": 1})
    with pytest.raises(ConfigError, match=r"pictures of 2 channels, but textdiff\.channels = 1"):
        learn("textdiff", "b", f"textdiff.features.weights={moved}")


def test_a_training_does_not_go_on_with_another_backbone(
    learn: Learn, backbone: Path, tmp_path: Path
) -> None:
    path = tmp_path / "changing.safetensors"
    shutil.copy(backbone, path)
    learn("textdiff", "a", f"textdiff.features.weights={path}")
    weights.save(path, random_run.network("denoiser", size=SIZE, seed=6), {"step": 1})
    with pytest.raises(RunError, match="backbone_sha256"):
        learn("textdiff", "a", f"textdiff.features.weights={path}", "train.textdiff.steps=6")


def test_members_of_the_pixel_classifier_see_pixels_of_their_own(learn: Learn) -> None:
    found = state(learn("pixel_classifier", "a").path, "pixel_classifier")
    means = [v for k, v in found.items() if k.endswith("rest.1.running_mean") and k.startswith("network")]
    assert len(means) == 2 and not torch.equal(*means)


# sentences


def test_a_network_that_reads_no_text_opens_no_encoder(
    learn: Learn, told_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a text encoder was opened")

    monkeypatch.setattr("tagmask.runs.parts.TextEncoder", fail)
    run = learn("textdiff", "zeta1", shape={"text": "none", "null_text": False})
    assert len(segment(run, [told_cohort / "test"], out=tmp_path / "out").done) == 8
    assert run.reads("textdiff") == "train masks"
    with pytest.raises(AssertionError, match="encoder was opened"):
        learn("textdiff", "full")


@pytest.mark.parametrize("name", ["textdiff", "lvit"])
def test_pictures_without_text_are_refused_where_none_was_learnt(
    name: str, learn: Learn, told_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_text = {"null_text": False}
    says = r"1 of 24 training pictures have no text that the encoder reads, 'train5_3'.*null_text"
    with pytest.raises(InputError, match=says):
        learn(name, "all", "data.shots=24", shape=plain_text)
    read = TextEncoder.__call__
    monkeypatch.setattr(  # an encoder that knows no word of a text of another script
        TextEncoder,
        "__call__",
        lambda self, texts: read(self, ["" if t == SENTENCES[1] else t for t in texts]),
    )
    with pytest.raises(
        InputError, match=r"2 of 4 training pictures have no text that the encoder reads, 'train0_1'"
    ):
        learn(name, "foreign", shape=plain_text)
    monkeypatch.undo()
    run = learn(name, "few", shape=plain_text)
    result = segment(run, [told_cohort / "test"], out=tmp_path / "out")
    assert len(result.done) == 7 and list(result.failed) == ["test0_0"]
    assert "has no text" in result.failed["test0_0"]
    result = segment(run, [told_cohort / "test" / "images"], out=tmp_path / "bare")
    assert not result.done and len(result.failed) == 8


def test_what_is_said_counts(learn: Learn, told: Path) -> None:
    run = learn("textdiff", "a", "train.textdiff.steps=20")
    data, method, reader = Prepared.open(told), run.method(), run.text_reader()
    assert reader is not None and not reader.needed
    rows = data.split_indices("val")[:2]
    swapped = data.batch(rows, lambda _: reader.encoder(SENTENCES[::-1]))
    said = [method.predict(batch).score_map for batch in (data.batch(rows, reader.encoder), swapped)]
    silent = method.predict(data.batch(rows)).score_map
    assert not torch.equal(said[0], said[1]) and not torch.equal(said[0], silent)


def test_hidden_sentences_teach_the_null_text(learn: Learn) -> None:
    def null(*overrides: str) -> torch.Tensor:
        return state(learn("textdiff", str(len(made)), *overrides).path, "textdiff")["network.null"]

    made: list[torch.Tensor] = []
    still = ["train.textdiff.text_dropout=0.5", "train.textdiff.learning_rate=1e-12"]
    for overrides in (still, ["train.textdiff.text_dropout=0.5"]):
        made.append(null(*overrides))
    begun, hidden = made
    assert float((hidden - begun).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["textdiff", "lvit"])
def test_a_null_text_that_nothing_teaches_is_refused(learn: Learn, name: str, told: Path) -> None:
    """Without it a picture that has no text would be segmented by what the null text began with: by chance."""
    with pytest.raises(
        ConfigError, match=rf"nothing would teach the null text.*train\.{name}\.text_dropout = 0\.1"
    ):
        learn(name, "a", f"train.{name}.text_dropout=0.0")


def test_another_encoder_is_refused(learn: Learn, bert: Path, tmp_path: Path) -> None:
    run = learn("lvit", "a", "train.lvit.steps=2")
    found = weights.read_metadata(run.weights_path("lvit"))["metadata"]
    assert len(found["encoder_sha256"]) == 64
    other = write_bert(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(RunError, match="text encoder of SHA-256"):
        Run.open(run.path, overrides=[f"text.encoder={other}"]).text_reader()
    with pytest.raises(ConfigError, match=r"text_width = 5, .* has width 8.*Set lvit\.text_width = 8"):
        learn("lvit", "b", "lvit.text_width=5")
    shutil.copytree(bert, tmp_path / "moved")
    assert Run.open(run.path, overrides=[f"text.encoder={tmp_path / 'moved'}"]).text_reader() is not None


def test_pairs_teach_the_encoder_that_gloria_begins_with(learn: Learn, tmp_path: Path) -> None:
    table = {"size": SIZE, "channels": 1, "width": 4, "blocks": [1, 1, 1, 1], "text_width": 8, "joint": 8}
    pair = [f"gloria_pair.{key}={value}" for key, value in table.items()]
    pair += ["train.gloria_pair.steps=3", "train.gloria_pair.batch=6", "train.gloria_pair.learning_rate=1e-3"]
    still = ["train.gloria.steps=1", "train.gloria.learning_rate=1e-12", "train.gloria.ema=0.0"]
    run = learn("gloria", "a", *pair, *still)
    ours, pairs = (
        weights.read_tensors(run.path / "weights" / f"{n}.safetensors") for n in ("gloria", "gloria_pair")
    )
    learnt = [k for k in pairs if k.startswith("encoder.") and "running" not in k and "batches" not in k]
    assert len(learnt) > 30 and all(torch.allclose(ours[k], pairs[k], atol=1e-6) for k in learnt)
    assert Run.open(run.path).needs("gloria") == ("gloria",)  # pairs are in no method's way
    assert run.reads("gloria") == "train masks + texts"
    scratch = weights.read_tensors(learn("gloria", "b", *still).weights_path("gloria"))
    assert not torch.allclose(scratch["encoder.conv1.weight"], ours["encoder.conv1.weight"], atol=1e-3)
    for batch in (1, 99):  # nothing to be told apart from; a picture would be its own stranger
        with pytest.raises(
            InputError, match=r"\d of \d+ training pictures have a text, .*gloria_pair\.batch"
        ):
            learn("gloria", f"batch{batch}", *pair, *still, f"train.gloria_pair.batch={batch}")
    (run.path / "weights" / "gloria_pair.safetensors").unlink()
    with pytest.raises(RunError, match="no weights of the gloria_pair"):
        begin(run, "gloria", "cpu")


@pytest.mark.parametrize(
    ("name", "override", "words"),
    [
        ("segmenter", "train.segmenter.text_dropout=0.1", "does not learn to do without text"),
        ("textdiff", "train.textdiff.text_dropout=1.0", "text_dropout < 1"),
        ("textdiff", "textdiff.features.blocks=[1, 9]", "blocks 0 to 3"),
        ("textdiff", "textdiff.features.steps=[2000]", "steps 1 to 1000"),
        ("textdiff", "text.encoder=nowhere", "no folder 'nowhere'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, override: str, words: str, learn: Learn) -> None:
    with pytest.raises(TagmaskError, match=words):
        learn(name, "a", override)


def test_a_run_says_what_it_was_made_from(learn: Learn) -> None:
    run = learn("textdiff", "a", "train.textdiff.steps=1", "train.textdiff.checkpoint_every=1")
    text = (run.path / "experiment.toml").read_text()
    assert "[train.textdiff.augment]" in text and "[train.denoiser]" not in text
    assert plain(Run.open(run.path).experiment) == plain(run.experiment)
    assert np.isfinite(float(weights.read_metadata(run.weights_path("textdiff"))["metadata"]["step"]))


@pytest.mark.parametrize("name", MASK_LEARNERS)
def test_a_single_training_picture_is_enough_or_refused(
    name: str, learn: Learn, told_cohort: Path, tmp_path: Path
) -> None:
    one = ["data.shots=['train0_1']", f"train.{name}.batch=1", f"train.{name}.steps=2"]
    if name == "gloria":  # five halvings of 32 px
        with pytest.raises(
            ConfigError, match=r"a batch of 1 picture of 32 px leaves one pixel.*batch of 2 or more"
        ):
            learn(name, "a", *one)
        return
    run = learn(name, "a", *one)
    result = segment(run, [told_cohort / "test"], out=tmp_path / "out")
    assert len(result.done) == 8 and not result.failed
