"""Published .pt files: tensors come through, nothing else does, and what tries is stopped where it can do no harm."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tagmask.errors import ConfigError, ResourceError, RunError, SecurityError
from tagmask.networks import foreign, foreign_reader
from tagmask.networks.foreign import read_published
from tagmask.networks.foreign_reader import (
    DAMAGED,
    REFUSED,
    TOO_LARGE,
    _Refusal,
    check_archive,
    explained,
    flat,
)

LARGE = 10**9


class _Call:
    """Unpickling this calls a function."""

    def __init__(self, function, *arguments) -> None:
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def _refused(tmp_path: Path, error: type[Exception], message: str, state: object) -> None:
    path = tmp_path / "published.pt"
    torch.save(state, path)
    with pytest.raises(error, match=message) as caught:
        read_published(path, scratch=tmp_path)
    assert caught.value.where == str(path) and caught.value.repair
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_file_that_calls_a_function_is_refused_and_calls_nothing(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = _Call(os.system, f"touch {sprung}")
    _refused(
        tmp_path, SecurityError, r"more than tensors \(.*posix.system.*\)\. Nothing of it", {"weight": trap}
    )
    assert not sprung.exists()
    pickle.loads(pickle.dumps(trap))
    assert sprung.exists(), "the trap must be able to spring"


def test_a_small_file_that_asks_for_a_gigabyte_is_stopped(tmp_path: Path) -> None:
    _refused(
        tmp_path, ResourceError, "more memory than a file of its size", {"weight": _Call(bytearray, 2**30)}
    )


CONFINED = """
import importlib.util, json, os, socket, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("reader", sys.argv[1])
reader = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reader)
folder, found = Path(sys.argv[2]), {}

def attempt(name, act, prepare):
    verdict = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if not (pid := os.fork()):
        try:
            prepare(verdict)
            act()
        except BaseException as error:
            reader.leave(verdict, 1, type(error).__name__)
        os._exit(0)
    found[name] = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), (folder / name).read_text()]

listener = socket.create_server(("127.0.0.1", 0))
def connect():
    socket.create_connection(listener.getsockname(), timeout=5)
attempt("connect", connect, lambda verdict: None)
attempt("cut off", connect, lambda verdict: reader.leave_the_network() or reader.leave(verdict, 9, "not allowed"))

import torch, subprocess
from safetensors.torch import save_file
def confine(verdict):
    reader.confine(folder, 1000, verdict)
def write():
    open(folder / "written", "w")
def write_low():
    os.open(folder / "written", os.O_WRONLY | os.O_CREAT)
code = compile("1 + 1", "x", "eval")
acts = {
    "os.system": lambda: os.system("true"),
    "subprocess.Popen": lambda: subprocess.run(["true"]),
    "os.fork": os.fork,
    "socket.__new__": socket.socket,
    "open": write,
    "open, low": write_low,
    "os.remove": lambda: os.remove(folder / "connect"),
    "os.rename": lambda: os.rename(folder / "connect", folder / "moved"),
    "exec": lambda: eval(code),
    "compile": lambda: compile("1", "x", "exec"),
    "import": lambda: __import__("telnetlib"),
    "resource.setrlimit": lambda: reader.resource.setrlimit(reader.resource.RLIMIT_CPU, (1, 1)),
    "ctypes.dlopen": lambda: reader.ctypes.CDLL(None),
    "memory": lambda: bytearray(2**30),
    "to read": lambda: open(folder / "connect").read(),
    "tensors": lambda: torch.zeros(1000).sum(),
}
for name, act in acts.items():
    attempt(name, act, confine)
