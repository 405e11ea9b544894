"""Pixel features from a frozen denoiser: what its decoder says of a picture under a little noise.

References
----------
Baranchuk et al. 2022, "Label-efficient semantic segmentation with diffusion models",
https://arxiv.org/abs/2112.03126. Feng 2024, "TextDiff" (MICCAI), Sect. 2.1, "Image Encoding".
What was decided where they are silent, and how the weights come in: docs/adr/0013-frozen-backbone.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks.denoiser import Denoiser

__all__ = ["FeatureSettings", "FrozenFeatures"]


@dataclass(frozen=True)
class FeatureSettings:
    """Where features come from.

    Parameters
    ----------
    weights
        A safetensors file of a denoiser: weights/denoiser.safetensors of a run, or what
        `tagmask import-weights` wrote.
    blocks
        Blocks of its decoder, 0 the deepest, each once. With two residual blocks a level block 3 u + j is the
        j-th of the u-th level from below; the output of a level's last block is at the next one's resolution.
    steps
        Noise levels t the picture is looked at under, each once, 1 ... T.
    seed
        Of the one noise that every picture gets.
    label
        Class that a conditional denoiser is told of every picture. None: no class.
    """

    weights: Path
    blocks: tuple[int, ...] = (6, 8, 12, 16)
    steps: tuple[int, ...] = (51, 151, 251)
    seed: int = 40
    label: int | None = None

    def __post_init__(self) -> None:
        for name, values, least in (("blocks", self.blocks, 0), ("steps", self.steps, 1)):
            if not values or len(set(values)) < len(values):
                raise _refusal(name, values, "but it must name at least one, each once")
            if min(values) < least:
                raise _refusal(name, values, f"but the first is {least}")
        if not 0 <= self.seed < 2**63:
            raise _refusal("seed", self.seed, "but it must lie in 0 ... 2^63 - 1")


@dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """The decoder of a denoiser as a fixed function from pictures to features.

    It is no `nn.Module`, and a copy of what holds it shares it: a network that learns on the features has
    neither the denoiser's weights in its state nor several of them in memory.

    Parameters
    ----------
    denoiser
        In evaluation mode. Its weights must not be changed from here on.
    settings
    schedule
        The noise schedule it was trained with.
    sha256
        Of the file the weights came from, so that what learnt on these features can ask for the same again.

    Examples
    --------
    >>> from tagmask.networks.denoiser import DenoiserSettings
    >>> net = Denoiser(DenoiserSettings(size=16, widths=(32, 64), attention=(1,))).eval()
    >>> features = FrozenFeatures(net, FeatureSettings(Path("-"), blocks=(0, 3)), NoiseSchedule.linear())
    >>> [tuple(f.shape) for f in features(torch.zeros(2, 1, 16, 16))]
    [(2, 192, 8, 8), (2, 96, 16, 16)]
    """

    denoiser: Denoiser
    settings: FeatureSettings
    schedule: NoiseSchedule
    sha256: str = ""

    def __post_init__(self) -> None:
        s, known = self.settings, self.denoiser.settings
        if self.denoiser.training:
            raise ConfigError("features of a denoiser in training mode.", repair="Call its eval() first.")
        last = len(known.widths) * (known.blocks + 1) - 1
        if max(s.blocks) > last:
            raise _refusal("blocks", s.blocks, f"but this denoiser's decoder has blocks 0 to {last}")
        if max(s.steps) > self.schedule.steps:
            raise _refusal("steps", s.steps, f"but the schedule has steps 1 to {self.schedule.steps}")
        if s.label is None and known.classes and known.conditioning == "add" and not known.null_row:
            raise _refusal(
                "label", "none", "but this denoiser has no row for no class", f"0 to {known.classes - 1}"
            )
        if s.label is not None and not 0 <= s.label < known.classes:
            allowed = f"0 to {known.classes - 1}" if known.classes else "none: it is unconditional"
            raise _refusal("label", s.label, "but this denoiser has no such class", allowed)

    def __copy__(self) -> FrozenFeatures:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenFeatures:
        return self

    @property
    def image_channels(self) -> int:
        """C of the pictures."""
        return self.denoiser.settings.channels

    @property
    def channels(self) -> tuple[int, ...]:
        """Features of a pixel per block, those of all steps together."""
        widths, blocks = self.denoiser.settings.widths[::-1], self.denoiser.settings.blocks
        return tuple(widths[k // (blocks + 1)] * len(self.settings.steps) for k in self.settings.blocks)

    def sides(self, size: int) -> tuple[int, ...]:
        """Side of each block's features in pixels, for pictures of side `size`.

        Raises
        ------
        ConfigError
            The denoiser cannot walk pictures of this size.
        """
        s = self.denoiser.settings
        step = s.patch * 2 ** (len(s.widths) - 1)
        if size < step or size % step:
            near = max(step, round(size / step) * step)
            raise ConfigError(
                f"pictures of {size} px, but this denoiser takes multiples of {step} px (patch {s.patch}, "
                f"{len(s.widths)} levels).",
                repair=f"Prepare them with size = {near}.",
            )
        # The last block of a level gives what the level above begins with; there is none above the last.
        levels = (min((k + 1) // (s.blocks + 1), len(s.widths) - 1) for k in self.settings.blocks)
        return tuple(size // step * 2**level for level in levels)

    def to(self, device: torch.device | str) -> FrozenFeatures:
        """Give the same features on another device; itself where it is there already."""
        here, there = self.denoiser.unet.conv_in.weight.device, torch.device(device)
        if here.type == there.type and there.index in (None, here.index):
            return self
        with torch.device("meta"):
            denoiser = Denoiser(self.denoiser.settings).eval().requires_grad_(False)
        state = self.denoiser.state_dict()
        denoiser.load_state_dict({name: tensor.to(there) for name, tensor in state.items()}, assign=True)
        return FrozenFeatures(denoiser, self.settings, self.schedule, self.sha256)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> list[Tensor]:
        """Give the features of pictures: a picture has the same ones in any company.

        Parameters
        ----------
        image : (B, C, S, S) float in [-1, 1]
            S may differ from the size the denoiser was trained on.

        Returns
        -------
        One tensor for each block of the settings, in their order: (B, channels, side, side) float32, the
        features of the first step first, channels last in memory. They carry no gradient.

        Raises
        ------
        ConfigError
            Pictures with other channels, not square, or of a size the denoiser cannot walk.
        """
        if image.ndim != 4 or image.shape[1] != self.image_channels or image.shape[2] != image.shape[3]:
            raise ConfigError(
                f"the features' denoiser takes square pictures of shape (B, {self.image_channels}, S, S), "
                f"not {tuple(image.shape)}.",
                repair="Prepare the pictures with the channels that the denoiser was trained on.",
            )
        self.sides(image.shape[-1])
        steps = self.settings.steps
        generator = torch.Generator().manual_seed(self.settings.seed)
        noise = torch.randn(image.shape[1:], generator=generator).to(image.device)  # the same on every device
        # All steps are one batch: every picture at the first step, then every picture at the second, ...
        n, t = len(steps), torch.tensor(steps).repeat_interleave(len(image))
        x = self.schedule.add_noise(image.float().repeat(n, 1, 1, 1), t, noise)
        # Without autocast: features must not depend on the precision in which someone else trains.
        with torch.autocast(image.device.type, enabled=False):
            at_once = 1 if self.denoiser.one_by_one(x) else len(x)  # a third of the memory, in the same time
            parts = [
                self._walk(*part)
                for part in zip(torch.split(x, at_once), torch.split(t, at_once), strict=True)
            ]
        whole = (torch.cat(of_block) for of_block in zip(*parts, strict=True))
        by_step = (h.reshape(n, -1, *h.shape[1:]) for h in whole)
        together = (h.transpose(0, 1).flatten(1, 2) for h in by_step)
        return [h.contiguous(memory_format=torch.channels_last) for h in together]

    def _walk(self, x: Tensor, t: Tensor) -> list[Tensor]:
        """Give the outputs of the blocks, in their order, for images (B, C, S, S) at steps (B,)."""
        blocks = self.settings.blocks
        walk = self.denoiser.decoder(x, t, self.denoiser.embed(self.settings.label))
        found = {k: h for k, h in enumerate(islice(walk, max(blocks) + 1)) if k in blocks}
        return [found[k] for k in blocks]


def _refusal(name: str, value: object, what: str, allowed: str = "") -> ConfigError:
    """Say what is wrong with a setting, and what it may be."""
    shown = list(value) if isinstance(value, tuple) else value
    repair = f"Allowed: {allowed}." if allowed else f"Change features.{name}."
    return ConfigError(f"features.{name} = {shown}, {what}.", repair=repair)
