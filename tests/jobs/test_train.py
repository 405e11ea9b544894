from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

import tagmask.jobs.train
from tagmask import objectives
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, RunError, TagmaskError
from tagmask.io import sha256
from tagmask.jobs.train import train
from tagmask.networks import weights
from tagmask.networks.checkpoints import read_checkpoint
from tagmask.runs import Run
from tagmask.train_settings import TrainSettings
from tagmask.training.batches import TrainingBatch, TrainingBatches
from tagmask.training.processes import processes
from tests import toys

ROOT = Path(__file__).parents[2]


def state(run: Path, name: str = "denoiser") -> dict[str, torch.Tensor]:
    """The newest checkpoint: network, average and optimiser."""
    return read_checkpoint(sorted((run / "checkpoints").glob(f"{name}-*"))[-1])[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def same_gradient(a: Path, b: Path) -> bool:
    """Whether the first step of two runs had the same gradient, up to the order of sums.

    Adam's own mean of it: the weights would differ by whole steps where a gradient is nothing but rounding.
    """
    ours, theirs = state(a), state(b)
    means = [k for k in ours if k.endswith("exp_avg")]
    assert any(ours[k].abs().max() > 1e-4 for k in means)
    return all(torch.allclose(ours[k], theirs[k], rtol=1e-3, atol=1e-6) for k in means)


def test_a_run_leaves_everything_behind(trained: Path) -> None:
    names = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    for expected in (
        "experiment.toml",
        "environment.json",
        "weights/denoiser.safetensors",
        "weights/classifier.safetensors",
        "snapshots/denoiser-000003.safetensors",
        "checkpoints/denoiser-000006.safetensors",
        "log/denoiser.csv",
        "samples/denoiser-000006.png",
    ):
        assert expected in names
    assert any("tensorboard" in name for name in names)
    with (trained / "log" / "denoiser.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["step"] for line in lines] == ["2", "4", "6"]
    assert weights.read_metadata(trained / "weights" / "denoiser.safetensors")["metadata"]["step"] == 6


def test_the_loss_falls(prepared: Path, tmp_path: Path) -> None:
    experiment = toys.write_experiment(tmp_path / "e.toml", prepared)
    losses: list[float] = []
    train(
        experiment, out=tmp_path / "run", only="denoiser",
        overrides=["train.denoiser.steps=60", "train.denoiser.log_every=20"], report=lambda p: losses.append(p.loss),
    )  # fmt: skip
    assert len(losses) == 3 and losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_stopped_run_resumes_bit_for_bit(trained: Path, prepared: Path, tmp_path: Path, stop: int) -> None:
    experiment, out = toys.write_experiment(tmp_path / "e.toml", prepared), tmp_path / "run"
    train(experiment, out=out, only="denoiser", overrides=[f"train.denoiser.steps={stop}"])
    train(experiment, out=out, only="denoiser")
    assert same(state(out), state(trained))


def test_batches_drawn_ahead_change_nothing(prepared: Path, tmp_path: Path, trained: Path) -> None:
    settings = replace(Run.open(trained).experiment.train.denoiser, noise="simplex", label_dropout=0.3)
    rows = Prepared.open(prepared).split_indices("train")
    batches = [TrainingBatches(Prepared.open(prepared), settings, 1000, rows) for _ in range(2)]
    batches[1].draw_ahead(6)
    for step in (1, 2, 3, 6, 2, 3, 4):  # and from any step on
        plain, ahead = (b.of(step) for b in batches)
        for ours, theirs in zip(fields_of(plain), fields_of(ahead), strict=True):
            assert torch.equal(ours, theirs)
    assert list(batches[1]._ahead) == [5]
    assert batches[1].of(5) is not None and batches[1].of(6) is not None and not batches[1]._ahead


def fields_of(batch: TrainingBatch) -> list[torch.Tensor]:
    return [batch.image, batch.label, batch.noise.t, batch.noise.eps, batch.noise.drop]


def test_micro_batches_and_order_of_networks_do_not_matter(
    trained: Path, prepared: Path, tmp_path: Path
) -> None:
    experiment = toys.write_experiment(tmp_path / "e.toml", prepared)
    train(experiment, out=tmp_path / "run", only="classifier")
    assert same(state(tmp_path / "run", "classifier"), state(trained, "classifier"))
    for name, change in (("whole", []), ("micro", ["train.denoiser.micro_batch=3"])):
        one_step = ["train.denoiser.steps=1", *change]
        train(experiment, out=tmp_path / name, only="denoiser", overrides=one_step)
    assert same_gradient(tmp_path / "micro", tmp_path / "whole")


class _Spoil(torch.autograd.Function):
    """Whatever comes in, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * float("inf")


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss scaling as fp16 has it, on a CPU."""

    def processes(settings: object, device: str) -> Accelerator:
        AcceleratorState._reset_state()
        accelerator = Accelerator()
        accelerator.scaler = torch.amp.GradScaler("cpu")
        accelerator.state._mixed_precision = "fp16"
        return accelerator

    monkeypatch.setattr(tagmask.jobs.train, "processes", processes)


def test_gradients_that_no_scale_of_fp16_makes_finite_stop_the_training(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaled: None
) -> None:
    experiment, real = toys.write_experiment(tmp_path / "e.toml", prepared), objectives.denoise
    monkeypatch.setattr(objectives, "denoise", lambda *arguments: _Spoil.apply(real(*arguments)))
    with pytest.raises(RunError, match=r"gradient's norm nan at step 20.*state after step 19.*fp32"):
        train(experiment, out=tmp_path / "run", only="denoiser", overrides=["train.denoiser.steps=50"])
    assert not (tmp_path / "run" / "weights").exists()


def test_a_step_that_fp16_skips_moves_no_average(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaled: None
) -> None:
    experiment, real, calls = toys.write_experiment(tmp_path / "e.toml", prepared), objectives.denoise, []

    def now_and_then(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        loss = real(*arguments)
        return _Spoil.apply(loss) if len(calls) in (3, 4) else loss  # type: ignore[no-any-return]

    monkeypatch.setattr(objectives, "denoise", now_and_then)
    train(experiment, out=tmp_path / "run", only="denoiser", overrides=["train.denoiser.steps=6"])
    kept = state(tmp_path / "run")
    assert len(calls) == 6 and int(kept["average.n_averaged"]) == 4
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_a_device_that_training_does_not_take_is_refused(prepared: Path, tmp_path: Path) -> None:
    experiment = toys.write_experiment(tmp_path / "e.toml", prepared)
    with pytest.raises(ConfigError, match=r"device = 'cuda:1'.*CUDA_VISIBLE_DEVICES"):
        train(experiment, out=tmp_path / "run", device="cuda:1")
    with pytest.raises(ConfigError, match=r"fp16.*the CPU is to be used"):
        half = ["train.denoiser.precision=fp16"]
        train(experiment, out=tmp_path / "run", only="denoiser", device="cpu", overrides=half)
    assert not (tmp_path / "run").exists()


def test_a_process_that_trained_elsewhere_trains_where_it_is_told_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processes(TrainSettings())
    monkeypatch.setitem(
        PartialState._shared_state, "device", torch.device("meta")
    )  # as after a training on a GPU
    assert processes(TrainSettings(), "cpu").device.type == "cpu"


def test_losses_that_depend_on_the_parts_of_a_batch_are_named(
    prepared: Path, masked: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(text: str, *overrides: str, network: str) -> str:
        caplog.clear()
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.toml"
        path.write_text(text)
        train(
            path, out=path.with_suffix(""), only=network, overrides=[f"train.{network}.steps=1", *overrides]
        )
        return caplog.text

    tags = toys.EXPERIMENT.format(prepared=prepared)
    assert "of each part" not in warned(tags, "train.denoiser.micro_batch=4", network="denoiser")
    masks = f'[data]\nprepared = "{masked}"\n[segmenter]\nsize = 16\nwidths = [8, 8]\n[train.segmenter]\nbatch = 8\n'
    for norm, per_image, what in (
        ("batch", "true", "batch norm"),
        ("instance", "false", "Dice loss"),
        ("instance", "true", None),
    ):
        options = [f"segmenter.norm={norm}", f"train.segmenter.dice_per_image={per_image}"]
        found = warned(masks, "train.segmenter.micro_batch=4", *options, network="segmenter")
        assert (f"The {what} is of each part of a batch" in found) if what else ("of each part" not in found)
        assert "of each part" not in warned(masks, *options, network="segmenter")


def launch(experiment: Path, out: Path, processes: int, *overrides: str) -> subprocess.Popen[str]:
    """Train in processes of their own, under torchrun if there are several."""
    program = (
        "import sys; from pathlib import Path; from tagmask.jobs.train import train; "
        "train(Path(sys.argv[1]), out=Path(sys.argv[2]), only='denoiser', overrides=sys.argv[3:])"
    )
    script = experiment.with_suffix(".py")
    script.write_text(program)
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", "0"]
        launcher += ["--standalone"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return subprocess.Popen(
        [*launcher, str(script), str(experiment), str(out), *overrides],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_resumes_bit_for_bit(prepared: Path, tmp_path: Path, processes: int) -> None:
    experiment = toys.write_experiment(tmp_path / "e.toml", prepared)
    long = "train.denoiser.steps=60"
    finish(launch(experiment, tmp_path / "whole", processes, long))
    victim = launch(experiment, tmp_path / "killed", processes, long)
    deadline = time.monotonic() + 200
    while not list((tmp_path / "killed" / "checkpoints").glob("denoiser-*.safetensors")):
        assert victim.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    family = [
        victim,
        *psutil.Process(victim.pid).children(recursive=True),
    ]  # torchrun's workers have own sessions
    for process in family:
        process.kill()
    victim.communicate()
    assert not (tmp_path / "killed" / "weights" / "denoiser.safetensors").exists()
    finish(launch(experiment, tmp_path / "killed", processes, long))
    assert same(state(tmp_path / "killed"), state(tmp_path / "whole"))
    hashes = {sha256(tmp_path / run / "weights" / "denoiser.safetensors") for run in ("killed", "whole")}
    assert len(hashes) == 1


@pytest.mark.slow
def test_two_processes_learn_what_one_does(prepared: Path, tmp_path: Path) -> None:
    experiment = toys.write_experiment(tmp_path / "e.toml", prepared)
    for count in (1, 2):
        finish(launch(experiment, tmp_path / str(count), count, "train.denoiser.steps=1"))
    assert same_gradient(tmp_path / "1", tmp_path / "2")


def test_a_loss_that_is_no_number_stops_with_the_last_good_state(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tagmask import objectives

    experiment, out = toys.write_experiment(tmp_path / "e.toml", prepared), tmp_path / "run"
    real, calls = objectives.denoise, []

    def breaks_at_the_fifth(*args: object) -> torch.Tensor:
        calls.append(1)
        loss = real(*args)  # type: ignore[arg-type]
        return loss * float("nan") if len(calls) == 5 else loss

    monkeypatch.setattr(objectives, "denoise", breaks_at_the_fifth)
    with pytest.raises(RunError, match=r"nan.*step 5.*step 4.*learning_rate"):
        train(experiment, out=out, only="denoiser")
    kept = state(out)
    assert all(tensor.isfinite().all() for tensor in kept.values())
    assert (out / "checkpoints" / "denoiser-000004.safetensors").exists()
    assert not (out / "weights" / "denoiser.safetensors").exists()


def test_training_opens_no_mask(cohort: Path, tmp_path: Path) -> None:
    """Tags alone: with every mask unreadable, prepare and train do the same."""
    from tagmask.jobs.prepare import prepare
    from tagmask.slices import SliceSettings

    blind = tmp_path / "blind"
    shutil.copytree(cohort, blind)
    for mask in (blind / "masks").rglob("*.png"):
        mask.write_bytes(b"unreadable")
    settings = SliceSettings(size=toys.SIZE, normalise="window", window=(0.0, 255.0))
    prepare(blind, tmp_path / "prepared", settings=settings)
    run = train(toys.write_experiment(tmp_path / "e.toml", tmp_path / "prepared"), out=tmp_path / "run")
    assert run.network("denoiser") is not None and not (tmp_path / "prepared" / "masks.npy").exists()


def test_another_experiment_or_other_data_is_refused(trained: Path, prepared: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(trained, out)
    experiment = toys.write_experiment(tmp_path / "e.toml", prepared)
    with pytest.raises(RunError, match=r"learning_rate = 0\.001, but the experiment now says 0\.5"):
        train(experiment, out=out, overrides=["train.denoiser.learning_rate=0.5"])
    environment = (out / "environment.json").read_text()
    (out / "environment.json").write_text(environment.replace('"data": "', '"data": "0'))
    with pytest.raises(RunError, match="fingerprint"):
        train(experiment, out=out)


@pytest.mark.parametrize(
    "override,message",
    [
        ("denoiser.size=32", "size = 32"),
        ("denoiser.channels=3", "channels = 3"),
        ("train.denoiser.steps=0", "steps >= 1"),
        ("train.denoiser.noise_band=[5, 2000]", "2000"),
        ("train.denoiser.band_share=0.5", "noise_band is given"),
        ("train.denoiser.learning_rte=1", "learning_rate"),
        ('train.denoiser.precision="fp16"', "no GPU"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    prepared: Path, tmp_path: Path, override: str, message: str
) -> None:
    if "fp16" in override and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(TagmaskError, match=message.replace("[", r"\[")):
        train(
            toys.write_experiment(tmp_path / "e.toml", prepared), out=tmp_path / "run", overrides=[override]
        )


@pytest.mark.parametrize(
    ("first", "rest", "message"), [("1", "1", "same tag"), ("", None, r"^\S+: 1 of \d+ .*no tag.* Tag them")]
)
def test_nothing_is_learnt_from_one_tag_or_where_one_is_missing(
    first: str, rest: str | None, message: str, prepared: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "prepared"
    shutil.copytree(prepared, copy)
    index = (copy / "index.csv").read_text().splitlines()
    label, split = (index[0].split(",").index(column) for column in ("label", "split"))
    rows = [line.split(",") for line in index]
    train_rows = [row for row in rows[1:] if row[split] == "train"]
    for i, row in enumerate(train_rows):
        row[label] = first if i == 0 else row[label] if rest is None else rest
    (copy / "index.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    fingerprint = json.loads((copy / "fingerprint.json").read_text())
    fingerprint["index"] = sha256(copy / "index.csv")  # or the folder would count as damaged
    (copy / "fingerprint.json").write_text(json.dumps(fingerprint))
    with pytest.raises(InputError, match=message):
        train(toys.write_experiment(tmp_path / "e.toml", copy), out=tmp_path / "run")


def test_a_network_without_a_table_is_not_trained(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \[segmenter\] table"):
        train(toys.write_experiment(tmp_path / "e.toml", prepared), out=tmp_path / "run", only="segmenter")


def test_the_supervised_row_needs_masks_and_says_so(cohort: Path, prepared: Path, tmp_path: Path) -> None:
    table = "[segmenter]\nsize = 16\nwidths = [8, 16]\n[train.segmenter]\nsteps = 2\nbatch = 4\n"
    with pytest.raises(InputError, match="--supervised"):
        train(
            toys.write_experiment(tmp_path / "a.toml", prepared, table), out=tmp_path / "a", only="segmenter"
        )
    from tagmask.jobs.prepare import prepare
    from tagmask.slices import SliceSettings

    settings = SliceSettings(size=toys.SIZE, normalise="window", window=(0.0, 255.0))
    prepare(cohort, tmp_path / "p", settings=settings, supervised=True, masks=cohort / "masks")
    run = train(
        toys.write_experiment(tmp_path / "b.toml", tmp_path / "p", table),
        out=tmp_path / "b",
        only="segmenter",
    )
    learner = Run.open(run.path).network("segmenter")
    assert learner is not None and learner(torch.zeros(1, 1, 16, 16)).isfinite().all()


def test_a_prepared_folder_does_not_become_a_run(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "prepared")
    before = sorted((tmp_path / "prepared").rglob("*"))
    experiment = toys.write_experiment(tmp_path / "toy.toml", tmp_path / "prepared")
    with pytest.raises(InputError, match=r"holds other things \(.*\) and no experiment\.toml"):
        train(experiment, out=tmp_path / "prepared")
    assert sorted((tmp_path / "prepared").rglob("*")) == before


def test_two_processes_do_not_train_one_run(prepared: Path, tmp_path: Path) -> None:
    experiment = toys.write_experiment(tmp_path / "toy.toml", prepared)
    once = {"out": tmp_path / "run", "only": "denoiser", "overrides": ["train.denoiser.steps=1"]}
    program = (
        "import sys, pathlib, tagmask.io as io\n"
        "with io.alone_in(pathlib.Path(sys.argv[1])): print(1, flush=True), input()"
    )
    command = [sys.executable, "-c", program, str(once["out"])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "1\n"
        with pytest.raises(RunError, match="in use by another process"):
            train(experiment, **once)
        assert not (tmp_path / "run" / "experiment.toml").exists()
        other.kill()  # without a chance to tidy up
    assert train(experiment, **once).weights_path("denoiser").is_file()


def test_a_training_that_was_refused_does_not_stand_in_the_way(
    prepared: Path, masked: Path, tmp_path: Path
) -> None:
    """Nothing was learnt, so a corrected experiment, on other data even, begins in the same folder."""
    once = {"out": tmp_path / "run", "only": "denoiser", "overrides": ["train.denoiser.steps=1"]}
    refused = toys.write_experiment(tmp_path / "refused.toml", masked)
    with pytest.raises(ConfigError, match=r"size = 32, but the prepared slices have size 16"):
        train(refused, out=tmp_path / "run", only="denoiser", overrides=["denoiser.size=32"])
    train(toys.write_experiment(tmp_path / "toy.toml", prepared), **once)
    with pytest.raises(RunError, match="was trained on data"):
        train(refused, **once)
    for folder in ("weights", "checkpoints"):  # a snapshot alone was learnt too
        shutil.rmtree(tmp_path / "run" / folder)
    (tmp_path / "run" / "snapshots").mkdir(exist_ok=True)
    (tmp_path / "run" / "snapshots" / "denoiser-000001.safetensors").touch()
    with pytest.raises(RunError, match="was trained on data"):
        train(refused, **once)
