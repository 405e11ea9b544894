"""How much memory a large scan takes, measured in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.random_run import write_run

ROOT = Path(__file__).parents[1]

PROGRAM = """
import resource, sys
from pathlib import Path
from tagmask.jobs.segment import segment

result = segment(sys.argv[1], sys.argv[3:], out=sys.argv[2], device="cpu", tags="none")
assert len(result.done) == len(sys.argv) - 3, result.failed
status = Path("/proc/self/status")
if status.exists():  # of this program alone; what getrusage tells may be that of the program that started it
    peak = next(int(l.split()[1]) * 1024 for l in status.read_text().splitlines() if l.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(peak)
"""


def peak(run: Path, out: Path, *inputs: Path) -> int:
    """Segment in a process of its own; give the most memory it held, in bytes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(run), str(out), *map(str, inputs)],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.split()[-1])


def scan(path: Path, shape: tuple[int, int, int]) -> Path:
    """A scan that does not compress well, as real ones do not."""
    image = np.random.default_rng(0).integers(-1000, 2000, shape, dtype=np.int16)
    nib.save(nib.Nifti1Image(image, np.diag([0.7, 0.7, 1.0, 1])), path)
    return path


@pytest.mark.slow
def test_a_large_volume_fits_into_4_gb(tmp_path: Path) -> None:
    source = scan(tmp_path / "large.nii", (512, 512, 300))
    most = peak(write_run(tmp_path / "run"), tmp_path / "out", source)
    assert most < 4 * 10**9
    assert most > 300 * 512 * 512 * 4  # else the volume was not in it, and the number means nothing
    mask = nib.load(tmp_path / "out/masks/large.nii.gz")
    assert mask.shape == (512, 512, 300)
