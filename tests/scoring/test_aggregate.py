"""Three ways to average, on slices whose counts are written down."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tagmask.errors import InputError
from tagmask.io import write_csv
from tagmask.metrics import Counts
from tagmask.scoring.aggregate import PER_PATIENT, per_patient, summarise
from tagmask.scoring.baselines import PositionPrior
from tagmask.scoring.detection import image_level
from tagmask.scoring.slice_records import PER_SLICE, SliceRecord, read_slices

NAN = float("nan")


def record(
    patient: str, tp: int, fp: int, fn: int, hd95: float = NAN, ap: float = NAN, k: int = 0
) -> SliceRecord:
    status = "ok" if math.isfinite(hd95) else "excluded"
    return SliceRecord(
        row="method",
        case=patient,
        slice=k,
        patient=patient,
        tag=int(tp + fn > 0),
        tag_source="table",
        positive=tp + fn > 0,
        position=0.5,
        score=float(tp),
        counts=Counts(tp, fp, fn, 100 - tp - fp - fn),
        hd95=hd95,
        hd95_status=status,
        ap=ap,
        ap_status="ok" if math.isfinite(ap) else "no_positives",
    )


SLICES = [
    record("a", 10, 0, 0, 1.0, 0.9),  # Dice 1
    record("a", 0, 0, 10, NAN, 0.1),  # 0
    record("b", 5, 5, 5, 4.0, 0.5),  # 1/2
    record("b", 0, 0, 0),  # empty on empty
]


def test_per_image_per_patient_and_pooled_are_three_numbers() -> None:
    found = summarise(SLICES, 0.7, resamples=100)
    assert found["image"]["dice"]["value"] == pytest.approx((1 + 0 + 0.5 + 1) / 4, abs=1e-5)
    assert found["patient"]["dice"]["value"] == pytest.approx((20 / 30 + 10 / 20) / 2, abs=1e-5)
    assert found["pooled"]["dice"]["value"] == pytest.approx(30 / 50, abs=1e-5)
    assert found["pooled"]["precision"]["value"] == 15 / 20
    assert found["pooled"]["recall"]["value"] == 15 / 30
    assert found["pooled"]["auprc"]["value"] == 0.7 and math.isnan(found["pooled"]["auprc"]["low"])


def test_undefined_slices_are_left_out_and_counted() -> None:
    found = summarise(SLICES, resamples=100)
    assert found["image"]["precision"] | {"low": 0, "high": 0} == {
        **{"value": 0.75, "low": 0, "high": 0, "n": 2, "excluded": 2, "penalised": 0}
    }
    assert (found["image"]["recall"]["n"], found["image"]["recall"]["excluded"]) == (3, 1)
    assert found["image"]["hd95"]["value"] == 2.5 and found["image"]["hd95"]["excluded"] == 2
    assert found["patient"]["hd95"]["value"] == 2.5 and found["patient"]["hd95"]["n"] == 2
    assert found["image"]["auprc"]["value"] == pytest.approx(0.5)
    assert found["patient"]["auprc"]["value"] == pytest.approx(0.5)


def test_order_does_not_matter_and_intervals_hold_the_value() -> None:
    many = [replace(r, patient=f"{r.patient}{i}") for i in range(6) for r in SLICES]
    found, turned = summarise(many, resamples=500), summarise(many[::-1], resamples=500)
    for per in ("image", "patient", "pooled"):
        cell = found[per]["dice"]
        assert cell["low"] < cell["value"] < cell["high"]
        assert turned[per]["dice"]["value"] == pytest.approx(cell["value"])


def test_nothing_gives_nothing() -> None:
    found = summarise([])
    assert math.isnan(found["image"]["dice"]["value"]) and found["image"]["dice"]["n"] == 0
    assert per_patient([], "method", "mixed") == []


def test_lines_have_the_columns_that_are_promised() -> None:
    assert tuple(SLICES[3].cells()) == PER_SLICE
    assert [SLICES[3].cells()[k] for k in ("status", "dice", "precision", "hd95")] == [
        "both_empty",
        "1",
        "",
        "",
    ]
    lines = per_patient(SLICES, "method", "mixed")
    assert [tuple(line) for line in lines] == [PER_PATIENT, PER_PATIENT]
    assert [line["tp"] for line in lines] == [10, 5]


def test_image_level_prefers_tags_and_needs_all_of_them() -> None:
    tagged = image_level({"method": SLICES}, PositionPrior(), "slices.csv", resamples=50)
    assert (tagged["against"], tagged["n"], tagged["positives"]) == ("tags", 4, 3)
    assert tagged["method"]["auc"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert tagged["position"]["auc"] == 0.5
    wrong = [replace(SLICES[0], tag=0), *SLICES[1:]]
    assert image_level({"method": wrong}, PositionPrior(), "", resamples=50)["positives"] == 2
    some = [replace(SLICES[0], tag=None), *SLICES[1:]]
    assert image_level({"method": some}, PositionPrior(), "", resamples=50)["against"] == "truth"
    broken = [replace(SLICES[0], score=np.nan), *SLICES[1:]]
    assert math.isnan(image_level({"method": broken}, PositionPrior(), "", resamples=50)["method"]["auc"])
    assert tagged["detection"] == [
        {"row": "method", "sensitivity": pytest.approx(2 / 3), "false_positive_rate": 0.0}
    ]


def test_a_table_of_slices_is_read_as_it_was_written(tmp_path: Path) -> None:
    marked = replace(SLICES[0], rms_target=2.5, rms_rest=0.125)
    rows = [marked, *SLICES[1:], replace(SLICES[0], row="all_empty", tag=None, tag_source="", score=NAN)]
    write_csv(tmp_path / "per_slice.csv", PER_SLICE, (row.cells() for row in rows))
    again = [*read_slices(tmp_path), *read_slices(tmp_path, "all_empty")]
    assert [one.cells() for one in again] == [one.cells() for one in rows]
    assert again[0] == marked and again[0].name == "a/0" and again[-1].tag is None
    (tmp_path / "other").mkdir()
    for old, new in (("tp,fp", "tp,xx"), ("method,a,0", "method,a,zero")):
        text = (tmp_path / "per_slice.csv").read_text().replace(old, new)
        (tmp_path / "other" / "per_slice.csv").write_text(text)
        with pytest.raises(
            InputError, match=r"per_slice\.csv: cannot be read as a table of slices.*Evaluate again"
        ):
            list(read_slices(tmp_path / "other"))
    with pytest.raises(InputError, match="FileNotFoundError"):
        list(read_slices(tmp_path / "nowhere"))
