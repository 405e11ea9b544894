"""The small published networks of ../shared/golden, as ours."""

from __future__ import annotations

from pathlib import Path

from tagmask.networks.classifier import Classifier, ClassifierSettings
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.weights import adm_to_classifier, adm_to_denoiser, read_tensors


def published_denoiser(shared: Path) -> Denoiser:
    settings = DenoiserSettings(
        size=32,
        widths=(32, 32, 64),
        attention=(1, 2),
        head_channels=16,
        null_row=False,
        resample_blocks=False,
    )
    return adm_to_denoiser(read_tensors(shared / "golden" / "adm_plain.safetensors"), settings).eval()


def published_classifier(shared: Path) -> Classifier:
    settings = ClassifierSettings(size=32, widths=(32, 64, 64), attention=(1, 2), head_channels=16)
    return adm_to_classifier(read_tensors(shared / "golden" / "classifier.safetensors"), settings).eval()
