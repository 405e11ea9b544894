"""Training on masks: which are read, how weights move, which weights are kept."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, RunError, TagmaskError
from tagmask.jobs.train import train
from tagmask.networks import weights
from tagmask.networks.checkpoints import read_checkpoint
from tagmask.runs import Run
from tagmask.runs.resume import mask_rows
from tests import toys

SEGMENTER = """
[segmenter]
size = 16
widths = [8, 16]
[train.segmenter]
steps = 6
batch = 4
checkpoint_every = 3
learning_rate = 1e-2
ema = 0.5
"""


def learn(out: Path, prepared: Path, *overrides: str, only: str = "segmenter") -> Run:
    experiment = toys.write_experiment(out.with_suffix(".toml"), prepared, SEGMENTER)
    return train(experiment, out=out, only=only, overrides=overrides)


def state(run: Path, name: str = "segmenter") -> dict[str, torch.Tensor]:
    return read_checkpoint(sorted((run / "checkpoints").glob(f"{name}-*"))[-1])[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# how weights move


@pytest.mark.parametrize(
    "how",
    [
        ["optimizer=adam", "weight_decay=0.01", "schedule=milestones", "milestones=[2, 4]"],
        ["optimizer=sgd", "schedule=poly"],
        ["optimizer=sgd", "momentum=0.0", "schedule=restarts", "restart_every=2", "dice_per_image=true"],
        ["select_every=2"],
    ],
    ids=lambda how: how[0],
)
def test_a_stopped_run_resumes_bit_for_bit(
    how: list[str], masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"train.segmenter.{setting}" for setting in how]
    learn(tmp_path / "whole", masked, *settings)
    from tagmask.training.trainer import Trainer

    real = Trainer._one_step

    def killed(self: Trainer, step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt
        real(self, step)

    monkeypatch.setattr(Trainer, "_one_step", killed)
    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "killed", masked, *settings)
    monkeypatch.undo()
    assert not (tmp_path / "killed" / "weights").exists()
    learn(tmp_path / "killed", masked, *settings)
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    for path in ("weights/segmenter.safetensors", "log/segmenter-selection.csv"):
        a, b = tmp_path / "killed" / path, tmp_path / "whole" / path
        assert (a.read_bytes() == b.read_bytes()) if b.exists() else not a.exists()


def test_weights_of_the_losses_count(masked: Path, tmp_path: Path) -> None:
    made = {}
    for change in ("dice=0.0", "cross_entropy=0.0", "dice_per_image=true", "steps=1"):
        learn(tmp_path / change, masked, "train.segmenter.steps=1", f"train.segmenter.{change}")
        made[change] = state(tmp_path / change)
    assert len({m["optimizer.0.exp_avg"].numpy().tobytes() for m in made.values()}) == 4
    first = {k: made[k]["optimizer.0.exp_avg"] for k in made}
    total = first["dice=0.0"] + first["cross_entropy=0.0"]  # the gradient of a sum
    assert torch.allclose(first["steps=1"], total, atol=1e-6)


# which masks are read


def spoilt(prepared: Path, out: Path, keep: np.ndarray) -> Path:
    """The same folder, with noise in place of all masks but some."""
    shutil.copytree(prepared, out)
    masks = np.load(out / "masks.npy")
    others = np.setdiff1d(np.arange(len(masks)), keep)
    masks[others] = np.random.default_rng(0).integers(0, 2, masks[others].shape)
    np.save(out / "masks.npy", masks)
    return out


def test_only_the_masks_of_the_shots_are_read(masked: Path, tmp_path: Path) -> None:
    shots = ["data.shots=3", "data.draw=2"]
    run = learn(tmp_path / "a", masked, *shots)
    data = Prepared.open(masked)
    rows = mask_rows(run.path, data)
    with (run.path / "shots.csv").open() as file:
        ids = [line["id"] for line in csv.DictReader(file)]
    assert sorted(ids) == sorted(data.index[row]["id"] for row in rows) and len(ids) == 3
    other = spoilt(masked, tmp_path / "spoilt", rows)
    learn(tmp_path / "b", other, *shots)
    assert same(state(tmp_path / "a"), state(tmp_path / "b"))
    learn(tmp_path / "c", other, "data.shots=4", "data.draw=2")  # the check is not blind
    learn(tmp_path / "d", masked, "data.shots=4", "data.draw=2")
    assert not same(state(tmp_path / "c"), state(tmp_path / "d"))


def test_all_train_pictures_teach_a_denoiser_and_no_other_is_touched(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise AssertionError("a mask was asked for")

    opened, seen, data = Prepared.open, set(), Prepared.open(masked)

    class Watched:
        def __getitem__(self, row: int) -> np.ndarray:
            seen.add(int(row))
            return np.asarray(data.images[row])

        shape = data.images.shape

    def watched(path: Path) -> Prepared:
        prepared = opened(path)
        object.__setattr__(prepared, "images", Watched())
        return prepared

    monkeypatch.setattr(Prepared, "open", watched)
    monkeypatch.setattr(Prepared, "open_masks", fail)
    learn(tmp_path / "a", masked, "data.shots=3", only="denoiser")
    assert seen == set(data.split_indices("train").tolist())


def test_other_shots_are_another_run(masked: Path, tmp_path: Path) -> None:
    learn(tmp_path / "a", masked, "data.shots=3")
    with pytest.raises(RunError, match=r"begun with data\.shots = 3, but the experiment now says 4"):
        learn(tmp_path / "a", masked, "data.shots=4")
    with pytest.raises(RunError, match=r"data\.draw = 0"):
        learn(tmp_path / "a", masked, "data.shots=3", "data.draw=1")
    (tmp_path / "list.csv").write_text("id\ntrain0_0\ntrain1_1\n")
    listed = f"data.shots={tmp_path / 'list.csv'}"
    assert len(mask_rows(learn(tmp_path / "b", masked, listed).path, Prepared.open(masked))) == 2
    (tmp_path / "list.csv").write_text("id\ntrain0_0\n")
    with pytest.raises(RunError, match="names other pictures"):
        learn(tmp_path / "b", masked, listed)
    with pytest.raises(ConfigError, match="train split has 24 pictures"):
        learn(tmp_path / "c", masked, "data.shots=25")
    assert not (tmp_path / "c").exists()
    ids = learn(tmp_path / "d", masked, 'data.shots=["train0_0", "train2_1"]').experiment.data.shots
    assert ids == ("train0_0", "train2_1")


# which weights are kept


def test_the_best_weights_on_the_val_masks_are_kept_and_the_run_says_so(masked: Path, tmp_path: Path) -> None:
    changes = ["train.segmenter.steps=38", "train.segmenter.snapshot_every=1"]
    run = learn(tmp_path / "a", masked, *changes, "train.segmenter.select_every=5")
    with (run.path / "log" / "segmenter-selection.csv").open() as file:
        looks = {int(line["step"]): float(line["dice"]) for line in csv.DictReader(file)}
    assert list(looks) == [*range(5, 40, 5), 38]  # the last step too
    best = max(looks, key=lambda step: (looks[step], -step))
    kept = weights.read_metadata(run.weights_path("segmenter"))["metadata"]
    assert (kept["step"], kept["val_dice"]) == (best, looks[best])
    assert same(
        weights.read_tensors(run.weights_path("segmenter")),
        weights.read_tensors(run.path / "snapshots" / f"segmenter-{best:06d}.safetensors"),
    )
    assert run.reads("unet") == "train masks + val masks" and run.reads("cdm") == "tags"
    plain = learn(tmp_path / "b", masked, *changes)
    assert plain.reads("unet") == "train masks"
    network = {k: v for k, v in state(run.path).items() if not k.startswith("best.")}
    assert same(network, state(plain.path))  # looking does not disturb
    with pytest.raises(RunError, match="select_every"):
        learn(tmp_path / "b", masked, *changes, "train.segmenter.select_every=5")


def test_a_network_trained_in_addition_does_not_hide_what_the_first_has_read(
    masked: Path, tmp_path: Path
) -> None:
    run = learn(tmp_path / "run", masked, "train.segmenter.select_every=2")
    assert run.reads("unet") == "train masks + val masks"
    table = "[cnn]\nsize = 16\nwidths = [8, 16]\nblocks = [1, 1]\n[train.cnn]\nsteps = 2\nbatch = 4\n"
    other = tmp_path / "other.toml"
    other.write_text(f'[data]\nprepared = "{masked}"\n{table}', encoding="utf-8")
    run = train(other, out=run.path)
    assert run.weights_path("cnn").is_file() and run.reads("unet") == "train masks + val masks"
    assert run.experiment.train.segmenter.select_every == 2
    with pytest.raises(RunError, match="select_every"):
        learn(tmp_path / "run", masked)  # nor can it be trained on in another way


def test_fewer_steps_than_were_learnt_are_refused(masked: Path, tmp_path: Path) -> None:
    learn(tmp_path / "run", masked)
    with pytest.raises(RunError, match=r"train\.segmenter\.steps = 6, but the experiment now says 4"):
        learn(tmp_path / "run", masked, "train.segmenter.steps=4")
    assert "steps = 6" in (tmp_path / "run" / "experiment.toml").read_text(encoding="utf-8")


def test_val_masks_are_opened_for_selection_alone(masked: Path, tmp_path: Path) -> None:
    other = spoilt(masked, tmp_path / "spoilt", Prepared.open(masked).split_indices("train"))
    learn(tmp_path / "a", masked)
    learn(tmp_path / "b", other)
    assert same(state(tmp_path / "a"), state(tmp_path / "b"))


def test_selection_without_val_slices_is_refused(masked: Path, tmp_path: Path, monkeypatch: Any) -> None:
    real = Prepared.split_indices
    monkeypatch.setattr(
        Prepared, "split_indices", lambda self, split: real(self, split)[: 0 if split == "val" else None]
    )
    with pytest.raises(InputError, match="val split, which is empty"):
        learn(tmp_path / "a", masked, "train.segmenter.select_every=2")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.segmenter.select_every=7", "select_every <= steps"),
        ("train.denoiser.select_every=2", "a denoiser learns from no mask"),
        ("train.segmenter.augment.crop=8", "crop"),
        ("train.segmenter.augment.colour=0.1", "1 channels"),
        ("train.segmenter.momentum=1.0", "momentum"),
        ('train.segmenter.optimizer="adagrad"', "adagrad"),
        ("train.segmenter.milestones=[2]", "milestones"),
        ("train.segmenter.restart_every=2", "restart_every"),
        ('train.segmenter.schedule="restarts"', "restart_every"),
        ("train.segmenter.rate_floor=1.0", "rate_floor"),
        ("train.segmenter.dice=-1.0", "dice"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    masked: Path, tmp_path: Path, override: str, words: str
) -> None:
    with pytest.raises(TagmaskError, match=words):
        learn(tmp_path / "a", masked, override)


def test_statistics_of_batch_norm_are_averaged_with_the_weights(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagmask.training.trainer import Trainer

    seen: list[dict[str, torch.Tensor]] = []
    real = Trainer._one_step

    def watched(trainer: Trainer, step: int) -> None:
        real(trainer, step)
        network = trainer.accelerator.unwrap_model(trainer.model).network
        seen.append({k: v.clone() for k, v in network.state_dict().items()})

    monkeypatch.setattr(Trainer, "_one_step", watched)
    learn(tmp_path / "run", masked, "train.segmenter.ema_warmup=false")
    average = state(tmp_path / "run")
    means = [key for key in seen[0] if key.endswith("running_mean")]
    assert means
    for key in [*means, *(k.replace("running_mean", "running_var") for k in means)]:
        expected = seen[0][key]
        for later in seen[1:]:
            expected = 0.5 * expected + 0.5 * later[key]
        assert torch.allclose(average[f"average.module.{key}"], expected, atol=1e-6)
        assert not torch.allclose(expected, seen[-1][key], atol=1e-6)
    counts = [v for k, v in average.items() if k.endswith("num_batches_tracked")]
    assert counts and all(int(v) == 6 for v in counts)


def test_a_loss_that_is_no_number_leaves_no_trace_in_the_statistics(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagmask.training.trainer import Trainer

    real = Trainer._one_step

    def poisoned(trainer: Trainer, step: int) -> None:
        if step == 5:
            batch = trainer.batches.of(step)
            broken = type(batch)(**{**vars(batch), "image": batch.image * float("nan")})
            monkeypatch.setattr(trainer.batches, "of", lambda _: broken)
        real(trainer, step)

    monkeypatch.setattr(Trainer, "_one_step", poisoned)
    with pytest.raises(RunError, match="step 4"):
        learn(tmp_path / "run", masked)
    kept = state(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "segmenter-000004.safetensors").exists()
    assert all(tensor.isfinite().all() for tensor in kept.values())
    monkeypatch.undo()
    learn(tmp_path / "run", masked)  # goes on
    learn(tmp_path / "whole", masked)
    assert same(state(tmp_path / "run"), state(tmp_path / "whole"))
