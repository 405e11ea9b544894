from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tagmask.errors import ConfigError
from tagmask.masks import MaskSettings, binarise
from tagmask.metrics import counts, dice
from tagmask.scoring.thresholds import CANDIDATES, SHARES, best_threshold

SIDE = 24
IMAGE = torch.rand(6, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def squares() -> tuple[torch.Tensor, np.ndarray]:
    """Maps of noise below 0.3 and, on four of six slices, a square above 0.5; one slice has a bright speck too."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 1, SIDE, SIDE, generator=generator) * 0.3
    truth = np.zeros((6, SIDE, SIDE), np.uint8)
    truth[:4, 5:13, 6:14] = 1
    maps[:, 0][torch.from_numpy(truth) > 0] += 0.5
    maps[5, 0, 20, 20] = 0.9
    return maps, truth


def by_hand(maps: torch.Tensor, truth: np.ndarray, settings: MaskSettings, value: float) -> float:
    found = binarise(maps, IMAGE, replace(settings, rule="fixed", value=value)).mask
    return float(np.mean([dice(*counts(m, t)[:3]) for m, t in zip(found[:, 0].numpy(), truth, strict=True)]))


def test_the_candidates_are_the_papers() -> None:
    assert len(CANDIDATES) == 69 and np.allclose(CANDIDATES, np.arange(0.01, 0.70, 0.01))


@pytest.mark.parametrize(
    "settings",
    [
        MaskSettings(),
        MaskSettings(median=3),
        MaskSettings(min_area=9),
        MaskSettings(keep_largest=True, min_area=3, median=3),
        MaskSettings(median=3, foreground="head", intensity=1.0),
        MaskSettings(rule="otsu"),  # a fixed threshold takes the place of a rule without a value
    ],
)
def test_every_threshold_is_judged_as_it_would_be_used(settings: MaskSettings) -> None:
    maps, truth = squares()
    maps = maps - 0.15  # scores below zero
    candidates = [-0.2, 0.05, 0.2, 0.4, 0.55, 0.9]
    found = best_threshold(maps, IMAGE, truth, settings, candidates)
    assert [value for value, _ in found.tried] == candidates
    expected = [by_hand(maps, truth, settings, value) for value in candidates]
    assert np.allclose([mean for _, mean in found.tried], expected)
    assert (found.value, found.dice) == (candidates[int(np.argmax(expected))], pytest.approx(max(expected)))


@pytest.mark.parametrize("rule", ["peak", "quantile"])
def test_shares_are_judged_as_they_would_be_used(rule: Any) -> None:
    maps, truth = squares()
    settings = MaskSettings(rule=rule, value=0.5, median=3, keep_largest=True)
    found = best_threshold(maps, IMAGE, truth, settings, SHARES)
    for share, mean in found.tried:
        masks = binarise(maps, IMAGE, replace(settings, value=share)).mask[:, 0].numpy()
        expected = [dice(*counts(m, t)[:3]) for m, t in zip(masks, truth, strict=True)]
        assert mean == pytest.approx(float(np.mean(expected)))
    assert found.dice == max(mean for _, mean in found.tried)


def test_the_best_lies_between_target_and_rest() -> None:
    maps, truth = squares()
    found = best_threshold(maps, IMAGE, truth, MaskSettings(min_area=2))
    assert found.value == 0.3 and found.dice == 1.0  # the first that is perfect, empty slices and all
    speck = best_threshold(maps, IMAGE, truth)
    assert speck.value == 0.3 and speck.dice == pytest.approx(5 / 6, abs=1e-4)


def test_empty_slices_count() -> None:
    maps, truth = squares()
    found = best_threshold(maps, IMAGE, truth * 0, candidates=[0.1, 0.85, 0.95, 2.0])
    assert (found.value, found.dice) == (0.95, 1.0)
    nothing = dict(best_threshold(maps, IMAGE, truth, candidates=[5.0]).tried)
    assert nothing[5.0] == pytest.approx(2 / 6, abs=1e-4)  # all-empty: the share of healthy slices


@pytest.mark.parametrize("value", [-9.0, 0.05, 0.5])
def test_nothing_outside_the_foreground_is_marked(value: float) -> None:
    maps, truth = squares()
    image = torch.full((6, 1, SIDE, SIDE), -1.0)
    image[:, :, 3:16, 3:16] = 1.0
    image[:, :, 8, 16:18] = 1.0  # a bridge to another part, which erosion breaks
    image[:, :, 6:12, 18:23] = 1.0
    maps[5, 0, 7:11, 19:22] = 0.9  # all that is left of this slice lies there
    settings = MaskSettings(foreground="head", erode=1, median=3, keep_largest=value > 0)
    found = best_threshold(maps, image, truth, settings, [value])
    mask = binarise(maps, image, replace(settings, rule="fixed", value=value)).mask
    assert not mask[:, 0, 0].any() and mask.any()
    expected = [dice(*counts(m, t)[:3]) for m, t in zip(mask[:, 0].numpy(), truth, strict=True)]
    assert found.dice == pytest.approx(float(np.mean(expected)))


def test_no_candidate_is_refused() -> None:
    maps, truth = squares()
    for candidates in ([], [0.1, float("nan")]):
        with pytest.raises(ConfigError, match=r"mask\.value"):
            best_threshold(maps, IMAGE, truth, candidates=candidates)


def test_inputs_are_untouched() -> None:
    maps, truth = squares()
    kept = maps.clone(), truth.copy()
    for median, area in itertools.product((1, 3), (0, 9)):
        best_threshold(maps, IMAGE, truth, MaskSettings(median=median, min_area=area), [0.2, 0.4])
    assert torch.equal(maps, kept[0]) and np.array_equal(truth, kept[1])
