from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tagmask.data.prepared import Prepared
from tagmask.errors import InputError
from tagmask.metrics import dice
from tagmask.training.selection import Selection


class Bright(nn.Module):
    """Marks what is brighter than its one weight."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(level))

    def forward(self, x: Tensor, text: object = None) -> Tensor:
        return x - self.level


def looked(selection: Selection, *levels: float) -> list[float]:
    for step, level in enumerate(levels, 1):
        selection.look(step, Bright(level), "cpu")
    return [value for _, value in selection.looks]


def test_the_best_look_is_kept(masked: Path) -> None:
    values = looked(selection := Selection(Prepared.open(masked), 3), 0.9, 0.0, -0.9)
    assert selection.chosen == (2, values[1]) and values[1] == max(values) > 0.9
    assert float(selection.best["level"]) == 0.0


def test_of_equal_looks_the_earlier_is_kept(masked: Path) -> None:
    values = looked(selection := Selection(Prepared.open(masked), 3), -0.9, 0.0, 0.001)
    assert values[1] == values[2] and selection.chosen[0] == 2
    assert float(selection.best["level"]) == 0.0


def test_a_look_is_the_mean_dice_of_the_val_slices(masked: Path) -> None:
    data = Prepared.open(masked)
    rows = data.split_indices("val")
    pred, truth = data.images[rows, 0] > -0.2, np.asarray(data.open_masks()[rows]) > 0
    both, one, other = ((a & b).sum((1, 2)) for a, b in ((pred, truth), (pred, ~truth), (~pred, truth)))
    for batch in (1, 3, 100):
        (found,) = looked(Selection(data, batch), -0.2)
        assert found == pytest.approx(float(dice(both, one, other).mean()), abs=1e-6)
    assert 0 < found < 1


def test_the_looks_are_a_table(masked: Path, tmp_path: Path) -> None:
    values = looked(selection := Selection(Prepared.open(masked), 8), 0.2, 0.1)
    selection.write(tmp_path / "looks.csv")
    assert (tmp_path / "looks.csv").read_text().split() == ["step,dice", f"1,{values[0]}", f"2,{values[1]}"]


def test_without_masks_there_is_nothing_to_look_at(prepared: Path) -> None:
    with pytest.raises(InputError, match="--supervised"):
        Selection(Prepared.open(prepared), 8)
