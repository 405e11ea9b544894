"""The papers' rows: a few cells typed by hand, and all of them against the papers' texts where those are at hand."""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import pytest

from tagmask.benchmarking.published import PUBLISHED, Printed, published_table
from tagmask.errors import ConfigError, TagmaskError

SPOTS = [
    ("hu2023-table1", "GradCAM", "positives", "dice", "0.235", "0.075"),
    ("hu2023-table1", "CG-Diff", "positives", "seconds_per_image", "116", ""),
    ("hu2023-table1", "CG-CDM", "positives", "iou", "0.450", "0.012"),
    ("hu2023-table1", "FSL", "positives", "hd95", "8.1", "1.9"),
    ("hu2023-table2", "CDM", "positives", "iou", "0.167", "0.042"),
    ("hu2023-table2", "CG-CDM", "positives", "dice", "0.311", "0.018"),
    ("che2024-table1a", "AnoFPDM (DDIM)", "positives", "dice", "61.5", "0.0"),
    ("che2024-table1a", "AnoDDPM (S)", "positives", "iou", "45.5", "1.3"),
    ("che2024-table1a", "AnoDDPM (G)", "mixed", "dice", "66.1", ""),
    ("che2024-table1b", "DDIM clf", "mixed", "dice", "51.5", "0.8"),
    ("che2024-table1b", "AnoFPDM (DDPM t_e)", "positives", "auprc", "10.8", "0.2"),
    ("feng2024-table1", "TextDiff", "", "parameters", "9.68", ""),
    ("feng2024-table2", "TextDiff without cross-attention (ζ2)", "all", "dice", "70.71", ""),
]
SIZES = {"hu2023-table1": 32, "hu2023-table2": 24, "che2024-table1a": 51, "che2024-table1b": 51}
SIZES |= {"feng2024-table1": 30, "feng2024-table2": 12}
SIZES |= {f"feng2024-table{n}-{data}": size for n, size in ((1, 18), (2, 6)) for data in ("monuseg", "qata")}


@pytest.mark.parametrize(("table", "row", "setup", "metric", "value", "sd"), SPOTS)
def test_spots(table: str, row: str, setup: str, metric: str, value: str, sd: str) -> None:
    found = [
        (p.value, p.sd) for p in published_table(table) if (p.row, p.setup, p.metric) == (row, setup, metric)
    ]
    assert (value, sd) in found


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_number_is_there_once_and_is_one(name: str) -> None:
    rows = published_table(name)
    assert len(rows) == SIZES[name]
    assert max(Counter((p.data, p.row, p.setup, p.metric) for p in rows).values()) == 1
    for p in rows:
        mean, sd = p.number
        assert p.source == PUBLISHED[name] and p.reads
        assert math.isfinite(mean) and (math.isnan(sd) if not p.sd else sd >= 0)
        if p.metric in ("dice", "iou", "auprc"):
            assert 0 <= mean <= 1


@pytest.mark.parametrize("table", ["feng2024-table1", "feng2024-table2"])
def test_the_data_sets_of_a_table_can_be_shown_alone(table: str) -> None:
    parts = {data: published_table(f"{table}-{data}") for data in ("monuseg", "qata")}
    assert {p.data for p in parts["monuseg"]} - {""} == {"MoNuSeg"}
    assert {p.data for p in parts["qata"]} - {""} == {"QaTa-COV19"}
    assert {p for some in parts.values() for p in some} == set(published_table(table))


def test_per_cent_come_to_our_scale() -> None:
    printed = Printed("s", "d", "r", "tags", "mixed", "dice", "%", "77.4", "0.1")
    assert printed.number == pytest.approx((0.774, 0.001))


def test_a_printed_row_that_is_level_with_an_empty_mask() -> None:
    """Why trivial rows stand in every table: on ATLAS 2997 of 4000 slices are healthy, and an empty mask scores 1."""
    rows = {(p.row, p.setup, p.metric): p.number[0] for p in published_table("che2024-table1b")}
    assert rows["AnoDDPM (G)", "mixed", "dice"] == pytest.approx(2997 / 4000, abs=2e-3)


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+\.?\d*", text)


@pytest.mark.parametrize(
    ("table", "paper", "start", "stop"),
    [
        ("hu2023-table1", "000_", "Table 1.", "Table 2."),
        ("hu2023-table2", "000_", "Table 2.", "3.2 Results"),
        ("feng2024-table1", "003_", "Table 1.", "our experiments"),
        ("feng2024-table2", "003_", "Table 2.", "an **answer**"),
    ],
)
def test_against_the_papers_text(table: str, paper: str, start: str, stop: str, shared: Path) -> None:
    """Every number stands in the table's text, as often as it should."""
    text = next((shared / "papers").glob(f"{paper}*")).read_text(encoding="utf-8")
    section = text[text.index(start) :]
    printed = Counter(_numbers(section[: section.index(stop)]))
    ours = Counter(n for p in published_table(table) for n in (p.value, p.sd) if n)
    assert ours - printed == Counter()


@pytest.mark.parametrize(("table", "which"), [("che2024-table1a", 0), ("che2024-table1b", 1)])
def test_against_the_text_of_anofpdm(table: str, which: int, shared: Path) -> None:
    """The text joins a value and its ± digits, as 37.60.1; where it does not, none was printed."""
    text = next((shared / "papers").glob("002_*")).read_text(encoding="utf-8")
    blocks = text.split("Mixed | Unhealthy")[which + 1].splitlines()[2:11]
    ours: dict[str, list[str]] = {}
    for p in published_table(table):
        ours.setdefault(p.row, []).append(p.value + p.sd)
    for line, (row, cells) in zip(blocks, ours.items(), strict=True):
        assert row.split(" (")[0] in line
        assert [c.strip() for c in line.split("|") if re.fullmatch(r"\s*[\d.]+\s*", c)] == cells


def test_a_table_nobody_printed_is_refused_by_its_nearest_name() -> None:
    from tagmask.benchmarking.bench import DataSet

    with pytest.raises(ConfigError, match="Did you mean hu2023-table1") as raised:
        DataSet("a", "b", published=("hu2023-tabel1",))
    assert isinstance(raised.value, TagmaskError)
