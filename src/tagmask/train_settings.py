"""How the networks of an experiment are trained: `[train.NETWORK]`, a table each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tagmask.config import check_seed, plain
from tagmask.data.augment import AugmentSettings
from tagmask.diffusion.simplex import NoiseKind
from tagmask.errors import ConfigError

__all__ = ["TrainPlan", "TrainSettings"]


@dataclass(frozen=True)
class TrainSettings:
    """How one network is trained.

    Parameters
    ----------
    steps
        Optimiser steps.
    batch
        Slices a step, over all processes and micro-batches together.
    micro_batch
        Slices that go through the network at once on one process; None takes them all. Smaller values
        accumulate gradients and need less memory. What is learnt is the same where the loss is a mean over slices, and
        not quite with batch norm, a Dice of all pixels together (`dice_per_image` = false) or GLoRIA's contrast, which
        are then of each part by itself; nor is it with several processes, which share a batch as well.
    optimizer, momentum
        "adamw", "adam" (weight decay is then part of the gradient) or "sgd", which alone has a momentum.
    learning_rate, weight_decay, warmup
        The optimiser's, and the number of steps over which the rate rises from 0.
    schedule
        What becomes of the rate r: "constant"; "cosine", a half cosine down to the floor at the last step;
        "poly", r (1 - (step - 1) / steps)^0.9; "milestones", a tenth after each of `milestones`; "restarts",
        a half cosine down to the floor again and again, every `restart_every` steps.
    milestones
        Steps after which the rate falls to a tenth.
    restart_every
        Length of one fall of "restarts", steps.
    rate_floor
        Where a half cosine ends, in the unit of `learning_rate`.
    clip_gradient
        Largest norm of the gradient; 0 leaves it alone.
    cross_entropy, dice
        Weights of the two losses of masks: cross-entropy, and 1 - Dice of the probabilities.
    dice_per_image
        Take the Dice of each picture and their mean, and not that of all pixels of the batch together.
    dice_of
        "probabilities", or "logits" as TextDiff's published code has it (see `textdiff.dice_on_logits`).
    text_dropout
        Share of the pictures whose sentence is hidden, for networks with null_text: so that they also serve
        pictures without one.
    ema
        Rate of the exponential moving average of the weights, which is what is used afterwards. It is warmed
        up as min(ema, (1 + n) / (10 + n)) when `ema_warmup`, for 0.9999 is far too slow for short runs.
    label_dropout
        Share of the slices whose tag is hidden from the denoiser, so that it also serves methods without a
        condition or with classifier-free guidance.
    noise_band, band_share
        Draw this share of the steps t from lo ... hi and the rest from 1 ... T. The methods look at few
        levels; a short training is better spent there.
    balance
        Draw as many slices of either tag.
    only_tag
        Learn from the slices of this tag alone, for methods that must never have seen a target. Denoisers only.
    noise
        "gaussian", or "simplex" for AnoDDPM with simplex noise.
    precision
        "fp32", "bf16" or "fp16".
    keep_features
        Compute the features of a frozen backbone once for each picture and variant, where augmentation is
        dihedral alone; else at every step.
    select_every
        Steps between looks at the masks of the val split, with one at the last step whatever its number: of the
        averaged weights looked at, those with the highest mean Dice per picture are kept, and results are stamped
        with those masks. 0: the last weights are kept, and no such mask is opened. Mask learners only.
    log_every, checkpoint_every, snapshot_every, sample_every
        Steps between lines of the log, checkpoints to resume from, weights that are kept for curves against
        training length, and sample pictures; 0 for never.
    seed
        Of the first weights, the order of slices, their augmentation, steps, noise and dropout.
    augment
        How far slices are changed; see `AugmentSettings`.
    """

    steps: int = 50_000
    batch: int = 16
    micro_batch: int | None = None
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.9
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: Literal["constant", "cosine", "poly", "milestones", "restarts"] = "constant"
    milestones: tuple[int, ...] = ()
    restart_every: int = 0
    rate_floor: float = 0.0
    clip_gradient: float = 0.0
    cross_entropy: float = 1.0
    dice: float = 1.0
    dice_per_image: bool = False
    dice_of: Literal["probabilities", "logits"] = "probabilities"
    text_dropout: float = 0.0
    ema: float = 0.9999
    ema_warmup: bool = True
    label_dropout: float = 0.1
    noise_band: tuple[int, int] | None = None
    band_share: float = 0.0
    balance: bool = True
    only_tag: int | None = None
    noise: NoiseKind = "gaussian"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: int = 0
    augment: AugmentSettings = AugmentSettings()
    keep_features: bool = True
    select_every: int = 0
    log_every: int = 50
    checkpoint_every: int = 1000
    snapshot_every: int = 0
    sample_every: int = 0

    def __post_init__(self) -> None:
        checks = {
            "steps >= 1": self.steps >= 1,
            "batch >= 1": self.batch >= 1,
            "micro_batch >= 1": self.micro_batch is None or self.micro_batch >= 1,
            "learning_rate > 0": self.learning_rate > 0,
            "0 <= momentum < 1": 0 <= self.momentum < 1,
            'milestones rise from 1 on, with schedule = "milestones"': (self.schedule == "milestones")
            == bool(self.milestones)
            and all(a < b for a, b in pairwise((0, *self.milestones))),
            'restart_every >= 1 with schedule = "restarts", and only then': (self.schedule == "restarts")
            == (self.restart_every >= 1),
            "0 <= rate_floor <= learning_rate": 0 <= self.rate_floor <= self.learning_rate,
            "cross_entropy and dice are 0 or more, and not both 0": min(self.cross_entropy, self.dice) >= 0
            and self.cross_entropy + self.dice > 0,
            "0 <= ema < 1": 0 <= self.ema < 1,
            "0 <= label_dropout < 1": 0 <= self.label_dropout < 1,
            "0 <= text_dropout < 1": 0 <= self.text_dropout < 1,
            "0 <= band_share <= 1": 0 <= self.band_share <= 1,
            "1 <= lo <= hi in noise_band": self.noise_band is None
            or 1 <= self.noise_band[0] <= self.noise_band[1],
            "noise_band is given with band_share": self.band_share == 0 or self.noise_band is not None,
            "only_tag is 0 or 1": self.only_tag in (None, 0, 1),
            "0 <= select_every <= steps": 0 <= self.select_every <= self.steps,
            "log_every >= 1 and checkpoint_every >= 1": self.log_every >= 1 and self.checkpoint_every >= 1,
        }
        for rule, holds in checks.items():
            if not holds:
                named = set(re.findall(r"[a-z_]+", rule))
                found = ", ".join(f"{key} = {value}" for key, value in plain(self).items() if key in named)
                raise ConfigError(
                    f"{rule} does not hold: {found}.", where="[train]", repair="Change one of them."
                )
        check_seed(self.seed, "[train]")


@dataclass(frozen=True)
class TrainPlan:
    """One table a network."""

    denoiser: TrainSettings = TrainSettings()
    classifier: TrainSettings = TrainSettings()
    cnn: TrainSettings = TrainSettings()
    gloria_pair: TrainSettings = TrainSettings()
    segmenter: TrainSettings = TrainSettings()
    textdiff: TrainSettings = TrainSettings()
    pixel_classifier: TrainSettings = TrainSettings()
    transunet: TrainSettings = TrainSettings()
    swinunet: TrainSettings = TrainSettings()
    gloria: TrainSettings = TrainSettings()
    lvit: TrainSettings = TrainSettings()
