"""What a network needs beside its weights: the backbone whose features it reads, the encoder of its sentences.

Neither is part of its weights, so the file of these says by SHA-256 what they were learnt with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tagmask.errors import ConfigError, RunError
from tagmask.experiment import Experiment
from tagmask.io import sha256
from tagmask.networks import weights
from tagmask.networks.head import FeatureHead
from tagmask.networks.kinds import reads_text
from tagmask.text import TextEncoder, TextSettings
from tagmask.text.bert import find_bert, hash_bert

__all__ = ["BACKBONE", "ENCODER", "TextReader", "attach_backbone", "open_reader", "refuse_other_parts"]

BACKBONE, ENCODER = "backbone_sha256", "encoder_sha256"
"""Keys of the metadata of weights."""


@dataclass(frozen=True)
class TextReader:
    """How a network comes to its sentences.

    Parameters
    ----------
    encoder
        Frozen.
    needed
        Whether a picture without a sentence is refused; else the network has learnt to do without.
    """

    encoder: TextEncoder
    needed: bool


def attach_backbone(
    network: Any, experiment: Experiment, *, name: str, learnt: Path, device: torch.device | str
) -> None:
    """Put the backbone that a head was trained on beside it; other networks have none.

    Parameters
    ----------
    network, name
        Of a run.
    experiment
        Its own, which may say that the backbone lies elsewhere now. Blocks, steps and noise are the head's.
    learnt
        The file of the network's weights, which names the backbone by its SHA-256.

    Raises
    ------
    RunError, SecurityError
        No such file, or another than that of the training.
    ConfigError
        A backbone that does not fit the head.
    """
    if isinstance(network, FeatureHead):
        features, now = network.settings.features, getattr(experiment, name)
        if now is not None:
            features = replace(features, weights=now.features.weights)
        known = weights.read_metadata(learnt)["metadata"].get(BACKBONE)
        network.attach(weights.load_features(features, experiment.schedule.build(), known).to(device))


def open_reader(
    settings: TextSettings, network: Any, *, name: str, learnt: Path | None = None
) -> TextReader | None:
    """Open the text encoder that a network reads through; None for one that reads no text.

    Parameters
    ----------
    settings
        As the experiment has them.
    network
        Settings of the network.
    name
        Of the network, for messages.
    learnt
        The file of its weights, which names the encoder by its SHA-256. None before it is trained.

    Raises
    ------
    ConfigError, InputError, SecurityError
        There is no such encoder, it cannot be loaded, or its width is not the network's.
    RunError
        It is another one than at training.
    """
    if not reads_text(network):
        return None
    encoder = TextEncoder(settings)
    if encoder.width != network.text_width:
        raise ConfigError(
            f"text_width = {network.text_width}, but the text encoder {settings.encoder} has width {encoder.width}.",
            where=f"[{name}]",
            repair=f"Set {name}.text_width = {encoder.width}, or name another encoder under [text].",
        )
    known = None if learnt is None else weights.read_metadata(learnt)["metadata"].get(ENCODER)
    if known not in (None, encoder.sha256):
        raise RunError(
            f"was learnt with a text encoder of SHA-256 {known}, but {settings.encoder} has {encoder.sha256}.",
            where=learnt,
            repair="Give the encoder of that training: --set text.encoder=FOLDER.",
        )
    return TextReader(encoder, needed=not getattr(network, "null_text", False))


def refuse_other_parts(learnt: Path, experiment: Experiment, *, name: str) -> None:
    """Refuse weights whose backbone or text encoder is another file now than the one they were learnt with.

    A file that is gone is not another one: what needs it will say so.

    Parameters
    ----------
    learnt
        The file of a network's weights.
    experiment, name
        Where its backbone and encoder lie, and which network it is.

    Raises
    ------
    RunError
        Naming the file that was trained again.
    """
    known = weights.read_metadata(learnt)["metadata"]
    features = getattr(getattr(experiment, name), "features", None)
    if BACKBONE in known and features is not None and features.weights.is_file():
        _refuse_other(learnt, "backbone", features.weights, known[BACKBONE], sha256(features.weights))
    if ENCODER in known:
        try:
            folder = find_bert(experiment.text.encoder)
        except ConfigError:
            return
        _refuse_other(learnt, "text encoder", folder, known[ENCODER], hash_bert(folder))


def _refuse_other(learnt: Path, what: str, path: Path, known: str, found: str) -> None:
    if found != known:
        raise RunError(
            f"was learnt with the {what} {path} as it was: that was trained again or replaced since, its SHA-256 "
            f"is {found}, not {known}.",
            where=learnt,
            repair=f"Give another run folder, or remove {learnt.parent.parent} to train it anew.",
        )
