"""A run folder with networks of random weights: made in a moment, and with no layer left at zero."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tagmask.config import build, override, plain
from tagmask.experiment import Experiment
from tagmask.networks import weights
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.features import FeatureSettings
from tagmask.networks.kinds import NETWORKS
from tagmask.slices import SliceSettings
from tests import toys

ALL = tuple(name for name in NETWORKS if name != "gloria_pair")  # which no method uses
# How a run must be trained for methods that cannot do with the usual training.
TRAINING = {"anoddpm": ("train.denoiser.only_tag=0",)}
SLICES = SliceSettings(size=toys.SIZE, normalise="window", window=(0.0, 255.0))
LEAST = {"gloria": 32, "transunet": 32}
"""Side of the smallest slices that a network takes, where these are no toys."""
TEXT_WIDTH = 384
_BACKBONE: dict[str, Any] = {"widths": (16, 16), "attention": (1,), "head_channels": 16}
_HEAD: dict[str, Any] = {"feature_channels": (32, 32)}
SHAPES: dict[str, dict[str, Any]] = {
    "denoiser": _BACKBONE,
    "classifier": _BACKBONE,
    "cnn": {"widths": (8, 16), "blocks": (1, 1)},
    "segmenter": {"widths": (8, 8)},
    "textdiff": {
        **{**_HEAD, "text_width": TEXT_WIDTH, "width": 8, "heads": 2, "head_width": 4},
        **{"decoder": (8, 4), "null_text": True},
    },
    "pixel_classifier": {**_HEAD, "members": 2, "widths": (8, 4)},
    "transunet": {
        **{"stem": 4, "blocks": (1, 1, 1), "width": 8, "layers": 1, "heads": 2, "hidden": 8},
        **{"decoder": (8, 8, 8, 8)},
    },
    "swinunet": {"width": 8, "depths": (1, 1), "heads": (1, 2), "window": 4},
    "gloria": {"width": 4, "blocks": (1, 1, 1, 1), "decoder": (8, 8, 4, 4, 4)},
    "lvit": {"width": 4, "heads": 2, "text_width": TEXT_WIDTH, "null_text": True},
}


@torch.no_grad()
def network(
    name: str,
    *,
    channels: int = 1,
    size: int = toys.SIZE,
    seed: int = 4,
    backbone: Path = Path("backbone.safetensors"),
) -> nn.Module:
    """Make one tiny network of random weights; heads read blocks 1 and 3 of a backbone at two steps."""
    kind, shape = NETWORKS[name], dict(SHAPES[name])
    if "feature_channels" in shape:
        shape["features"] = FeatureSettings(backbone, blocks=(1, 3), steps=(51, 251))
    made: Any = kind.module(kind.settings(size=max(size, LEAST.get(name, 0)), channels=channels, **shape))
    generator = torch.Generator().manual_seed(len(name) + seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.25, generator=generator)
    if isinstance(made, Denoiser):  # so that maps are large beside what the order of sums changes
        made.unet.conv_out.weight.mul_(5)
    return made.eval().requires_grad_(False)


def write_run(
    folder: Path,
    *overrides: str,
    networks: tuple[str, ...] = ("denoiser", "classifier"),
    channels: int = 1,
    slices: SliceSettings = SLICES,
    prepared: Path = Path("nowhere"),
    seed: int = 4,
) -> Path:
    """Write a run with `cdm` (its default) and `cg_cdm`, noise level 300, 2 stages, tau 0; give the folder.

    The methods that rebuild images take few steps, too. Heads have a backbone of their own.
    """
    method = {"noise_level": 300, "stages": 2, "tau": 0.0}
    table = {
        "data": {"prepared": str(prepared)},
        "methods": {
            "cdm": method,
            "cg_cdm": {**method, "scale": 2.0},
            "anofpdm": {"forward_steps": 60, "stride": 20},
            "cg_diff": {"noise_level": 40, "stride": 20, "scale": 2.0},
            "ddib": {"noise_level": 40, "stride": 20},
            "anoddpm": {"noise_level": 4},
        },
    }
    folder.mkdir(parents=True)
    experiment = build(Experiment, override(table, overrides))
    (folder / "experiment.toml").write_text(experiment.to_toml(), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"slices": plain(slices)}), encoding="utf-8")
    backbone = folder / "backbone.safetensors"
    if any("feature_channels" in SHAPES[name] for name in networks):
        weights.save(backbone, network("denoiser", channels=channels, size=slices.size, seed=5), {"step": 1})
    for name in networks:
        made = network(name, channels=channels, size=slices.size, seed=seed, backbone=backbone)
        weights.save(folder / "weights" / f"{name}.safetensors", made, {"step": 1})
    return folder
