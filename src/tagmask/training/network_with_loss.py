"""A network and its objective as one module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from tagmask import objectives
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.classifier import Classifier
from tagmask.networks.cnn import CNN
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.features import FrozenFeatures
from tagmask.networks.gloria_pair import GloriaPair
from tagmask.networks.head import FeatureHead
from tagmask.networks.pixel_classifier import PixelClassifier
from tagmask.networks.textdiff import TextDiff, dice_on_logits
from tagmask.seeds import keyed
from tagmask.train_settings import TrainSettings
from tagmask.training.batches import TrainingBatch

__all__ = ["NetworkWithLoss"]


class NetworkWithLoss(nn.Module):
    """From a batch to its loss, so that DDP sees the whole of what is differentiated.

    Parameters
    ----------
    network
        Any of `tagmask.networks.kinds`.
    schedule
        The noise.
    settings
        Of its training: what its losses weigh.
    """

    def __init__(self, network: nn.Module, schedule: NoiseSchedule, settings: TrainSettings) -> None:
        super().__init__()
        self.network, self.schedule, self.settings = network, schedule, settings

    def forward(self, batch: TrainingBatch) -> Tensor:
        """Give the loss of a batch, () float32.

        Raises
        ------
        ConfigError
            A batch norm that has one value of each channel to normalise over.
        """
        try:
            return self._loss(batch)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"a batch of {len(batch.image)} picture of {batch.image.shape[-1]} px leaves one pixel at the lowest "
                "level, and a batch norm has nothing to compare it with.",
                where="[train]",
                repair="Use a batch of 2 or more, larger pictures, or fewer levels.",
            ) from None

    def _loss(self, batch: TrainingBatch) -> Tensor:
        image, label, noise, mask = batch.image, batch.label, batch.noise, batch.mask
        match self.network:
            case Denoiser():
                return objectives.denoise(self.network, self.schedule, image, label, noise)
            case Classifier():
                return objectives.classify(self.network, self.schedule, image, label, noise)
            case CNN():
                return objectives.classify_clean(self.network, image, label)
            case GloriaPair():
                return self.network(image, batch.text)
        if mask is None:
            raise TypeError(f"a {type(self.network).__name__} learns from masks")
        if isinstance(self.network, PixelClassifier):
            return self.network.loss(self._features(batch), mask, keyed(*batch.key, "pixels"))
        s = self.settings
        if isinstance(self.network, TextDiff) and s.dice_of == "logits":
            z = self.network.class_logits(self._features(batch), image.shape[-1], batch.text).float()
            entropy = objectives.segment(z[:, 1:] - z[:, :1], mask, cross_entropy=s.cross_entropy, dice=0.0)
            return entropy + s.dice * dice_on_logits(z, mask)
        return objectives.segment(
            self._logits(batch),
            mask,
            cross_entropy=s.cross_entropy,
            dice=s.dice,
            per_image=s.dice_per_image,
        )

    def _logits(self, batch: TrainingBatch) -> Tensor:
        if isinstance(self.network, FeatureHead):
            return self.network.decode(self._features(batch), batch.image.shape[-1], batch.text)
        return self.network(batch.image, batch.text)

    def _features(self, batch: TrainingBatch) -> Sequence[Tensor]:
        """Features that were kept, or new ones of the backbone."""
        if batch.features is not None:
            return batch.features
        return cast(FrozenFeatures, cast(FeatureHead, self.network).features)(batch.image)
