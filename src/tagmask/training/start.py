"""What a training begins with: the network, what lies beside it, and the slices it may learn from."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tagmask.config import plain
from tagmask.data.prepared import Prepared
from tagmask.errors import ConfigError, InputError, RunError
from tagmask.networks import weights
from tagmask.networks.denoiser import DenoiserSettings
from tagmask.networks.feature_cache import FeatureCache
from tagmask.networks.gloria import Gloria
from tagmask.networks.gloria_pair import load_encoder
from tagmask.networks.head import HeadSettings
from tagmask.networks.kinds import MASK_LEARNERS, NETWORKS
from tagmask.networks.learnt import Learnt, tagged
from tagmask.runs import Run
from tagmask.runs.parts import BACKBONE, ENCODER, TextReader, open_reader
from tagmask.runs.resume import mask_rows
from tagmask.train_settings import TrainSettings
from tagmask.training.kept_features import MEMORY, KeptFeatures, kept

__all__ = ["Start", "begin", "check_fit", "of_a_batch", "rows_to_learn"]


@dataclass(frozen=True)
class Start:
    """A network that has learnt nothing yet, or what an earlier training has taught it.

    Parameters
    ----------
    network
        On the CPU; its backbone, if it has one, is on the device already.
    reader
        Of its sentences; None for one that reads none.
    attached
        SHA-256 of backbone and text encoder, for the metadata of its weights.
    learnt
        Of a denoiser: noise schedule, and what its training shows it; for the same place, so that features asked for
        otherwise are refused.
    kept
        Features of its backbone, where they are to be kept.
    """

    network: nn.Module
    reader: TextReader | None = None
    attached: dict[str, str] = field(default_factory=dict)
    learnt: dict[str, Any] = field(default_factory=dict)
    kept: KeptFeatures | None = None


def begin(run: Run, name: str, device: torch.device | str) -> Start:
    """Build a network of a run's experiment, with its backbone and its text encoder.

    Raises
    ------
    ConfigError, InputError, RunError, SecurityError
        A backbone or encoder that is not there or does not fit; no weights of the network it begins with.
    """
    experiment = run.experiment
    settings, made = getattr(experiment, name), NETWORKS[name].module
    reader = open_reader(experiment.text, settings, name=name)
    attached = {} if reader is None else {ENCODER: reader.encoder.sha256}
    if isinstance(settings, HeadSettings):
        frozen = weights.load_features(settings.features, experiment.schedule.build())
        attached[BACKBONE] = frozen.sha256
        frozen = frozen.to(device)
        keeping = None
        if getattr(experiment.train, name).keep_features:
            same = replace(settings.features, weights=Path())
            of = (frozen.sha256, same, experiment.schedule, str(device), run.environment.get("data"))
            keeping = kept(of, lambda: KeptFeatures(FeatureCache(frozen, MEMORY), device))
        return Start(made(settings.resolved(frozen)).attach(frozen), reader, attached, kept=keeping)
    if isinstance(settings, DenoiserSettings):
        shown = plain(Learnt.by(settings, experiment.train.denoiser))
        learnt = {weights.SCHEDULE: plain(experiment.schedule), weights.LEARNT: shown}
        return Start(made(settings), learnt=learnt)
    network: nn.Module = made(settings)
    if isinstance(network, Gloria) and experiment.gloria_pair is not None:
        path = run.weights_path("gloria_pair")
        if not path.exists():
            raise RunError(
                "has no weights of the gloria_pair whose encoder gloria begins with.",
                where=run.path,
                repair="Train gloria_pair first, or leave its table out.",
            )
        load_encoder(network, weights.read_tensors(path), where=path)
    return Start(network, reader, attached)


def rows_to_learn(
    run: Run, name: str, settings: TrainSettings, prepared: Prepared, reader: TextReader | None
) -> np.ndarray:
    """Give the places (n,) int64 of the slices a network learns from, rising: all of train, or the shots.

    Raises
    ------
    InputError
        No slice of the wanted tag, slices without text for a network that cannot do without, or too few pairs of
        picture and sentence to be told apart.
    ConfigError
        A null text that nothing would teach.
    """
    masks = name in MASK_LEARNERS
    rows = mask_rows(run.path, prepared) if masks else prepared.split_indices("train")
    rows = tagged(rows, prepared.labels, settings.only_tag)
    if reader is None:
        return rows
    if not reader.needed and settings.text_dropout:
        return rows
    said = {prepared.texts[row] for row in rows.tolist()}
    heard = {text for text in said if reader.encoder([text]).mask.any()}  # it may know no part of a text
    silent = [row for row in rows.tolist() if prepared.texts[row] not in heard]
    if not reader.needed:
        if not silent:
            raise ConfigError(
                f"null_text = true, but each of the {len(rows)} training pictures has a text and text_dropout = 0: "
                "nothing would teach the null text.",
                where=f"[{name}]",
                repair=f"Set train.{name}.text_dropout = 0.1, or {name}.null_text = false.",
            )
        return rows
    if masks and silent:
        raise InputError(
            f"{len(silent)} of {len(rows)} training pictures have no text that the encoder reads, "
            f"{prepared.index[silent[0]]['id']!r} for instance, and the {name} is to be trained for pictures that have "
            "one.",
            where=prepared.path,
            repair=f"Give each a text, name others as data.shots, or use {name}.null_text = true.",
        )
    pairs = np.setdiff1d(rows, silent)
    if not masks and not 2 <= settings.batch <= len(pairs):
        raise InputError(
            f"{len(pairs)} of {len(rows)} training pictures have a text, but the {name} tells the {settings.batch} "
            "pictures of a batch and their texts apart.",
            where=prepared.path,
            repair=f"Give more pictures a text, or set train.{name}.batch to 2 or more, and to their number at most.",
        )
    return pairs


def check_fit(name: str, settings: Any, prepared: Prepared, crop: int) -> None:
    """Refuse slices of another size or number of channels than the network's.

    Raises
    ------
    ConfigError
        Naming both.
    """
    _, channels, size, _ = prepared.images.shape
    if settings.size != (crop or size):
        raise ConfigError(
            f"size = {settings.size}, but the prepared slices have size {size}"
            f"{f', of which {crop} are cropped' if crop else ''}.",
            where=f"[{name}]",
            repair="Change the table or augment.crop."
            if crop
            else f"Prepare the data with --size {settings.size}, or change the table.",
        )
    if settings.channels != channels:
        raise ConfigError(
            f"channels = {settings.channels}, but the prepared slices have {channels}.",
            where=f"[{name}]",
            repair="Change the table, or prepare the data with --channels: 0,0,0 makes three channels of grey.",
        )


def of_a_batch(name: str, network: nn.Module, settings: TrainSettings) -> str | None:
    """Say what of a network's loss is no mean over slices, if anything is."""
    if name == "gloria_pair":
        return "contrast between pictures and sentences"
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return "batch norm"
    pooled = settings.dice > 0 and not settings.dice_per_image and name != "pixel_classifier"
    return "Dice loss" if name in MASK_LEARNERS and pooled else None
