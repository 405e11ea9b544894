"""A made-up cohort of small pictures: tag 1 shows a bright square. And the smallest run that learns from it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 16

EXPERIMENT = """
[data]
prepared = "{prepared}"

[denoiser]
size = 16
widths = [16, 16]
attention = [1]
head_channels = 16

[classifier]
size = 16
widths = [16, 16]
attention = [1]
head_channels = 16

[train.denoiser]
steps = 6
batch = 8
log_every = 2
checkpoint_every = 3
snapshot_every = 3
sample_every = 6
learning_rate = 1e-3

[train.denoiser.augment]
flip = true
rotate = 10.0
gamma = 0.2

[train.classifier]
steps = 4
batch = 8

[methods.cdm]
noise_level = 300
stages = 2

[methods.cg_cdm]
noise_level = 300
stages = 2
"""


def write_cohort(folder: Path, *, patients: int = 6, slices: int = 4, masks: bool = True) -> Path:
    """Write pictures, masks and labels.csv for train (patients), val and test (2 patients each); give the folder."""
    rng = np.random.default_rng(0)
    for split, count in (("train", patients), ("val", 2), ("test", 2)):
        lines = []
        for p in range(count):
            for s in range(slices):
                name, tag = f"{split}{p}_{s}", s % 2
                picture = rng.normal(90, 12, (SIZE, SIZE))
                mask = np.zeros((SIZE, SIZE), bool)
                if tag:
                    top, left = rng.integers(2, 9, 2)
                    mask[top : top + 5, left : left + 5] = True
                picture[mask] += 110
                image = folder / split / "images" / f"{name}.png"
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(image)
                if masks:
                    truth = folder / "masks" / split / f"{name}.png"
                    truth.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(mask.astype(np.uint8) * 255).save(truth)
                lines.append((name, f"images/{name}.png", tag, f"{split}{p}", s))
        with (folder / split / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("id", "image", "label", "patient", "slice"), *lines])
    return folder


def write_experiment(path: Path, prepared: Path, *extra: str) -> Path:
    """Write the toy experiment, with more TOML behind it."""
    path.write_text("\n".join([EXPERIMENT.format(prepared=prepared.as_posix()), *extra]), encoding="utf-8")
    return path
