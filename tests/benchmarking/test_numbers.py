"""Numbers that can be done by hand: folds put together, and who is tested against whom."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tagmask.benchmarking.numbers import (
    UNTESTED,
    Number,
    PairedTest,
    Repeat,
    RowNumbers,
    merged,
    of_repeats,
    paired_tests,
    read_row,
)
from tagmask.benchmarking.protocol import Protocol
from tagmask.benchmarking.published import Printed
from tagmask.benchmarking.tables import DataTable, Line, show_number, show_printed, write_tables
from tagmask.metrics import Counts
from tagmask.scoring.aggregate import summarise
from tagmask.scoring.scoreboard import to_json, write_numbers
from tagmask.scoring.slice_records import PER_SLICE, SliceRecord


def folds(*values: list[float]) -> list[dict[str, object]]:
    """What `combine` says of each fold."""
    return [
        {"mean": np.mean(v), "sd": np.std(v, ddof=1) if len(v) > 1 else math.nan, "runs": len(v)}
        for v in values
    ]


@pytest.mark.parametrize(
    "values",
    [([0.1, 0.5], [0.7, 0.2, 0.4]), ([0.3], [0.9]), ([0.3, 0.4],), ([0.25],), ([0.1], [0.2], [0.6, 0.7])],
)
def test_folds_are_put_together_as_if_all_repeats_were_one(values: tuple[list[float], ...]) -> None:
    flat = [v for fold in values for v in fold]
    mean, sd, count = merged(folds(*values))
    assert (mean, count) == (pytest.approx(np.mean(flat)), len(flat))
    assert sd == pytest.approx(np.std(flat, ddof=1)) if len(flat) > 1 else math.isnan(sd)


def test_a_number_that_is_nowhere_defined_stays_so() -> None:
    empty = {"mean": math.nan, "sd": math.nan, "runs": 0}
    assert str(merged([empty])) == str((math.nan, math.nan, 0))
    assert merged([empty, *folds([0.5])])[0] == 0.5


def numbers(title: str, reads: str, values: dict[str, float]) -> RowNumbers:
    mean = float(np.mean(list(values.values())))
    return RowNumbers(title, reads, {}, {"positives": mean}, {"positives": values})


PATIENTS = {f"p{i}": i / 20 for i in range(12)}


def shifted(by: float, seed: int) -> dict[str, float]:
    noise = np.random.default_rng(seed).normal(0, 0.02, len(PATIENTS))
    return {p: v + by + n for (p, v), n in zip(PATIENTS.items(), noise, strict=True)}


def test_each_row_is_tested_against_the_best_that_reads_no_mask() -> None:
    rows = [
        numbers("weak", "tags", PATIENTS),
        numbers("good", "tags, tags of these slices", shifted(0.1, 1)),
        numbers("supervised", "train masks", shifted(0.4, 2)),
        numbers("empty", "nothing", dict.fromkeys(PATIENTS, 0.0)),
    ]
    found = paired_tests(rows, "positives")
    assert found[1] is None
    for row, test in ((rows[0], found[0]), (rows[2], found[2]), (rows[3], found[3])):
        assert isinstance(test, PairedTest)
        x = [row.patients["positives"][p] for p in PATIENTS]
        y = [rows[1].patients["positives"][p] for p in PATIENTS]
        assert test == ("good", pytest.approx(stats.wilcoxon(x, y).pvalue), 12)


def test_on_mixed_slices_who_is_told_the_tags_is_compared_with_his_like() -> None:
    """Tags give away the slices without target, which count as 1 when left empty."""
    mixed = [
        RowNumbers(
            title, "tags", {}, {"mixed": float(np.mean(list(values.values())))}, {"mixed": values}, told
        )
        for title, values, told in (
            ("untold, weak", PATIENTS, frozenset[str]()),
            ("told, good", shifted(0.5, 1), frozenset({"mixed"})),
            ("told, weak", shifted(0.4, 2), frozenset({"mixed"})),
            ("untold, good", shifted(0.1, 3), frozenset[str]()),
        )
    ]
    found = paired_tests(mixed, "mixed")
    assert [test and test.against for test in found] == ["untold, good", None, "told, good", None]
    positives = [replace(row, dice={"positives": row.dice["mixed"]}, patients={"positives": row.patients["mixed"]})
                 for row in mixed]  # fmt: skip
    against = [test and test.against for test in paired_tests(positives, "positives")]
    assert against == ["told, good", None, "told, good", "told, good"], (
        "where all slices show it, tags tell nothing"
    )


def test_a_trivial_row_may_be_the_best_and_then_says_so() -> None:
    rows = [numbers("method", "tags", PATIENTS), numbers("all-foreground", "nothing", shifted(0.1, 3))]
    assert paired_tests(rows, "positives")[1] is None


def test_where_all_rows_read_masks_the_best_of_them_it_is() -> None:
    rows = [numbers("a", "train masks", PATIENTS), numbers("b", "val masks", shifted(0.1, 3))]
    assert [test is None for test in paired_tests(rows, "positives")] == [False, True]


def test_where_all_methods_read_masks_no_trivial_row_is_the_best() -> None:
    rows = [numbers("a", "train masks", PATIENTS), numbers("b", "train masks", shifted(0.1, 3))]
    rows += [
        replace(numbers("all-foreground", "nothing", shifted(0.2, 4)), trivial=True),
        replace(numbers("oracle", "test masks", shifted(1, 5)), trivial=True),
    ]
    assert [test is None for test in paired_tests(rows, "positives")] == [False, True, False, False]
    rows[0] = numbers("a", "tags", PATIENTS)
    assert [test is None for test in paired_tests(rows, "positives")] == [False, False, True, False]


def test_patients_that_only_one_row_has_are_left_out() -> None:
    some = {p: v + 0.01 for p, v in list(PATIENTS.items())[6:]}
    rows = [numbers("part", "tags", some), numbers("all", "tags", shifted(0.5, 1))]
    (test, _) = paired_tests(rows, "positives")
    assert test is not None and test.patients == 6
    rows[0] = numbers("other", "tags", {"q": 0.1})
    (test, _) = paired_tests(rows, "positives")
    assert test is not None and math.isnan(test.p) and test.patients == 0


def test_equal_rows_do_not_differ() -> None:
    """Scipy has nothing to rank here and warns; the answer is that nothing speaks for a difference."""
    rows = [numbers("a", "tags", PATIENTS), numbers("b", "tags", dict(PATIENTS))]
    assert paired_tests(rows, "positives") == [None, ("a", 1.0, 12)]


@pytest.mark.parametrize(
    ("number", "metric", "text"),
    [
        (Number(0.5251, 0.0569, 0.4, 0.6, 4), "dice", "0.525 ± 0.057 [0.400, 0.600]"),
        (Number(26.04, math.nan, math.nan, math.nan, 1), "hd95", "26.0"),
        (Number(math.nan, math.nan, math.nan, math.nan, 0), "hd95", "-"),
    ],
)
def test_a_number_as_a_person_reads_it(number: Number, metric: str, text: str) -> None:
    assert show_number(number, metric) == text


@pytest.mark.parametrize(
    ("value", "sd", "unit", "text"),
    [
        ("77.4", "0.0", "%", "0.774 ± 0.000"),
        ("0.450", "0.012", "1", "0.450 ± 0.012"),
        ("116", "", "s", "116"),
    ],
)
def test_a_printed_number_keeps_its_digits(value: str, sd: str, unit: str, text: str) -> None:
    assert show_printed(Printed("s", "d", "r", "tags", "mixed", "dice", unit, value, sd)) == text
    assert show_printed(None) == "-"


# patients in several repeats


def slice_of(patient: str, tp: int, wrong: int, hd95: float = math.nan) -> SliceRecord:
    """A slice with so many pixels of the target found, and so many not; Dice is 2 tp / (2 tp + wrong)."""
    counts, status = Counts(tp, 0, wrong, 1000), "ok" if math.isfinite(hd95) else "excluded"
    return SliceRecord(
        "method", "c", 0, patient, 1, "given", True, 0.5, 0.5, counts, hd95, status, math.nan, ""
    )


def test_a_patient_is_worth_the_mean_of_its_repeats_not_that_of_their_pixels() -> None:
    """Dice 1 in one draw and .18 in the other are .59, and not what the pixels of both pool to."""
    first = [slice_of("a", 4, 0, 3.0), slice_of("a", 5, 0), slice_of("b", 1, 2)]
    second = [slice_of("a", 0, 80), slice_of("a", 9, 2, 5.0), slice_of("b", 1, 6)]
    found = of_repeats([first, second])
    assert found["dice"]["a"] == pytest.approx((1 + 18 / (18 + 82)) / 2, abs=1e-5)
    assert found["dice"]["b"] == pytest.approx((2 / 4 + 2 / 8) / 2, abs=1e-5)
    assert found["hd95"]["a"] == 4.0 and math.isnan(found["hd95"]["b"])


def test_mean_interval_and_test_are_of_the_same_patients(tmp_path: Path) -> None:
    """Two patients of equal slices, two draws of Dice 1 and .18: the mean is .591, and so is every patient's."""
    repeats = []
    for draw, (tp, fp) in enumerate(((10, 0), (10, 91))):
        folder = tmp_path / str(draw)
        truth = {f"p{i}": (tp, fp) for i in range(2)}
        write_evaluation(folder, truth)
        repeats.append(Repeat("", {"positives": folder}))
    protocol = Protocol(setups=("positives",), metrics=("dice",), averaging="patient", resamples=50)
    row = read_row(repeats, "method", protocol)
    number = row.numbers["positives", "dice"]
    expected = (1 + 20 / 111) / 2
    assert number.mean == pytest.approx(expected, abs=1e-3) and expected == pytest.approx(0.59, abs=1e-3)
    assert number.low - 1e-5 <= number.mean <= number.high + 1e-5, "but for digits of summary.json"
    assert row.patients["positives"] == pytest.approx({"/p0": expected, "/p1": expected}, abs=1e-3)


