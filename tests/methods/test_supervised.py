"""Networks that learnt from masks, as methods."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import torch

from tagmask.errors import ConfigError
from tagmask.masks import MaskSettings, binarise
from tagmask.methods.supervised import PixelEnsemble, PixelEnsembleSettings
from tagmask.networks.pixel_classifier import PixelClassifier, jensen_shannon
from tagmask.runs import Run
from tagmask.types import Batch, TextTokens
from tests import toys
from tests.random_run import TEXT_WIDTH, write_run


def test_an_ensemble_scores_by_its_mean_and_says_where_its_members_disagree(tmp_path: Path) -> None:
    method = Run.of(write_run(tmp_path / "run", networks=("pixel_classifier",))).method("pixel_classifier")
    image = torch.rand(3, 1, toys.SIZE, toys.SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = method.predict(Batch(image, ("a/0", "a/1", "b/0")))
    learner = method.learner  # type: ignore[attr-defined]
    with torch.no_grad():
        assert torch.allclose(found.score_map, learner(image).sigmoid(), atol=1e-6)
        members = learner.probabilities(learner.look(image), toys.SIZE)
    assert found.uncertainty is not None and found.uncertainty.shape == found.score_map.shape
    assert torch.equal(found.uncertainty, jensen_shannon(members)) and found.uncertainty.max() > 1e-3


def test_the_paper_s_vote_is_the_mode_of_the_members() -> None:
    class Members:
        def of_members(self, x: torch.Tensor) -> torch.Tensor:
            return p

    p = torch.rand(10, 2, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    p[:, 0, 0, 0, 0] = torch.tensor(
        [0.9] * 5 + [0.1] * 5
    )  # a tie, which the published mode gives to the first class
    vote, mean = (
        PixelEnsemble(cast(PixelClassifier, Members()), PixelEnsembleSettings(vote)).predict(
            Batch(torch.zeros(2, 1, 4, 4), ("a", "b"))
        )
        for vote in (True, False)
    )
    half, image = MaskSettings(rule="fixed", value=0.5), torch.zeros(2, 1, 4, 4)
    masks = [binarise(found.score_map, image, half).mask for found in (vote, mean)]
    expected = torch.mode((p > 0.5).long(), dim=0).values.bool()
    assert torch.equal(masks[0], expected) and not torch.equal(masks[1], expected)
    assert torch.equal(mean.score_map, p.mean(dim=0)) and torch.equal(mean.uncertainty, vote.uncertainty)  # type: ignore[arg-type]


def test_flips_average_with_the_mirrored_picture_and_mind_sentences(tmp_path: Path) -> None:
    run = Run.of(write_run(tmp_path / "run", networks=("segmenter", "lvit")))
    image = torch.rand(2, 1, toys.SIZE, toys.SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch, mirrored = (Batch(x, ("a/0", "a/1")) for x in (image, image.flip(-1)))
    plain, both = (run.method("unet", flips=flips) for flips in (False, True))
    one, other = plain.predict(batch).score_map, plain.predict(mirrored).score_map.flip(-1)
    assert (one - other).abs().max() > 1e-4
    assert torch.allclose(both.predict(batch).score_map, (one + other) / 2, atol=1e-7)
    assert torch.allclose(both.predict(mirrored).score_map.flip(-1), both.predict(batch).score_map, atol=1e-7)
    said = Batch(
        image,
        ("a/0", "a/1"),
        text=TextTokens(torch.zeros(2, 3, TEXT_WIDTH), torch.ones(2, 3, dtype=torch.bool)),
    )
    with pytest.raises(ConfigError, match="left and right would be wrong"):
        run.method("lvit", flips=True).predict(said)
