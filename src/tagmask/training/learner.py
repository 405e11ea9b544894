"""A network and its objective as one module."""

from __future__ import annotations

from torch import Tensor, nn

from tagmask import objectives
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.networks.classifier import Classifier
from tagmask.networks.cnn import CNN
from tagmask.networks.denoiser import Denoiser
from tagmask.plan import TrainSettings
from tagmask.training.batches import Lesson

__all__ = ["Learner"]


class Learner(nn.Module):
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

    def forward(self, lesson: Lesson) -> Tensor:
        """Give the loss of a batch, () float32."""
        image, label, draws, mask = lesson.image, lesson.label, lesson.draws, lesson.mask
        match self.network:
            case Denoiser():
                return objectives.denoise(self.network, self.schedule, image, label, draws)
            case Classifier():
                return objectives.classify(self.network, self.schedule, image, label, draws)
            case CNN():
                return objectives.classify_clean(self.network, image, label)
        if mask is None:
            raise TypeError(f"a {type(self.network).__name__} learns from masks")
        s = self.settings
        return objectives.segment(
            self.network(image),
            mask,
            cross_entropy=s.cross_entropy,
            dice=s.dice,
            per_image=s.dice_per_image,
        )
