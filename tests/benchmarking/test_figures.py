"""The figures: what stands where, which axis, and the numbers behind them, which are the table's."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from tagmask.benchmarking.figures import FigurePlan, draw_figure
from tagmask.benchmarking.numbers import Number
from tagmask.benchmarking.protocol import Protocol
from tagmask.benchmarking.rows import Value
from tagmask.benchmarking.tables import DataTable, Line, write_tables
from tagmask.drawing import charts

NAN = math.nan


def line(title: str, name: str, mean: float, sd: float, **vary: Value) -> Line:
    numbers = {
        (s, m): Number(mean, sd, NAN, NAN, 2) for s in ("positives", "mixed") for m in Protocol().metrics
    }
    tests = dict.fromkeys(("positives", "mixed"))
    return Line(title, "unet", "train masks", numbers, 2, 3, {}, name, vary, tests)


def table(*lines: Line) -> DataTable:
    return DataTable("toy/set", "facts.", "px", lines, ())


SHOTS = table(
    line("U-Net, 20", "U-Net", 0.6, 0.1, shots=20),
    line("U-Net, 5", "U-Net", 0.5, NAN, shots=5),
    line("U-Net, 100", "U-Net", 0.7, 0.1, shots=100),
    line("TextDiff, 5", "TextDiff", 0.6, 0.2, shots=5),
    line("all-empty", "", 0.0, NAN),
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of what is drawn."""
    found: list[Axes] = []

    def both(figure: Any) -> dict[str, bytes]:
        found.extend(figure.axes)
        return {"png": b"png", "svg": b"svg"}

    monkeypatch.setattr(charts, "both", both)
    return found


def test_three_files_beside_the_tables(tmp_path: Path) -> None:
    files = draw_figure(FigurePlan("dice", "shots"), SHOTS, tmp_path)
    assert [file.name for file in files] == ["dice-toy-set.csv", "dice-toy-set.png", "dice-toy-set.svg"]
    assert files[1].read_bytes().startswith(b"\x89PNG") and b"<svg" in files[2].read_bytes()
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in draw_figure(FigurePlan("dice", "shots"), SHOTS, tmp_path)] == before


def test_the_numbers_behind_a_figure(tmp_path: Path) -> None:
    file = draw_figure(FigurePlan("dice", "shots"), SHOTS, tmp_path)[0]
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [(r["line"], r["shots"], r["mean"], r["sd"]) for r in rows] == [
        ("U-Net", "20", "0.6", "0.1"),
        ("U-Net", "5", "0.5", ""),
        ("U-Net", "100", "0.7", "0.1"),
        ("TextDiff", "5", "0.6", "0.2"),
    ]
    assert (rows[0]["repeats"], rows[0]["of"], rows[0]["metric"]) == ("2", "3", "dice")


def test_lines_rise_with_x_and_bars_are_one_standard_deviation(tmp_path: Path, drawn: list[Axes]) -> None:
    draw_figure(FigurePlan("dice", "shots"), SHOTS, tmp_path)
    (axes,) = drawn
    unet, textdiff = axes.containers
    assert (unet.get_label(), textdiff.get_label()) == ("U-Net", "TextDiff")
    assert unet[0].get_xydata().tolist() == [[5, 0.5], [20, 0.6], [100, 0.7]]
    bars = [segment.tolist() for segment in unet[2][0].get_segments()]
    assert np.allclose(bars, [[[5, 0.5], [5, 0.5]], [[20, 0.5], [20, 0.7]], [[100, 0.6], [100, 0.8]]])
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["5", "20", "100"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("shots", "Dice, positives")


@pytest.mark.parametrize(
    ("values", "scale", "at"),
    [
        ((5, 20, 49), "linear", [5, 20, 49]),
        ((5, 20, 50), "log", [5, 20, 50]),
        ((0, 20, 50), "linear", [0, 20, 50]),
        ((0.5, 5), "log", [0.5, 5]),
        (("none", "cross"), "linear", [0, 1]),
        ((True, False), "linear", [0, 1]),
    ],
)
def test_the_axis_of_x(
    values: tuple[Value, ...], scale: str, at: list[float], tmp_path: Path, drawn: list[Axes]
) -> None:
    rows = [line(f"row {x}", "row", 0.5, 0.1, x=x) for x in values]
    draw_figure(FigurePlan("f", "x"), table(*rows), tmp_path)
    assert drawn[0].get_xscale() == scale and drawn[0].get_xticks().tolist() == at
    assert [t.get_text() for t in drawn[0].get_xticklabels()] == [str(x) for x in values]


def test_lines_and_panels_are_varied_settings_where_named(tmp_path: Path, drawn: list[Axes]) -> None:
    rows = [
        line(
            f"{text} {block} {step}",
            "TextDiff",
            0.1 * block + 0.001 * step,
            0.0,
            block=block,
            step=step,
            text=text,
        )
        for text in ("none", "cross")
        for block in (1, 3)
        for step in (51, 251)
    ]
    plan = FigurePlan("f", "block", lines="step", panels="text", metric="hd95", setup="mixed")
    draw_figure(plan, table(*rows), tmp_path)
    assert [axes.get_title(loc="right") for axes in drawn] == ["text = none", "text = cross"]
    for axes in drawn:
        assert [found.get_label() for found in axes.containers] == ["step = 51", "step = 251"]
        assert np.allclose(axes.containers[1][0].get_xydata(), [[1, 0.351], [3, 0.551]])
    assert drawn[0].get_ylabel() == "HD95 [px], mixed" and drawn[0].get_ylim() == drawn[1].get_ylim()


def test_a_line_looks_the_same_in_every_panel(tmp_path: Path, drawn: list[Axes]) -> None:
    rows = [
        line("a", "A", 0.1, NAN, x=1, p="left"),
        line("b", "B", 0.2, NAN, x=1, p="left"),
        line("c", "B", 0.3, NAN, x=1, p="right"),
    ]
    draw_figure(FigurePlan("f", "x", panels="p"), table(*rows), tmp_path)
    left, right = drawn
    assert left.containers[1][0].get_color() == right.containers[0][0].get_color()
    assert left.containers[0][0].get_color() != right.containers[0][0].get_color()


def test_without_a_finished_row_nothing_is_drawn(tmp_path: Path) -> None:
    assert draw_figure(FigurePlan("f", "x"), SHOTS, tmp_path) == () and not list(tmp_path.iterdir())


def test_varied_settings_are_columns_of_the_table(tmp_path: Path) -> None:
    write_tables(tmp_path, [SHOTS], Protocol(), {})
    with (tmp_path / "table.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert list(rows[0])[4:7] == ["reads", "shots", "setup"]
    assert {r["row"]: r["shots"] for r in rows} == {
        **{"U-Net, 20": "20", "U-Net, 5": "5", "U-Net, 100": "100"},
        **{"TextDiff, 5": "5", "all-empty": ""},
    }
    numbers = json.loads((tmp_path / "table.json").read_text())["numbers"]
    assert next(n for n in numbers if n["row"] == "U-Net, 20")["shots"] == 20
