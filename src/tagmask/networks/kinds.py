"""Every network by name: what it is made of, what it learns from. A new one is a file here and a line below.

A mask learner answers pixel logits, (B, C, S, S) -> (B, 1, S, S) with p(target) = sigmoid(logit), and learns
them from masks. Its settings have the fields `size` and `channels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tagmask.networks.classifier import Classifier, ClassifierSettings
from tagmask.networks.cnn import CNN, CNNSettings
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.segmenter import Segmenter, SegmenterSettings

__all__ = ["MASK_LEARNERS", "NETWORKS", "Kind"]


@dataclass(frozen=True)
class Kind:
    """A sort of network.

    Parameters
    ----------
    settings
        Its frozen dataclass of settings.
    module
        Settings -> network, an nn.Module that keeps them as `settings`.
    """

    settings: type[Any]
    module: type[Any]


MASK_LEARNERS: Mapping[str, Kind] = {
    "segmenter": Kind(SegmenterSettings, Segmenter),
}
NETWORKS: Mapping[str, Kind] = {
    "denoiser": Kind(DenoiserSettings, Denoiser),
    "classifier": Kind(ClassifierSettings, Classifier),
    **MASK_LEARNERS,
    "cnn": Kind(CNNSettings, CNN),
}
