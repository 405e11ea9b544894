"""Which slices are shown, how they are turned, and the file between evaluation and report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tagmask.errors import InputError
from tagmask.scoring.panel_slices import Kind, PanelSlice, choose
from tagmask.scoring.panels import Panel, cut, keep_panels, read_panels, shared_by_all, write_panels
from tagmask.types import Study


def line(
    case: str, dice: float | str, positive: int = 1, patient: str = "", **more: object
) -> dict[str, object]:
    row: dict[str, object] = {
        "case": case,
        "slice": "0",
        "patient": patient or case,
        "positive": str(positive),
    }
    return {**row, "dice": str(dice), "truth_pixels": "10", "mask_pixels": "10", **more}


def test_best_median_worst_and_negatives() -> None:
    rows = [line(f"p{n}", n / 10) for n in range(1, 10)]
    rows += [line(f"n{n}", 0.0, 0, mask_pixels=n) for n in (5, 0, 90, 40, 7)]
    chosen = [c for c in choose(rows, each=1) if c.kind != "shared"]
    assert [(c.kind, c.case) for c in chosen] == [
        ("best", "p9"), ("median", "p5"), ("worst", "p1"), ("negative", "n90"),
    ]  # fmt: skip
    chosen = [c for c in choose(rows) if c.kind != "shared"]
    assert [c.case for c in chosen if c.kind == "best"] == ["p9", "p8", "p7"]
    assert [c.case for c in chosen if c.kind == "worst"] == ["p1", "p2", "p3"]
    assert sorted(c.case for c in chosen if c.kind == "median") == ["p4", "p5", "p6"]
    assert [c.case for c in chosen if c.kind == "negative"] == ["n90", "n7", "n0"]
    assert len({c.case for c in chosen}) == len(chosen)


def test_other_patients_first() -> None:
    rows = [line(f"a{n}", 0.9 + n / 100, patient="a") for n in range(9)] + [line("b", 0.5), line("c", 0.4)]
    rows += [line(f"d{n}", 0.1, patient="d") for n in range(3)]
    assert [c.case for c in choose(rows) if c.kind == "best"] == ["a8", "b", "c"]


def test_few_or_undefined() -> None:
    assert choose([]) == []
    assert [c.kind for c in choose([line("a", 0.5)])] == ["best", "shared"]
    two = choose([line("a", 0.5), line("b", 0.2)])
    assert [c.kind for c in two] == ["best", "worst", "shared", "shared"]
    assert (
        [c.kind for c in choose([line("a", "")])]
        == ["shared"]
        == [c.kind for c in choose([line("a", "nan")])]
    )
    assert choose([line("a", "", truth_pixels="0")]) == []  # positive by its tag, with nothing to show


def test_shared_slices_are_those_of_the_truth_whatever_the_method_found() -> None:
    def shared(dice: Callable[[int], float]) -> list[PanelSlice]:
        rows = [line(f"p{n}", dice(n), patient=f"{n % 4}", truth_pixels=n) for n in range(1, 17)]
        return [c for c in choose([*rows, line("n", 0.0, 0, mask_pixels="9")]) if c.kind == "shared"]

    rising, falling = shared(lambda n: n / 20), shared(lambda n: 1 - n / 20)
    assert [c.case for c in rising] == [c.case for c in falling]
    assert [c.dice for c in rising] != [c.dice for c in falling]
    # One of each quarter of the sizes, small to large, each of another patient.
    assert [(c.truth_pixels - 1) // 4 for c in rising] == [0, 1, 2, 3]
    assert len({c.truth_pixels % 4 for c in rising}) == 4


def test_only_what_all_evaluations_have_of_one_truth_stands_side_by_side() -> None:
    def panel(case: str, kind: Kind = "shared", truth: int = 1) -> Panel:
        mask = np.full((2, 2), True)
        return Panel(PanelSlice(kind, case, 3, 0.5, 4, 4), None, np.full((2, 2), bool(truth)), mask, None)

    one = [panel("a"), panel("b"), panel("c"), panel("d", "best")]
    two = [panel("c"), panel("b", truth=0), panel("a"), panel("d", "best")]
    rows = shared_by_all([one, two])
    assert [[p.choice.case for p in row] for row in rows] == [["a", "a"], ["c", "c"]]
    assert rows[0][0] is one[0] and rows[0][1] is two[2]
    assert shared_by_all([]) == [] and shared_by_all([one, []]) == []


def test_ties_show_the_larger_lesion() -> None:
    rows = [
        line("small", 0.0, truth_pixels=3),
        line("large", 0.0, truth_pixels=300),
        line("good", 0.9, truth_pixels=4),
    ]
    rows.append(line("well", 0.9, truth_pixels=40))
    assert [c.case for c in choose(rows) if c.kind == "best"] == ["well"]
    assert [c.case for c in choose(rows) if c.kind == "worst"] == ["large"]


def volume(affine: np.ndarray) -> tuple[Study, np.ndarray]:
    """A volume of 8 x 6 x 4, bright at one voxel of slice 2."""
    image = np.zeros((1, 8, 6, 4), np.float32)
    truth = np.zeros((8, 6, 4), bool)
    image[0, 1, 2, 2], truth[1, 2, 2] = 5, True
    return Study("v", image, affine, "volume", (Path("v.nii"),)), truth


def choice(index: int) -> PanelSlice:
    return PanelSlice("best", "v", index, 0.5, 1, 1)


@pytest.mark.parametrize("flips", [(1, 1), (-1, 1), (1, -1)])
def test_a_volume_is_turned_for_display(flips: tuple[int, int]) -> None:
    study, truth = volume(np.diag([*flips, 1, 1]).astype(float))
    scores = truth.astype(np.float32) * 3
    panel = cut(choice(2), study, "axial", truth=truth, mask=~truth, scores=scores)
    # Rows run from anterior to posterior, columns from right to left: axes that count to R or A are turned.
    column = 7 - 1 if flips[0] > 0 else 1
    row = 5 - 2 if flips[1] > 0 else 2
    assert panel.truth.shape == (6, 8)
    (found,) = np.argwhere(panel.truth)
    assert tuple(found) == (row, column)
    assert panel.image is not None and panel.image[tuple(found)] == panel.image.max() > 0
    assert panel.score is not None and panel.score[tuple(found)] == 3
    assert (panel.mask == ~panel.truth).all()
    assert not cut(choice(1), study, "axial", truth=truth, mask=truth).truth.any()


def test_pixels_are_square_and_large_slices_are_made_small() -> None:
    study, truth = volume(np.diag([1.0, 2.0, 1.0, 1.0]))
    assert cut(choice(2), study, "axial", truth=truth, mask=truth).truth.shape == (8, 5)
    image = np.zeros((1, 1000, 500, 1), np.float32)
    truth = np.zeros((1000, 500, 1), bool)
    truth[400:600, 100:300] = True
    panel = cut(choice(0), Study("p", image, None, "picture", (Path("p"),)), "axial", truth=truth, mask=truth)
    assert panel.truth.shape == (256, 128)
    assert panel.truth.mean() == pytest.approx(truth.mean(), abs=0.003)


def test_a_colour_picture_keeps_its_hue_and_a_missing_image_is_none() -> None:
    image = np.zeros((3, 4, 5, 1), np.float32)
    image[0], image[1, 0] = 200, 100
    truth = np.zeros((4, 5, 1), bool)
    panel = cut(choice(0), Study("p", image, None, "picture", (Path("p"),)), "axial", truth=truth, mask=truth)
    assert panel.image is not None and panel.image.shape == (4, 5, 3)
    assert panel.image[0, 0].tolist() == [255, 128, 0] and panel.image[3, 4].tolist() == [255, 0, 0]
    unknown = Study("p", image, None, "picture", ())
    assert cut(choice(0), unknown, "axial", truth=truth, mask=truth).image is None


def panels() -> list[Panel]:
    mask = np.eye(5, 6, dtype=bool)
    score = np.arange(30, dtype=np.float32).reshape(5, 6)
    hostile = PanelSlice("worst", "<script>/../é", 3, None, 4, 5)
    return [
        Panel(choice(1), np.full((5, 6), 9, np.uint8), mask, ~mask, score),
        Panel(hostile, None, mask, mask, None),
    ]


def test_written_panels_are_read_back(tmp_path: Path) -> None:
    write_panels(tmp_path / "panels.npz", panels())
    for written, read in zip(panels(), read_panels(tmp_path / "panels.npz"), strict=True):
        assert written.choice == read.choice
        for name in ("image", "truth", "mask", "score"):
            before, after = getattr(written, name), getattr(read, name)
            assert (before is None and after is None) or (
                before.dtype == after.dtype and (before == after).all()
            )
    write_panels(tmp_path / "none.npz", [])
    assert read_panels(tmp_path / "none.npz") == []


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "panels.npz"
    write_panels(path, panels())
    whole = path.read_bytes()
    swapped = whole[:200] + bytes(50) + whole[250:]
    array = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }".ljust(127)
        + b"\nabc"
    )
    for content in (b"", b"no zip", whole[: len(whole) // 2], swapped, array):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read"):
            read_panels(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "panels.npz", meta=np.asarray([{"kind": "best"}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        read_panels(tmp_path / "panels.npz")


def test_shapes_must_agree(tmp_path: Path) -> None:
    wrong = Panel(choice(1), None, np.zeros((5, 6), bool), np.zeros((6, 5), bool), None)
    write_panels(tmp_path / "panels.npz", [wrong])
    with pytest.raises(InputError):
        read_panels(tmp_path / "panels.npz")


def test_keep_panels_reads_each_chosen_case_and_skips_what_is_gone(tmp_path: Path) -> None:
    study, truth = volume(np.eye(4))

    def load(case: str) -> tuple[Study, np.ndarray, np.ndarray, None]:
        if case == "gone":
            raise InputError("it is gone.")
        return study, truth, truth, None

    rows = [line("v", 1.0, slice=2), line("gone", 0.5, slice=1), line("w", 0.1, slice=1)]
    keep_panels(tmp_path / "panels.npz", rows, "axial", load)
    found = read_panels(tmp_path / "panels.npz")
    assert [(p.choice.case, p.choice.kind, int(p.truth.sum())) for p in found] == [
        ("v", "best", 1), ("w", "worst", 0), ("v", "shared", 1), ("w", "shared", 0),
    ]  # fmt: skip
