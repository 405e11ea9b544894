"""Rows of a benchmark that one walk through the networks serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tagmask.io import read_mask
from tagmask.jobs.benchmark import benchmark
from tagmask.methods.anofpdm import AnoFPDM
from tagmask.types import Batch
from tests.benchmarking import toybench
from tests.benchmarking.toybench import PROTOCOL, data, row, write


def test_rows_that_read_different_things_off_one_walk_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[tuple[str, ...]] = []
    run = toybench.runs(tmp_path)
    trace = AnoFPDM.trace

    def noted(self: AnoFPDM, batch: Batch, *args: Any, **options: Any) -> Any:
        walks.append(batch.ids)
        return trace(self, batch, *args, **options)

    monkeypatch.setattr(AnoFPDM, "trace", noted)
    fewer, gate = '"methods.anofpdm.forward_steps=41"', 'tags = {mixed = "predicted", positives = "none"}'
    single = '"methods.anofpdm.map=single", "methods.anofpdm.healthy_threshold=0.9"'
    rows = [
        row("Aggregated", run, f"set = [{fewer}]", gate, method="anofpdm"),
        row("Single", run, f"set = [{fewer}, {single}]", gate, method="anofpdm"),
        row("Drawn", run, f'set = [{fewer}, "methods.anofpdm.encoding=ddpm"]', method="anofpdm"),
    ]
    parts = [PROTOCOL.replace("[0, 1]", "[3]"), data(toybench.cohort(tmp_path / "cohort"))]
    file = write(tmp_path / "bench.toml", *parts, *rows[:2])
    result = benchmark(file, out=tmp_path / "out", device="cpu")
    assert len(result.done) == 2 and sorted(name for ids in walks for name in ids) == sorted(
        set(sum(walks, ()))
    )
    benchmark(write(tmp_path / "alone.toml", *parts, rows[1]), out=tmp_path / "alone", device="cpu")
    (alone,) = (tmp_path / "alone" / "cells").iterdir()
    for path in sorted(alone.rglob("*.png")):
        together = tmp_path / "out" / "cells" / path.relative_to(alone.parent)
        assert (read_mask(path).array == read_mask(together).array).all()
    asked = json.loads((alone / "none" / "manifest.json").read_text())["settings"]["method"]
    assert asked["map"] == "single" and asked["healthy_threshold"] == 0.9
    cells = json.loads((tmp_path / "out/cells" / alone.name / "none/manifest.json").read_text())
    assert cells["settings"]["method"] == asked
    walks.clear()
    benchmark(write(tmp_path / "bench.toml", *parts, *rows), out=tmp_path / "out", device="cpu")
    assert walks, "another encoding is another walk"
