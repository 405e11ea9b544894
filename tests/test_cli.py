"""The command line: what reaches the jobs, what a person reads, and with what code it ends."""

from __future__ import annotations

import errno
import importlib
import inspect
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from PIL import Image

import tagmask
from tagmask.cli import app, main
from tagmask.errors import (
    ConfigError,
    GeometryError,
    InputError,
    ResourceError,
    RunError,
    SecurityError,
    TagmaskError,
)
from tests import toys

ROOT = Path(__file__).parents[1]
COMMANDS = (
    *("prepare", "train", "tune", "segment", "evaluate", "combine", "report", "doctor"),
    *("benchmark", "ablate", "import-weights"),
)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs the command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    log = logging.getLogger("tagmask")
    monkeypatch.setattr(log, "handlers", [])

    def call(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as leaving:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = leaving.value.code
        assert isinstance(code, int)
        return Outcome(code, captured.out, captured.err)

    yield call
    log.setLevel(logging.NOTSET)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], dict[str, Any]]:
    """Give a function that puts a fake in place of a job and gives the arguments it was called with."""

    def put(job: str, result: Any) -> dict[str, Any]:
        module = importlib.import_module(f"tagmask.jobs.{job}")
        signature = inspect.signature(getattr(module, job))
        called: dict[str, Any] = {}

        def fake(*args: Any, **kwargs: Any) -> Any:
            called.update(signature.bind(*args, **kwargs).arguments)
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(module, job, fake)
        return called

    return put


def test_the_names_of_the_commands(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(f" {command} " in result.out for command in COMMANDS)
    assert "Not a medical device" in result.out


def test_version(run: Run) -> None:
    assert run("--version") == Outcome(0, f"tagmask {tagmask.__version__}\n", "")


def test_no_argument_shows_help(run: Run) -> None:
    result = run()
    assert "Usage: tagmask" in result.out + result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example_that_parses(command: str, run: Run) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert f"Example: tagmask {command}" in result.out
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    program, name, *arguments = shlex.split(found.epilog.removeprefix("Example: "))
    assert (program, name) == ("tagmask", command)
    assert found.make_context(command, arguments).params


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train"],
        ["prepare", "t.csv"],
        ["segment", "run", "--bogus"],
        ["prepare", "t", "-o", "o", "--size", "x"],
    ],
)
def test_bad_usage_ends_with_2_and_says_so(arguments: list[str], run: Run) -> None:
    result = run(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: tagmask" in result.err
    assert "Error" in result.err


# errors

ERRORS = [
    (InputError("is empty.", where="scan.nii", repair="Copy it again."), 2),
    (GeometryError("its affine is singular.", where="scan.nii"), 2),
    (ConfigError("tau = 2 is not allowed.", repair="Use 0 to 1."), 2),
    (RunError("is not a run.", where="runs/x"), 2),
    (ResourceError("would need 900 GB."), 3),
    (SecurityError("is a pickle.", where="weights.pt"), 4),
    (TagmaskError("plain"), 2),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_an_error_is_one_message_and_its_code(
    error: TagmaskError, code: int, run: Run, stand_in: Callable[..., Any]
) -> None:
    stand_in("report", error)
    assert run("report", "somewhere") == Outcome(code, "", f"tagmask: {error}\n")


class OutOfMemoryError(RuntimeError):
    """As torch's, which torch alone can raise."""


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/far/out"), 2, "/far/out: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device"),
        (MemoryError(), 3, "memory does not suffice"),
        (OutOfMemoryError("CUDA out of memory"), 3, "--batch"),
        (KeyError("index"), 70, "--debug"),
        (ValueError("[bold]x[/bold] is odd"), 70, "ValueError: [bold]x[/bold] is odd"),
    ],
)
def test_what_no_job_foresaw(
    error: Exception, code: int, says: str, run: Run, stand_in: Callable[..., Any]
) -> None:
    stand_in("report", error)
    result = run("report", "somewhere")
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("error", [InputError("x"), KeyError("x"), OSError(errno.ENOENT, "gone")])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_debug_lets_the_error_through_wherever_it_stands(
    error: Exception, where: int, stand_in: Callable[..., Any]
) -> None:
    stand_in("report", error)
    arguments = ["report", "somewhere"]
    arguments.insert(where, "--debug")
    with pytest.raises(type(error)) as raised:
        main(arguments)
    assert raised.value is error


