"""Peak memory of training a head on the masks of 50 pictures of 256 px, features kept as `tagmask train` keeps them.

    python benchmarks/memory.py               backbone and heads of experiments/monuseg.toml
    python benchmarks/memory.py --full        the published backbone, 552.8 M parameters, and the published TextDiff

Pictures, masks and the backbone's weights are made up: memory does not depend on them. Each head is trained by `tagmask
train` in a process of its own, long enough to fill what features may take in memory (2 GiB) and more; the peak is that
of the whole process, from its first import on. The aim is 8 GB.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from features import FULL, network  # the script beside this one
from PIL import Image

from tagmask.experiment import load_experiment
from tagmask.jobs.prepare import prepare
from tagmask.networks import weights
from tagmask.slices import SliceSettings

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PICTURES, SIZE = 50, 256
AIM = 8e9
PUBLISHED = {
    "textdiff": [
        *(
            "textdiff.features.blocks=[6,8,12,16]",
            "textdiff.width=768",
            "textdiff.heads=8",
            "textdiff.head_width=64",
        ),
        *("textdiff.decoder=[128,32]", 'textdiff.projections="shared"'),
    ],
    "pixel_classifier": ["pixel_classifier.features.blocks=[5,6,7,8,12]"],
}


def write_pictures(folder: Path) -> Path:
    """Write 50 pictures of noise with a sentence and a mask each, and one of val; give their table."""
    draw = np.random.default_rng(0)
    (folder / "masks").mkdir(parents=True)
    rows = []
    for k in range(PICTURES + 1):
        split = "train" if k < PICTURES else "val"
        (folder / "masks" / split).mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(folder / f"{k}.png")
        mask = 255 * (draw.random((SIZE, SIZE)) < 0.3).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / split / f"{k}.png")
        text = f"The density in the {('upper', 'lower')[k % 2]} left is high."
        rows.append({"id": k, "image": f"{k}.png", "label": 1, "patient": k, "split": split, "text": text})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the published backbone and heads")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--only", choices=PUBLISHED, help="one head alone")
    options = parser.parse_args(arguments)
    backbone = FULL if options.full else load_experiment(EXPERIMENTS / "monuseg-backbone.toml").denoiser
    assert backbone is not None
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {PICTURES} pictures of {SIZE} px")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = write_pictures(folder / "pictures")
        prepare(table, folder / "prepared", settings=SliceSettings(size=SIZE), supervised=True)
        weights.save(folder / "backbone.safetensors", network(backbone, "cpu"), {"step": 0})
        for head in (options.only,) if options.only else PUBLISHED:
            given = [
                f"data.prepared={folder / 'prepared'}", f"data.shots={PICTURES}",
                f"{head}.features.weights={folder / 'backbone.safetensors'}",
                f"train.{head}.steps={options.steps}", f"train.{head}.select_every=0",
                *(PUBLISHED[head] if options.full else ()),
            ]  # fmt: skip
            sets = [part for setting in given for part in ("--set", setting)]
            command = [
                "train",
                str(EXPERIMENTS / "monuseg.toml"),
                "-o",
                str(folder / head),
                "--only",
                head,
                *sets,
            ]
            child = subprocess.Popen([sys.executable, "-m", "tagmask", *command], stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise SystemExit(f"{head} was not trained: tagmask {' '.join(command)}")
            peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            print(f"{head:18}{peak / 1e9:.1f} GB{'' if peak <= AIM else ', beyond the aim'}", flush=True)


if __name__ == "__main__":
    main()
