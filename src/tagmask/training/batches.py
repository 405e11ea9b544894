"""The batch of a training step: a function of (seed, step), equal on every process and after every restart."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tagmask.data.augment import augment, draw_variants
from tagmask.data.prepared import Prepared
from tagmask.diffusion.simplex import noise_like
from tagmask.errors import InputError
from tagmask.objectives import StepNoise
from tagmask.seeds import keyed
from tagmask.train_settings import TrainSettings
from tagmask.training.kept_features import KeptFeatures
from tagmask.training.sampling import Sampler
from tagmask.training.sentences import Sentences
from tagmask.types import TextTokens

__all__ = ["TrainingBatch", "TrainingBatches"]


@dataclass(frozen=True)
class TrainingBatch:
    """What one step learns from, or a part of it.

    Parameters
    ----------
    image : (B, C, S, S) float32 in [-1, 1]
    label : (B,) int64
        The tags; -1 where one is not known.
    noise
        Steps t, noise and hidden labels.
    key
        What belongs to this step, and to this part of it: for what a network draws by itself.
    mask : (B, 1, S, S) float32 in {0, 1}, optional
        For mask learners alone.
    text
        For networks that read it.
    features
        Of a frozen backbone, one (B, C_z, s_z, s_z) float32 for each block, where they are kept.
    """

    image: Tensor
    label: Tensor
    noise: StepNoise
    key: tuple[int, ...]
    mask: Tensor | None = None
    text: TextTokens | None = None
    features: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.image)

    def part(self, rows: Tensor, device: torch.device | str) -> TrainingBatch:
        """Give some rows of it, on a device."""
        n, features = self.noise, self.features
        return TrainingBatch(
            image=self.image[rows].to(device),
            label=self.label[rows].to(device),
            noise=StepNoise(*(value[rows].to(device) for value in (n.t, n.eps, n.drop))),
            key=(*self.key, int(rows[0])),
            mask=None if self.mask is None else self.mask[rows].to(device),
            text=None if self.text is None else self.text[rows].to(device),
            features=None if features is None else tuple(f[rows].to(device) for f in features),
        )


class TrainingBatches:
    """Slices of the train split, augmented, with all that is drawn for them.

    Parameters
    ----------
    prepared
        The folder.
    settings
        How the network is trained.
    steps
        T of the noise schedule.
    rows
        Places of the slices to learn from; the masks of no others are read.
    masks
        Give masks too, from a folder prepared with them.
    tags
        Both tags must be there, for the network is told them or is to tell them.
    sentences
        Of the folder, for networks that read text.
    kept
        Features of a backbone, for networks that read these; used where the augmentation is dihedral alone.

    Raises
    ------
    InputError
        Training slices of one tag only, or some without a tag, where tags are learnt.
    """

    def __init__(
        self,
        prepared: Prepared,
        settings: TrainSettings,
        steps: int,
        rows: np.ndarray,
        *,
        masks: bool = False,
        tags: bool = False,
        sentences: Sentences | None = None,
        kept: KeptFeatures | None = None,
    ) -> None:
        self.prepared, self.settings, self.steps, self.rows = prepared, settings, steps, rows
        self.labels = torch.as_tensor(prepared.labels[rows], dtype=torch.int64)
        found = set(self.labels.tolist())
        if tags and len(found) < 2:
            raise InputError(
                f"all {len(rows)} training slices have the same tag: no condition can be learnt from them.",
                where=prepared.path,
                repair="Prepare a table with slices of both tags in the train split.",
            )
        if tags and -1 in found:
            raise InputError(
                f"{int((self.labels < 0).sum())} of {len(rows)} training slices have no tag, which is to be learnt.",
                where=prepared.path,
                repair="Tag them, or leave them out of the table, and prepare it again.",
            )
        self.masks = prepared.open_masks() if masks else None
        self.sentences, self.kept = sentences, kept if settings.augment.dihedral_alone else None
        self._thread: ThreadPoolExecutor | None = None
        self._last = 0
        self._ahead: dict[int, Future[TrainingBatch]] = {}
        self.sampler = Sampler(
            self.labels, settings.batch, settings.balance and found == {0, 1}, settings.seed
        )

    def draw_ahead(self, last: int) -> None:
        """From here on make the batch of the step that follows in a thread, while the network is at work.

        Not where features of a backbone or sentences belong to it: these go through networks, which one thread uses
        at a time.

        Parameters
        ----------
        last
            The last step that will be asked for.
        """
        if self.kept is None and self.sentences is None:
            self._thread, self._last = ThreadPoolExecutor(1), last

    def of(self, step: int) -> TrainingBatch:
        """Make the whole batch of a step (1, 2, ...), on the CPU."""
        if self._thread is None:
            return self._make(step)
        made = self._ahead.pop(step, None)
        batch = self._make(step) if made is None else made.result()
        if step < self._last:
            self._ahead = {step + 1: self._thread.submit(self._make, step + 1)}
        return batch

    def _make(self, step: int) -> TrainingBatch:
        s = self.settings
        places = self.sampler.indices(step)
        rows = self.rows[places.numpy()]
        image = torch.from_numpy(np.stack([self.prepared.images[r] for r in rows]).astype(np.float32))
        mask = None
        if self.masks is not None:
            mask = torch.from_numpy(np.stack([self.masks[r] for r in rows]).astype(np.float32))[:, None]
        generator = keyed(s.seed, "augment", step)
        variants = draw_variants(len(rows), s.augment, generator)
        image, mask = augment(image, s.augment, generator, mask, variants)
        generator = keyed(s.seed, "noise", step)
        t = torch.randint(1, self.steps + 1, (s.batch,), generator=generator)
        if s.noise_band is not None:
            lo, hi = s.noise_band
            inside = torch.randint(lo, hi + 1, (s.batch,), generator=generator)
            t = torch.where(torch.rand(s.batch, generator=generator) < s.band_share, inside, t)
        noise = noise_like(image, t, s.noise, generator)
        drop = torch.rand(s.batch, generator=generator) < s.label_dropout
        return TrainingBatch(
            image,
            self.labels[places],
            StepNoise(t, noise, drop),
            (s.seed, step),
            mask,
            text=None if self.sentences is None else self.sentences.of(step, rows.tolist(), variants),
            features=None if self.kept is None else self.kept.of(rows.tolist(), image, variants),
        )