print(json.dumps(found))
"""


def test_in_the_confined_process_nothing_but_reading_is_left(tmp_path: Path) -> None:
    """Whatever the weights-only reader let through would find itself here."""
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, foreign_reader.__file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    assert found.pop("connect") == [0, ""], "the world outside must be reachable to begin with"
    assert found.pop("cut off") in ([1, "OSError"], [9, "not allowed"])
    assert found.pop("memory") == [1, "MemoryError"]
    assert found.pop("to read") == found.pop("tensors") == [0, ""]
    for name, (code, words) in found.items():
        event = name.partition(",")[0]
        assert (code, words) == (REFUSED, f"tried what no file of weights does ({event})")
    assert len(found) == 13 and not (tmp_path / "written").exists() and (tmp_path / "connect").exists()


# what the reader takes, seen from within


def test_a_flat_table_of_tensors_comes_through() -> None:
    weight = torch.nn.Parameter(torch.rand(3, 4))
    long = torch.arange(10.0)
    state = {
        "weight": weight,
        "part": long[2:5],
        "turned": weight.T,
        "half": torch.ones(2).half(),
        "long": long,
    }
    found = flat(state, "", LARGE)
    assert list(found) == list(state)
    assert all(torch.equal(found[name], state[name]) and found[name].is_contiguous() for name in state)
    assert {type(tensor) for tensor in found.values()} == {torch.Tensor}
    starts = [tensor.untyped_storage().data_ptr() for tensor in found.values()]
    assert len(set(starts)) == len(starts) and found["long"].data_ptr() == long.data_ptr()
    assert list(flat({"model": state, "step": 7}, "model", LARGE)) == list(state)


@pytest.mark.parametrize(
    ("state", "key", "code", "message"),
    [
        ([torch.zeros(1)], "", DAMAGED, "holds a list where"),
        (torch.zeros(1), "", DAMAGED, "holds a Tensor where"),
        ({}, "", DAMAGED, "holds a dict where"),
        (
            {"state_dict": {"a": torch.zeros(1)}, "epoch": 3},
            "",
            DAMAGED,
            "it holds state_dict, epoch. Say which with --key",
        ),
        ({"a": torch.zeros(1)}, "model", DAMAGED, "has no 'model'; it holds a"),
        ({"model": torch.zeros(1)}, "model", DAMAGED, "holds a Tensor where"),
        ({"a": torch.zeros(1), "step": 3}, "", DAMAGED, "holds 'step', a int"),
        ({3: torch.zeros(1)}, "", DAMAGED, "holds 3, a Tensor"),
        ({"a": torch.zeros(2).to_sparse()}, "", DAMAGED, "tensor 'a', which is not dense"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "", DAMAGED, "real numbers"),
        ({"a": torch.zeros(2, device="meta")}, "", DAMAGED, "not dense"),
        ({"a": torch.zeros(1).expand(LARGE)}, "", REFUSED, "larger together than the file"),
    ],
)
def test_anything_else_is_refused(state: object, key: str, code: int, message: str) -> None:
    with pytest.raises(_Refusal) as caught:
        flat(state, key, LARGE)
    assert caught.value.args[0] == code and message in caught.value.args[1]


def _rewritten(path: Path, kind: int = zipfile.ZIP_STORED, **changed: bytes) -> None:
    torch.save({"weight": torch.zeros(3)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in {**members, **changed}.items():
            archive.writestr(name, content)


def test_an_archive_that_torch_does_not_write_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "published.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    check_archive(str(path), path.stat().st_size)
    _rewritten(path)
    check_archive(str(path), path.stat().st_size)
    whole = path.read_bytes()
    _rewritten(path, zipfile.ZIP_DEFLATED, bomb=bytes(2**24))
    for code, what, content in (
        (REFUSED, "packed member", path.read_bytes()),
        (DAMAGED, "not a whole zip archive", whole[: len(whole) // 2]),
        (DAMAGED, "not a whole zip archive", b"PK\x03\x04"),
        (DAMAGED, "not a whole zip archive", whole.replace(b"PK\x01\x02", b"PK\x01\x09")),
    ):
        path.write_bytes(content)
        with pytest.raises(_Refusal) as caught:
            check_archive(str(path), len(content))
        assert caught.value.args[0] == code and what in caught.value.args[1]
    path.write_bytes(whole)
    with pytest.raises(_Refusal, match="overlap"):
        check_archive(str(path), 100)
    _rewritten(path, **{"other/data.pkl": b"x"})
    with pytest.raises(_Refusal, match="one table"):
        check_archive(str(path), LARGE)
    _rewritten(path, **{"published/data.pkl": bytes(2**24 + 1)})
    with pytest.raises(_Refusal, match="one table"):
        check_archive(str(path), LARGE)


def test_torchs_advice_to_trust_the_file_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    for state in ({"a": _Call(os.system, "true")}, {"a": _Call(Path, "x")}, {"a": _Call(print, "x")}):
        torch.save(state, path)
        with pytest.raises(pickle.UnpicklingError) as caught:
            torch.load(path, weights_only=True)
        code, words = explained(caught.value)
        assert code == REFUSED and "\n" not in words and len(words) < 150
        assert "GLOBAL" in words and "weights_only" not in words and "add_safe_globals" not in words
    assert (
        explained(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 4 bytes"))[0]
        == TOO_LARGE
    )
    assert explained(RuntimeError("PytorchStreamReader failed\nfile not found"))[1].endswith("failed)")


# what its end means outside


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (REFUSED, SecurityError, "some words. Nothing of it was used"),
        (TOO_LARGE, ResourceError, "some words"),
        (DAMAGED, RunError, "some words"),
        (-24, ResourceError, "signal 24"),
        (1, RunError, r"could not start \(some words\)"),
    ],
)
def test_its_end_is_an_error_of_ours(
    tmp_path: Path, monkeypatch, code: int, error: type, message: str
) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(b"PK\x03\x04")

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        (Path(command[-2]) / "verdict.txt").write_text("first\nsome \x1b[31mwords".replace("\x1b[31m", ""))
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(foreign.subprocess, "run", run)
    with pytest.raises(error, match=message) as caught:
        read_published(path, scratch=tmp_path)
    assert caught.value.where == str(path) and caught.value.repair


def test_a_reader_that_never_ends_is_ended(tmp_path: Path, monkeypatch) -> None:
    def run(command: list[str], timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(foreign.subprocess, "run", run)
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    with pytest.raises(ResourceError, match="took more than 600 s"):
        read_published(tmp_path / "a.pt", scratch=tmp_path)


def test_what_the_reader_says_is_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "verdict.txt").write_bytes(b"one\ntwo \x1b]0;title\x07\xff " + b"x" * 9000)
    words = foreign._last_words(tmp_path)
    assert words.startswith("two ?]0;title?") and len(words) == 400 and words.isprintable()
    (tmp_path / "verdict.txt").write_bytes(b"")
    (tmp_path / "errors.txt").write_bytes(b"Traceback\nImportError: no torch\n")
    assert foreign._last_words(tmp_path) == "ImportError: no torch"


def test_files_that_are_no_zip_are_safetensors_or_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path)
    assert torch.equal(read_published(path, scratch=tmp_path)["a"], torch.ones(2))
    with pytest.raises(ConfigError, match=r"only a .pt file has tables"):
        read_published(path, scratch=tmp_path, key="model")
    torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(SecurityError, match=r"pickle.*Save it again with torch 1.6 or newer"):
        read_published(path, scratch=tmp_path)
    for absent in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(RunError, match="cannot be read"):
            read_published(absent, scratch=tmp_path)