def write_evaluation(folder: Path, patients: dict[str, tuple[int, int]]) -> None:
    """What `evaluate` writes, as far as a benchmark reads it: a slice a patient, of tp and fp."""
    records = [
        replace(slice_of(name, tp, 0), case=name, counts=Counts(tp, fp, 0, 9))
        for name, (tp, fp) in patients.items()
    ]
    lines = [record.cells() for record in records]
    folder.mkdir()
    write_numbers(folder / "per_slice.csv", PER_SLICE, lines)
    subsets = summarise(records, resamples=5)
    row = {"row": "method", "title": "M", "reads": "tags", "positives": subsets, "mixed": subsets}
    level = {"n": 0, "method": {"auc": math.nan}, "position": {"auc": math.nan, "fit": ""}, "detection": []}
    summary = {"rows": [row], "slices": {}, "truth": "", "hd95": {"unit": "px"}, "image_level": level}
    (folder / "summary.json").write_text(json.dumps(to_json(summary)))


# rows that are not complete


def test_a_row_of_fewer_repeats_is_neither_the_best_nor_tested() -> None:
    rows = [
        numbers("weak", "tags", PATIENTS),
        numbers("half", "tags", shifted(0.3, 1)),
        numbers("good", "tags", shifted(0.1, 2)),
    ]
    rows[1] = replace(rows[1], complete=False)
    weak, half, good = paired_tests(rows, "positives")
    assert weak is not None and weak.against == "good" and weak.patients == 12
    assert (half, good) == (UNTESTED, None)
    assert paired_tests([replace(row, complete=False) for row in rows], "positives") == [UNTESTED] * 3
    supervised = [rows[1], numbers("supervised", "train masks", PATIENTS)]
    assert paired_tests(supervised, "positives") == [UNTESTED] * 2, "no fair row is complete"


