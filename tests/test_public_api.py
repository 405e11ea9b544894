"""The names that are promised, and what asking for them costs."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tagmask

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "numpy", "scipy", "diffusers", "matplotlib", "nibabel")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_exactly_these_names_are_public() -> None:
    assert tagmask.__all__ == [
        "METHODS",
        "DatasetSettings",
        "EvaluateSettings",
        "Run",
        "SliceSettings",
        "TagmaskError",
        "__version__",
        "ablate",
        "benchmark",
        "combine",
        "evaluate",
        "import_weights",
        "open_run",
        "prepare",
        "read_study",
        "report",
        "segment",
        "train",
        "tune",
        "tune_masks",
    ]


@pytest.mark.parametrize("name", tagmask.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(tagmask, name)
    assert name in dir(tagmask)
    if callable(value):
        assert value.__doc__
        assert value.__module__.startswith("tagmask")


@pytest.mark.parametrize("name", [n for n in tagmask.__all__ if inspect.isfunction(getattr(tagmask, n))])
def test_docstrings_name_every_parameter_and_what_comes_of_it(name: str) -> None:
    function = getattr(tagmask, name)
    doc = inspect.getdoc(function) or ""
    parameters = doc.partition("Parameters\n")[2].partition("\n\n")[0]
    listed = {
        part.strip(" *")
        for line in re.findall(r"^(\S.*)$", parameters, re.M)
        for part in line.split(":")[0].split(",")
    }
    assert inspect.signature(function).parameters.keys() == listed - {"-" * 10}
    assert "Returns\n-------" in doc and "Raises\n------" in doc


def test_names_are_what_they_say() -> None:
    from tagmask.errors import TagmaskError
    from tagmask.jobs.segment import segment
    from tagmask.runs import Run

    assert tagmask.TagmaskError is TagmaskError
    assert tagmask.segment is segment
    assert tagmask.open_run == Run.open


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'segmentt'.*segment"):
        tagmask.segmentt  # noqa: B018


def test_the_installed_version_is_the_packages_own() -> None:
    try:
        installed = importlib.metadata.version("tagmask")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("runs from the source tree")
    assert installed == tagmask.__version__


def test_the_changelog_knows_the_version_or_its_release_is_to_come() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in text
    assert f"version: {tagmask.__version__}" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_types_are_shipped() -> None:
    assert (Path(tagmask.__file__).parent / "py.typed").is_file()


HELP = """
import contextlib, io
from tagmask.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main({arguments})
"""


@pytest.mark.parametrize(
    "code",
    [
        "import tagmask",
        "import tagmask; tagmask.TagmaskError",
        HELP.format(arguments=["--help"]),
        HELP.format(arguments=["segment", "--help"]),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert run(f"{code}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))") == "[]"


@pytest.mark.parametrize("arguments", [["-c", "import tagmask"], ["-m", "tagmask", "--help"]])
def test_it_answers_within_a_second(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=60)
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < 1:
            break
    assert min(seconds) < 1