def test_ctrl_c_ends_with_130(run: Run, stand_in: Callable[..., Any]) -> None:
    stand_in("segment", KeyboardInterrupt())
    result = run("segment", "run", "scan.nii", "-o", "out")
    assert (result.code, result.out) == (130, "")
    assert "Traceback" not in result.err


def test_ctrl_c_says_how_training_goes_on(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("train", KeyboardInterrupt())
    result = run("train", "experiments/toy.toml")
    assert result.code == 130
    assert "goes on from the last checkpoint" in result.err
    assert called["out"] == Path("runs/toy")


def test_a_log_line_has_no_traceback_but_for_who_debugs(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def complain() -> str:
        try:
            raise KeyError("deep")
        except KeyError:
            logging.getLogger("tagmask.jobs.prepare").warning("case %s failed", "a", exc_info=True)
        return capsys.readouterr().err

    run("report")
    assert complain() == "tagmask: case a failed\n"
    run("--debug", "report")
    assert "Traceback" in complain()


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_says_more(verbose: bool, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(*(["--verbose"] if verbose else []), "report")
    logging.getLogger("tagmask.jobs.segment").info("case a done")
    assert capsys.readouterr().err == ("tagmask: case a done\n" if verbose else "")


# what reaches the jobs


@dataclass(frozen=True)
class Result:
    """What jobs give, as far as the command line looks at it."""

    out: Path = Path("out")
    path: Path = Path("out")
    exit_code: int = 0
    failed: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return "all is well"


def test_every_option_of_prepare_arrives(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("prepare", Result())
    result = run(
        *(
            "prepare",
            "t.csv",
            "-o",
            "o",
            "--plane",
            "k",
            "--size",
            32,
            "--window",
            -160,
            240,
            "--channels",
            "1,0",
        ),
        *("--tag", "tumour", "--supervised", "--masks", "m", "--mask-labels", "1,4", "--val-fraction", 0.3),
        *("--test-fraction", 0.1, "--seed", 5, "--workers", 3, "--overwrite", "--untagged"),
    )
    assert result == Outcome(0, "all is well\n", "")
    settings = tagmask.SliceSettings(
        plane="k", size=32, normalise="window", window=(-160, 240), channels=(1, 0)
    )
    assert callable(called.pop("report"))
    assert called == {
        **{
            "table": Path("t.csv"),
            "out": Path("o"),
            "settings": settings,
            "tag": "tumour",
            "supervised": True,
        },
        **{"dataset": None, "preset": None},
        **{"masks": Path("m"), "mask_labels": (1, 4), "val_fraction": 0.3, "test_fraction": 0.1, "seed": 5},
        **{"workers": 3, "overwrite": True, "untagged": True},
    }


def test_percentiles_that_would_not_be_read_are_refused(run: Run, stand_in: Callable[..., Any]) -> None:
    stand_in("prepare", Result())
    for other in (("--normalise", "slice"), ("--window", 0, 255)):
        result = run("prepare", "t.csv", "-o", "o", "--percentiles", 1, 99, *other)
        assert result.code == 2 and "--percentiles would not be read" in result.err
    assert run("prepare", "t.csv", "-o", "o", "--percentiles", 1, 99).code == 0


def test_prepare_has_the_defaults_of_python(run: Run, stand_in: Callable[..., Any]) -> None:
    signature = inspect.signature(tagmask.prepare)
    called = stand_in("prepare", Result())
    run("prepare", "t.csv", "-o", "o")
    assert called.pop("settings") == tagmask.SliceSettings()
    for name, value in called.items():
        if name not in ("table", "out", "report"):
            assert value == signature.parameters[name].default, name


def test_every_option_of_import_weights_arrives(run: Run, stand_in: Callable[..., Any]) -> None:
    signature = inspect.signature(tagmask.import_weights)
    called = stand_in("import_weights", Result())
    assert run("import-weights", "a.pt", "-o", "b.safetensors") == Outcome(0, "all is well\n", "")
    for name, value in called.items():
        if name not in ("file", "out", "overrides"):
            assert value == signature.parameters[name].default, name
    wanted = ("--settings", "x.toml", "--set", "size=64", "--key", "ema", "--new-attention-order")
    run("import-weights", "a.pt", "-o", "b", *wanted, "--overwrite")
    assert called == {
        **{"file": Path("a.pt"), "out": Path("b"), "settings": "x.toml", "overrides": ["size=64"]},
        **{"key": "ema", "new_attention_order": True, "overwrite": True},
    }


def test_a_data_set_by_name_arrives(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("prepare", Result())
    arguments = ("prepare", "--dataset", "chaos", "CHAOS", "-o", "o", "--preset", "cdm-chaos", "--size", 64)
    wanted = ("--target", "liver", "--fold", 3, "--min-area-frac", 0.1, "--area-of", "body", "--tissue", 0.5)
    assert run(*arguments, *wanted).code == 0
    assert (called["table"], called["preset"]) == (Path("CHAOS"), "cdm-chaos")
    assert called["dataset"] == tagmask.DatasetSettings(
        name="chaos", target="liver", fold=3, min_area_frac=0.1, area_of="body"
    )
    assert called["settings"] == tagmask.SliceSettings(size=64, percentiles=(0, 100), tissue=0.5)
    run("prepare", "--dataset", "brats", "B", "-o", "o", "--modalities", "flair,t2", "--splits", "mine.csv")
    assert called["dataset"] == tagmask.DatasetSettings("brats", ("flair", "t2"), splits="mine.csv")
    run("prepare", "--dataset", "hippocampus", "H", "-o", "o")
    assert called["settings"] == tagmask.SliceSettings(plane="sagittal", size=48)


def test_names_on_the_command_line_are_those_there_are(run: Run) -> None:
    from tagmask.cli.options import DatasetName, PresetName
    from tagmask.datasets.presets import PRESETS
    from tagmask.datasets.registry import DATASETS

    assert get_args(DatasetName) == tuple(DATASETS) and get_args(PresetName) == tuple(PRESETS)
    text = "".join(run("prepare", "--help").out.split())
    assert all(name in text for name in ("brats|atlas|chaos|brain-mri|abdomen-mr", "cdm-brats|cdm-chaos"))


def test_what_belongs_to_a_data_set_needs_one(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("prepare", Result())
    result = run("prepare", "t.csv", "-o", "o", "--min-area-frac", 0.05)
    assert (result.code, called) == (2, {})
    assert "--min-area-frac needs --dataset" in result.err


@pytest.mark.parametrize(
    ("text", "numbers"), [("0,2", (0, 2)), ("110-112,4", (110, 111, 112, 4)), ("7", (7,)), ("-1", (-1,))]
)
def test_numbers_and_spans(text: str, numbers: tuple[int, ...]) -> None:
    from tagmask.cli.options import integers

    assert integers(text, "--mask-labels") == numbers


def test_percentiles_arrive(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("prepare", Result())
    run("prepare", "t.csv", "-o", "o", "--percentiles", 1, 99)
    assert called["settings"] == tagmask.SliceSettings(percentiles=(1.0, 99.0))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--size", "0"], "slices.size"),
        (["--channels", "a"], "--channels"),
        (["--mask-labels", "1,,2"], "--mask-labels"),
        (["--mask-labels", "5-3"], "--mask-labels"),
        (["--tissue", "-1"], "slices.tissue"),
        (["--normalise", "window"], "slices.window"),
        (["--percentiles", "99", "1"], "slices.percentiles"),
    ],
)
def test_a_setting_out_of_range_is_named(
    arguments: list[str], says: str, run: Run, stand_in: Callable[..., Any]
) -> None:
    called = stand_in("prepare", Result())
    result = run("prepare", "t.csv", "-o", "o", *arguments)
    assert (result.code, called) == (2, {})
    assert says in result.err
    assert result.err.startswith("tagmask: ")


def test_every_option_of_train_arrives(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("train", Result())
    result = run(
        "train",
        "e.toml",
        "-o",
        "o",
        "--set",
        "a.b=1",
        "--set",
        "c=x",
        "--only",
        "denoiser",
        "--device",
        "cpu",
    )
    assert result == Outcome(0, "trained -> out\n", "")
    assert callable(called.pop("report"))
    assert called == {
        **{"experiment": Path("e.toml"), "out": Path("o"), "overrides": ["a.b=1", "c=x"], "only": "denoiser"},
        "device": "cpu",
    }


def test_every_option_of_segment_arrives(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("segment", Result())
    result = run(
        *(
            "segment",
            "r",
            "a.nii",
            "b",
            "-o",
            "o",
            "--method",
            "cdm",
            "--set",
            "mask.rule=otsu",
            "--snapshot",
            30,
            "--val-masks",
        ),
        *(
            "--tags",
            "predicted",
            "--tag",
            "lesion",
            "--seed",
            7,
            "--device",
            "cpu",
            "--batch",
            4,
            "--overwrite",
        ),
    )
    assert result == Outcome(0, "all is well\n", "")
    assert callable(called.pop("report"))
    assert called == {
        **{"run": Path("r"), "inputs": [Path("a.nii"), Path("b")], "out": Path("o"), "method": "cdm"},
        **{"overrides": ["mask.rule=otsu"], "snapshot": 30, "tags": "predicted", "seed": 7, "device": "cpu"},
        **{"batch": 4, "overwrite": True, "val_masks": True, "tag": "lesion"},
    }


def test_every_option_of_tune_arrives(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("tune", Result())
    result = run(
        *(
            "tune",
            "r",
            "--grid",
            "noise_level=[100, 200]",
            "--grid",
            "stages=5",
            "--method",
            "cdm",
            "--set",
            "a.b=1",
        ),
        *("--split", "train", "--limit", 9, "--seed", 2, "--device", "cuda", "--batch", 4),
    )
    assert result == Outcome(0, "all is well\n", "")
    assert callable(called.pop("report"))
    assert called == {
        "batch": 4,
        **{"run": Path("r"), "grid": {"noise_level": [100, 200], "stages": [5]}, "method": "cdm"},
        **{"overrides": ["a.b=1"], "split": "train", "limit": 9, "seed": 2, "device": "cuda", "own": False},
    }
    assert run("tune", "r", "--method", "anofpdm").code == 0
    assert (called["grid"], called["method"]) == ({}, "anofpdm")  # it chooses by itself
    assert run("tune", "r", "--criterion", "own", "--grid", "forward_steps=[5, 9]").code == 0
    assert (called["grid"], called["own"]) == ({"forward_steps": [5, 9]}, True)


def test_tuning_by_masks_is_asked_for_in_words(run: Run, stand_in: Callable[..., Any]) -> None:
    stand_in("tune", Result())
    called = stand_in("tune_masks", Result())
    options = (
        "--grid",
        "noise_level=[100]",
        "--grid",
        "mask.value=[0.1, 0.2]",
        "--limit",
        9,
        "--method",
        "ddib",
    )
    assert run("tune", "r", "--criterion", "dice", "--masks", "p", *options) == Outcome(
        0, "all is well\n", ""
    )
    assert called.pop("masks") == Path("p")
    assert called["grid"] == {"noise_level": [100], "mask.value": [0.1, 0.2]}
    assert (called["run"], called["limit"], called["method"], called["split"]) == (
        Path("r"),
        9,
        "ddib",
        "val",
    )
    for half in (("--criterion", "dice"), ("--masks", "p"), ("--criterion", "auc", "--masks", "p")):
        result = run("tune", "r", *options, *half)
        assert result.code == 2 and "--criterion dice and --masks PREPARED together" in result.err


def test_every_option_of_evaluate_arrives(run: Run, stand_in: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "summary.md").write_text("| Dice |")
    called = stand_in("evaluate", Result(out=tmp_path))
    result = run(
        *(
            "evaluate",
            "r",
            "t",
            "-o",
            "o",
            "--table",
            "tab.csv",
            "--images",
            "i",
            "--val",
            "v",
            "--train",
            "p",
        ),
        *(
            "--name",
            "mine",
            "--plane",
            "coronal",
            "--mask-labels",
            "2",
            "--tag",
            "sick",
            "--positives",
            "tag",
        ),
        *("--min-area-frac", 0.05, "--area-of", "body", "--empty-hd", "diagonal", "--ap-over", "body"),
        *("--resamples", 10, "--seed", 3),
    )
    assert result == Outcome(0, f"| Dice |\nevaluated -> {tmp_path}\n", "")
    settings = tagmask.EvaluateSettings(
        plane="coronal", mask_labels=(2,), tag="sick", positives="tag", min_area_frac=0.05, area_of="body",
        empty_hd="diagonal", ap_over="body", resamples=10, seed=3,
    )  # fmt: skip
    assert called == {
        **{
            "results": Path("r"),
            "truth": Path("t"),
            "out": Path("o"),
            "table": Path("tab.csv"),
            "name": "mine",
        },
        **{"images": Path("i"), "val": Path("v"), "train": Path("p"), "settings": settings},
    }


def test_evaluate_writes_beside_the_results_unless_told(
    run: Run, stand_in: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "summary.md").touch()
    called = stand_in("evaluate", Result(out=tmp_path))
    run("evaluate", tmp_path / "masks/", "t")
    assert called["out"] == tmp_path / "masks-evaluation"
    assert called["settings"] == tagmask.EvaluateSettings()


def test_report_takes_several(run: Run, stand_in: Callable[..., Any]) -> None:
    called = stand_in("report", Path("x.html"))
    assert run("report", "a", "b") == Outcome(0, "x.html\n", "")
    assert called == {"results": [Path("a"), Path("b")], "out": Path("report.html")}


@pytest.mark.parametrize("job", ["segment", "evaluate", "prepare"])
def test_some_failed_cases_end_with_2(
    job: str, run: Run, stand_in: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "summary.md").touch()
    stand_in(job, Result(out=tmp_path, exit_code=2, failed=(("case7", "is empty"),)))
    result = run(job, "a", "b", "-o", "o") if job != "prepare" else run(job, "a", "-o", "o")
    assert result.code == 2
    if job == "evaluate":
        assert result.err == "tagmask: failed: case7: is empty\n"


# the whole path


def test_from_tags_to_a_report(
    run: Run, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("prepare", cohort, "-o", "prepared", "--size", toys.SIZE, "--window", 0, 255)
    assert (result.code, result.err) == (0, "")
    assert "train" in result.out

    toys.write_experiment(Path("toy.toml"), Path("prepared"))
    result = run("train", "toy.toml", "--set", "train.denoiser.steps=2", "--set", "train.classifier.steps=2")
    assert (result.code, result.out) == (0, "trained -> runs/toy\n")
    assert "step 2/2" in result.err
    assert "left" in result.err

    Image.new("L", (toys.SIZE, toys.SIZE)).save("fine.png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run(
        "segment", "runs/toy", cohort / "test" / "labels.csv", "fine.png", "broken.png", "-o", "results"
    )
    assert result.code == 2
    assert "failed: broken" in result.out
    assert json.loads(Path("results/manifest.json").read_text())["status"] == "finished"
    assert Path("results/masks/fine.png").is_file()

    result = run("evaluate", "results", cohort / "masks" / "test", "--table", cohort / "test" / "labels.csv")
    assert (result.code, result.err) == (0, "")
    assert "all-foreground" in result.out

    result = run("combine", "results-evaluation", "results-evaluation")
    assert result.code == 0 and "± 0.000" in result.out
    assert run("combine", "results").code == 2

    result = run("report", "results-evaluation")
    assert result == Outcome(0, "report.html\n", "")
    assert "Not a medical device" in Path("report.html").read_text(encoding="utf-8")


def test_a_missing_input_is_one_message(run: Run, trained: Path, tmp_path: Path) -> None:
    result = run("segment", trained, tmp_path / "nowhere.nii", "-o", tmp_path / "out")
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert "nowhere.nii" in result.err
    assert not (tmp_path / "out").exists()


def test_python_dash_m_is_the_same_door(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tagmask", "report", "nowhere"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("tagmask: ")
    assert "nowhere" in done.stderr
    assert list(tmp_path.iterdir()) == []
