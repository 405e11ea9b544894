"""Every network by name: its settings and its module. What a new one takes is in CONTRIBUTING.md, "Add a network".

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
from tagmask.networks.gloria import Gloria, GloriaSettings
from tagmask.networks.gloria_pair import GloriaPair, GloriaPairSettings
from tagmask.networks.lvit import LViT, LViTSettings
from tagmask.networks.pixel_classifier import PixelClassifier, PixelClassifierSettings
from tagmask.networks.segmenter import Segmenter, SegmenterSettings
from tagmask.networks.swinunet import SwinUNet, SwinUNetSettings
from tagmask.networks.textdiff import TextDiff, TextDiffSettings
from tagmask.networks.transunet import TransUNet, TransUNetSettings

__all__ = ["MASK_LEARNERS", "NETWORKS", "Kind", "reads_text"]


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
    "textdiff": Kind(TextDiffSettings, TextDiff),
    "pixel_classifier": Kind(PixelClassifierSettings, PixelClassifier),
    "transunet": Kind(TransUNetSettings, TransUNet),
    "swinunet": Kind(SwinUNetSettings, SwinUNet),
    "gloria": Kind(GloriaSettings, Gloria),
    "lvit": Kind(LViTSettings, LViT),
}
NETWORKS: Mapping[str, Kind] = {
    "denoiser": Kind(DenoiserSettings, Denoiser),
    "classifier": Kind(ClassifierSettings, Classifier),
    "cnn": Kind(CNNSettings, CNN),
    "gloria_pair": Kind(GloriaPairSettings, GloriaPair),
    **MASK_LEARNERS,
}
"""In the order in which they are trained: later ones may begin with what earlier ones have learnt."""


def reads_text(settings: Any) -> bool:
    """Whether a network of these settings reads a sentence."""
    return bool(getattr(settings, "reads_text", False))
