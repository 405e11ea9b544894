"""Numbers that can be done by hand: folds put together, and who is tested against whom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tagmask.benchmarking.numbers import Number, PairedTest, RowNumbers, merged, paired_tests
from tagmask.benchmarking.published import Printed
from tagmask.benchmarking.tables import show_number, show_printed


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


def test_a_trivial_row_may_be_the_best_and_then_says_so() -> None:
    rows = [numbers("method", "tags", PATIENTS), numbers("all-foreground", "nothing", shifted(0.1, 3))]
    assert paired_tests(rows, "positives")[1] is None


def test_where_all_rows_read_masks_the_best_of_them_it_is() -> None:
    rows = [numbers("a", "train masks", PATIENTS), numbers("b", "val masks", shifted(0.1, 3))]
    assert [test is None for test in paired_tests(rows, "positives")] == [False, True]


def test_where_all_methods_read_masks_no_trivial_row_is_the_best() -> None:
    rows = [numbers("a", "train masks", PATIENTS), numbers("b", "train masks", shifted(0.1, 3))]
    rows += [
        numbers("all-foreground", "nothing", shifted(0.2, 4)),
        numbers("oracle", "test masks", shifted(1, 5)),
    ]
    assert [test is None for test in paired_tests(rows, "positives", rows[2:])] == [False, True, False, False]
    rows[0] = numbers("a", "tags", PATIENTS)
    assert [test is None for test in paired_tests(rows, "positives", rows[2:])] == [False, False, True, False]


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
