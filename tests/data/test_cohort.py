from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tagmask.data.cohort import Problem, check_splits, check_tags, doubts, picture_ranges, random_splits
from tagmask.data.table import Case
from tagmask.errors import ConfigError, TableError


def case(
    patient: str, split: str | None = None, label: int | None = 0, *, slice: int = 0, row: int = 2
) -> Case:
    name = f"{patient}_{slice}"
    return Case(
        name, name, (Path(f"{name}.png"),), slice, label, patient, None, split, None, row, Path("t.csv")
    )


def cohort(patients: int) -> list[Case]:
    return [case(f"P{p}", slice=s) for p in range(patients) for s in range(3)]


def splits(cases: list[Case]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for c in cases:
        found.setdefault(c.split or "", set()).add(c.patient)
    return found


def test_splits_are_drawn_by_patient() -> None:
    drawn = random_splits(cohort(40), val=0.15, test=0.2, seed=3)
    check_splits(drawn)
    assert {name: len(patients) for name, patients in splits(drawn).items()} == {
        "train": 26,
        "val": 6,
        "test": 8,
    }
    assert [c.id for c in drawn] == [c.id for c in cohort(40)]
    assert splits(random_splits(list(reversed(cohort(40))), seed=3)) == splits(drawn)
    assert splits(random_splits(cohort(40), seed=4)) != splits(drawn)


def test_two_spellings_of_a_patient_are_drawn_as_one() -> None:
    others = [case(f"P{p}") for p in range(6)]
    twins = [case(name, slice=n) for n, name in enumerate(("Ren\u00e9", "Rene\u0301", "REN\u00c9"))]
    for seed in range(8):
        drawn = random_splits([*others, *twins], seed=seed)
        assert len({c.split for c in drawn[6:]}) == 1
        check_splits(drawn)
    assert "All rows are of one patient" in str(
        doubts([replace(c, split="train") for c in twins], drawn=False)[0]
    )


@pytest.mark.parametrize(
    ("patients", "val", "test", "sizes"),
    [
        (3, 0.15, 0.2, (1, 1, 1)),
        (2, 0.15, 0.2, (2, 0, 0)),
        (1, 0.15, 0.2, (1, 0, 0)),
        (10, 0, 0.2, (8, 0, 2)),
        (10, 0.2, 0, (8, 2, 0)),
        (3, 0.01, 0.98, (1, 1, 1)),
        (3, 0, 0.98, (1, 0, 2)),
        (3, 0.98, 0.01, (1, 1, 1)),
    ],
)
def test_small_cohorts_keep_something_to_learn_from(
    patients: int, val: float, test: float, sizes: tuple[int, ...]
) -> None:
    found = splits(random_splits(cohort(patients), val=val, test=test))
    assert tuple(len(found.get(name, ())) for name in ("train", "val", "test")) == sizes


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.2), (0.5, 0.5), (float("nan"), 0.2), (0.1, 1.5)])
def test_shares_out_of_range(val: float, test: float) -> None:
    with pytest.raises(ConfigError, match="are not allowed"):
        random_splits(cohort(5), val=val, test=test)


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (
            [case("P", "train"), case("P", "test", row=9)],
            "t.csv, row 9: The patient 'P' is in test, and in train",
        ),
        ([case("p1", "train"), case("P1", "val", row=9)], "row 9: The patient 'P1' is in val"),
        (
            [case("Ren\u00e9", "train"), case("RENE\u0301", "test", row=9)],
            "' is in test, and in train (t.csv, row 2)",
        ),
        ([case("P", "train"), case("Q", None, row=9)], "row 9: The row has no split, but others do"),
        ([case("P", "training", row=9)], "row 9: The row is in the split 'training'"),
    ],
)
def test_bad_splits(cases: list[Case], message: str) -> None:
    with pytest.raises(TableError) as caught:
        check_splits(cases)
    assert message in str(caught.value) and caught.value.repair


def test_tags_are_needed_for_train_and_val_alone() -> None:
    good = [case("A", "train", 0), case("B", "train", 1), case("C", "val", 1), case("D", "test", None)]
    check_tags(good, "label")
    for split in ("train", "val"):
        with pytest.raises(
            TableError, match=r"row 9: The row has no tag \(column liver\). It is so with 2 rows"
        ):
            check_tags([*good, case("E", split, None, row=9), case("F", "val", None)], "liver")


@pytest.mark.parametrize("label", [0, 1])
def test_one_kind_of_tag_in_train(label: int) -> None:
    cases = [case("A", "train", label), case("B", "train", label), case("C", "val", 1 - label)]
    with pytest.raises(
        TableError, match=f"All 2 rows of train have the tag {label}: there is nothing to learn"
    ):
        check_tags(cases, "label")


def test_doubts() -> None:
    def texts(cases: list[Case], drawn: bool = False) -> str:
        return "\n".join(map(str, doubts(cases, drawn=drawn)))

    fine = [case(f"{s}{i}", s, i) for s in ("train", "val", "test") for i in (0, 1)]
    assert texts(fine) == ""
    assert "All rows are of one patient (P)" in texts([case("P", "train", 0), case("P", "train", 1, slice=1)])
    assert "The split val is empty" in texts([case("P", "train", 0), case("Q", "test", 1)])
    assert "The split test has only the tag 1" in texts([*fine[:4], case("T", "test", 1)])
    assert "The split test has no tags" in texts([*fine[:4], case("T", "test", None)])
    alone = [Case(n, n, (Path(n),), None, i, n, None, "train") for i, n in enumerate("ab")]
    assert "each image counts as one" in texts(alone, drawn=True)
    assert "each image counts as one" not in texts(alone)
    named = [replace(case, named=True) for case in alone]
    assert "each image counts as one" not in texts(named, drawn=True), "patients called as their images are"


def test_pictures_have_a_range_by_patient() -> None:
    cases = [case("P", slice=4), case("P", slice=2), case("Q", slice=7), case("P", slice=9)]
    assert picture_ranges(cases) == {"P": (2, 9), "Q": (7, 7)}


def test_a_problem_reads_as_one_line() -> None:
    assert (
        str(Problem("failed", "a", "a.png", "It is gone.", "Copy it."))
        == "failed: a: a.png: It is gone. Copy it."
    )
    assert str(Problem("warning", "", "t.csv", "Odd.")) == "warning: t.csv: Odd."
