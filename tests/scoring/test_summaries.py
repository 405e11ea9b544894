"""summary.json that is damaged: whoever reads it names the file, and says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tagmask.benchmarking.numbers import rows_of
from tagmask.cli import main
from tagmask.errors import InputError
from tagmask.jobs.evaluate import combine, evaluate
from tagmask.jobs.report import report
from tagmask.scoring.scoreboard import flat


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A summary as it is written."""
    folder = tmp_path_factory.mktemp("summary")
    for name in ("a", "b"):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:5, 2:5] = 255 * (name == "a")
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
    evaluate(folder / "masks", folder / "masks", out=folder / "out", resamples=5)
    summary: dict[str, Any] = json.loads((folder / "out/summary.json").read_text(encoding="utf-8"))
    return summary


@pytest.fixture
def evaluation(whole: dict[str, Any], tmp_path: Path) -> Path:
    (tmp_path / "cell/given").mkdir(parents=True)
    (tmp_path / "cell/given/summary.json").write_text(json.dumps(whole), encoding="utf-8")
    return tmp_path / "cell/given"


def refusal(evaluation: Path, capsys: pytest.CaptureFixture[str], command: str = "combine") -> str:
    """What the command says to a person."""
    out = evaluation / "report.html"
    more = ["-o", str(out)] if command == "report" else []
    with pytest.raises(SystemExit) as left:
        main([command, str(evaluation), *more])
    assert left.value.code == 2 and not out.exists()
    message = capsys.readouterr().err
    assert message.startswith(f"tagmask: {evaluation / 'summary.json'}: The evaluation cannot be used: ")
    assert message.endswith(" Evaluate again.\n")
    return message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[]", "is not a JSON object"),
        (b"{}", "no row for the method"),
        (b'{"format": "tagm', "cannot be read (JSONDecodeError"),
        (b'{"format": "\xff"}', "cannot be read (UnicodeDecodeError"),
        (b"[" * 100_000, "cannot be read (RecursionError"),
        (b'{"format": "else", "rows": []}', "not the summary of an evaluation that this version knows"),
        (b'{"rows": [{"row": "method"}]}', "a part of it is missing ('positives')"),
    ],
)
def test_what_is_no_summary_is_not_combined(
    content: bytes, says: str, evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation / "summary.json").write_bytes(content)
    assert says in refusal(evaluation, capsys)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cases": "x"}, "cases = 'x' is not a table"),
        ({"cases": {"missing": "abc"}}, "cases.missing = 'abc' is not a list"),
        ({"cases": {"failed": ["x"]}}, "cases.failed[0] = 'x' is not a table"),
        ({"slices": True}, "slices = True is not a table"),
        ({"slices": {"evaluated": True}}, "slices.evaluated = True is not a number"),
        ({"image_level": {"position": -1}}, "image_level.position = -1 is not a table"),
        ({"image_level": {"detection": [None]}}, "image_level.detection[0] is null"),
        ({"rows": ["x"]}, "rows[0] = 'x' is not a table"),
        ({"rows": "method"}, "rows = 'method' is not a list"),
        ({"rows": [{"row": "method"}, {}]}, "one without a name"),
        (
            {"rows": [{"row": "method", "mixed": {"image": {"dice": 1}}}]},
            "rows[0].mixed.image.dice = 1 is not a",
        ),
        ({"hd95": [1]}, "hd95 = [1] is not a table"),
        ({"notes": {"a": 1}}, "notes = {'a': 1} is not a list"),
        ({"warnings": {"untagged": "many"}}, "warnings.untagged = 'many' is not a number"),
        ({"patients": 10**400}, "patients = 1000"),
        ({"settings": {"min_area_frac": "0.1"}}, "settings.min_area_frac = '0.1' is not a number"),
        ({"environment": "here"}, "environment = 'here' is not a table"),
        ({"truth": 1}, "truth = 1 is not text"),
    ],
)
def test_inner_values_of_another_type_are_named(
    change: dict[str, Any],
    says: str,
    whole: dict[str, Any],
    evaluation: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (evaluation / "summary.json").write_text(json.dumps({**whole, **change}))
    for command in ("report", "combine"):
        message = refusal(evaluation, capsys, command)
        assert says in message and len(message) < 400


@pytest.mark.parametrize(
    "change",
    [
        {"image_level": {}},
        {"slices": {}},
        {"slices": None},
        {"patients": None},
        {"hd95": {}},
        {"rows": [{"row": "method", "title": "M", "reads": "tags", "positives": None, "mixed": None}]},
    ],
)
def test_tables_are_not_made_of_parts(
    change: dict[str, Any], whole: dict[str, Any], evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (evaluation / "summary.json").write_text(json.dumps({**whole, **change}))
    assert "a part of it is " in refusal(evaluation, capsys)
    report(evaluation, out=evaluation / "r.html")  # which says what it can


def test_a_damaged_manifest_is_done_without(whole: dict[str, Any], evaluation: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (evaluation / "summary.json").write_text(json.dumps({**whole, "results": str(tmp_path / "results")}))
    for content in ('{"cases": ["x"]}', '{"method": 3}', '{"environment": true}', '{"seconds": "long"}', "{"):
        (tmp_path / "results/manifest.json").write_text(content)
        assert report(evaluation, out=tmp_path / "r.html").is_file()


def test_a_benchmark_names_the_cell_and_what_to_delete(evaluation: Path) -> None:
    (evaluation / "summary.json").write_bytes(b"{")
    with pytest.raises(InputError, match=r"summary\.json.*Evaluate again\.$"):
        rows_of(evaluation)
    (evaluation.parent / "evaluated.json").write_text("{}")
    for _ in range(2):
        with pytest.raises(InputError) as caught:
            rows_of(evaluation)
        assert caught.value.where == str(evaluation / "summary.json")
        assert (
            caught.value.repair
            == f"Evaluate again: delete {evaluation.parent} and run the benchmark once more."
        )
        (evaluation / "summary.json").unlink(missing_ok=True)


def test_a_whole_summary_is_what_it_was(whole: dict[str, Any], evaluation: Path) -> None:
    assert [line["row"] for line in combine([evaluation / "summary.json"])] == [
        line["row"] for line in flat(whole)
    ]
