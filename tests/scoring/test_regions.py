"""Magnitudes of a score map in target and rest: numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tagmask.scoring.regions import region_rms

SCORE = np.array([[3.0, 1.0, 1.0, 9.0], [-1.0, 7.0, 1.0, 9.0]], dtype=np.float32)
TRUTH = np.array([[1, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
BODY = np.array(
    [[1, 1, 1, 0], [1, 0, 1, 0]], dtype=bool
)  # ends before the target does; the last column is air


def test_root_of_the_mean_square_on_both_sides() -> None:
    target, rest = region_rms(SCORE, TRUTH, BODY)
    assert target == pytest.approx(math.sqrt((9 + 1 + 49) / 3)) and rest == 1.0


def test_small_scores_do_not_vanish() -> None:
    tiny = np.full((2, 4), 1e-30, dtype=np.float32)
    assert region_rms(tiny, TRUTH, BODY) == pytest.approx((1e-30, 1e-30))


def test_where_there_is_no_pixel_there_is_no_number() -> None:
    nothing, all_of_it = np.zeros_like(BODY), np.ones_like(BODY)
    assert math.isnan(region_rms(SCORE, nothing, BODY)[0]) and region_rms(SCORE, nothing, BODY)[1] > 1
    assert math.isnan(region_rms(SCORE, all_of_it, BODY)[1]) and math.isnan(
        region_rms(SCORE, TRUTH, nothing)[1]
    )


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the shapes \(2, 4\), \(2, 4\) and \(1, 4\) differ"):
        region_rms(SCORE, TRUTH, BODY[:1])