def written(out: Path, test: PairedTest | None, *, drawn: bool) -> str:
    number = {("positives", "dice"): Number(0.5, 0.1, 0.4, 0.6, 2)}
    line = Line("U-Net", "unet", "train masks", number, 1, 2, tests={"positives": test})
    table = DataTable("toy", "facts.", "px", [line], (), drawn)
    return write_tables(out, [table], Protocol(setups=("positives",), metrics=("dice",)), {})


def test_what_was_not_tested_has_no_p(tmp_path: Path) -> None:
    text = written(tmp_path, UNTESTED, drawn=False)
    assert "| U-Net | here | train masks | 1 of 2 | 0.500 ± 0.100 [0.400, 0.600] | - |" in text
    assert (tmp_path / "table.csv").read_text().splitlines()[1].endswith("0.6,,,")
    assert "| best |" in written(tmp_path, None, drawn=False)
    assert "a row of fewer repeats than planned is not tested (-), nor another against it" in text


def test_sizes_stand_beside_the_printed_ones(tmp_path: Path) -> None:
    number = {("positives", "dice"): Number(0.5, 0.1, 0.4, 0.6, 2)}
    line = Line(
        "U-Net", "unet", "train masks", number, 2, 2, {"parameters": 31.037633}, tests={"positives": None}
    )
    table = DataTable("toy", "facts.", "px", [line], ["feng2024-table1-monuseg"])
    text = write_tables(tmp_path, [table], Protocol(setups=("positives",), metrics=("dice",)), {})
    lines = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| ")
    ]
    assert lines[0][-1] == "parameters [M]"
    sizes = {row[0]: row[-1] for row in lines[1:]}
    assert sizes == {"U-Net": "31.04", "UNet": "31.04", "TransUNet": "93.19", "SwinUNet": "27.17", "GLoRIA": "32.52",
                     "LViT": "29.72", "TextDiff": "9.68"}  # fmt: skip
    assert ",parameters,31.0376" in (tmp_path / "table.csv").read_text()


def test_intervals_and_tests_hold_for_the_drawn_pictures_alone(tmp_path: Path) -> None:
    note = "hold for the training pictures that were drawn"
    assert note in written(tmp_path, None, drawn=True) and note not in written(tmp_path, None, drawn=False)
