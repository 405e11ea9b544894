"""Networks that learnt from masks, as methods."""

from __future__ import annotations

from pathlib import Path

import torch

from tagmask.networks.pixel_classifier import jensen_shannon
from tagmask.runs import Run
from tagmask.types import Batch
from tests import toys
from tests.random_run import write_run


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
