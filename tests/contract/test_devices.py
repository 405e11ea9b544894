"""No method and no loss leaves a tensor on the CPU while its network is elsewhere. No GPU is needed to see that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tagmask.methods import METHODS
from tagmask.networks.kinds import NETWORKS

fake_gpu = pytest.importorskip(
    "tests.contract.fake_gpu", reason="this torch cannot stand in for an accelerator"
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.contract.fake_gpu"]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split(": ", 1) for line in done.stdout.splitlines())


@pytest.mark.parametrize("name", sorted(METHODS.keys() - fake_gpu.ASKS_FOR_NUMBERS))
def test_a_method_stays_on_its_device(name: str, said: dict[str, str]) -> None:
    assert said[name] == fake_gpu.DEVICE


@pytest.mark.parametrize("name", sorted(NETWORKS.keys() - fake_gpu.ASKS_FOR_NUMBERS))
def test_a_loss_stays_on_its_device_and_reaches_every_parameter(name: str, said: dict[str, str]) -> None:
    assert said[f"training of {name}"] == f"{fake_gpu.DEVICE}, 0 without a gradient"
