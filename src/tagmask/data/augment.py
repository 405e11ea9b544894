"""Training pictures made of others: quarter turns, flips, small turns, shifts, zooms, crops, other greys and colours.

Few slices of few patients are the rule here; without augmentation a denoiser learns its training slices by
heart and its score maps are right on them alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tagmask.errors import ConfigError

__all__ = ["VARIANTS", "AugmentSettings", "augment", "draw_variants", "turned"]

VARIANTS = 8
"""Quarter turns with and without a mirror image: variant k turns k times, 4 + k also mirrors left and right."""


@dataclass(frozen=True)
class AugmentSettings:
    """How far a training slice may be changed; everything is off by default.

    Parameters
    ----------
    dihedral
        Quarter turns and mirror images, which move pixels without changing one: "even" draws the eight evenly,
        "mirror" mirrors left and right in half of the cases, "published" (TransUNet, TextDiff) takes one of
        the four mirrored ones in half of the cases, and `rotate` in half of the others alone.
    rewrite_text
        Let left, right, upper and lower in a picture's sentence follow its quarter turn or mirror image.
    sides_of
        Whose left a sentence means: the "picture"'s, or the "patient"'s, as in reports of radiographs, where it lies
        on the picture's right. It makes a difference to quarter turns alone. Read by `rewrite_text`.
    flip
        Mirror left and right in half of the cases. Off where a side means something.
    rotate
        Largest turn either way, degrees.
    shift, zoom
        Largest move and change of scale, as shares of the side.
    crop
        Side of the square that is cut out at random, pixels; 0: all of the picture. For denoisers that are to
        be a backbone: their `size` is then the crop's.
    gamma, contrast
        Largest |log gamma| and largest relative change of contrast, on intensities brought to [0, 1].
    colour
        Largest relative change of the optical density of each channel of an RGB picture, as stains vary.
    """

    dihedral: Literal["off", "mirror", "even", "published"] = "off"
    rewrite_text: bool = False
    sides_of: Literal["picture", "patient"] = "picture"
    flip: bool = False
    rotate: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    crop: int = 0
    gamma: float = 0.0
    contrast: float = 0.0
    colour: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.shift, self.zoom, self.contrast, self.colour)
        if not (0 <= self.rotate <= 180 and all(0 <= v < 1 for v in shares) and self.crop >= 0):
            raise ConfigError(
                f"rotate = {self.rotate}, shift = {self.shift}, zoom = {self.zoom}, contrast = {self.contrast}, "
                f"colour = {self.colour}, crop = {self.crop}, but rotate lies in 0 ... 180 degrees, crop is 0 or "
                "more, and the others lie in [0, 1).",
                where="augment",
            )
        if self.rewrite_text and (self.dihedral == "off" or self.flip):
            raise ConfigError(
                f'rewrite_text follows dihedral alone, but dihedral = "{self.dihedral}" and flip = {self.flip}.',
                where="augment",
                repair='Use dihedral = "mirror" instead of flip.',
            )
        if self.sides_of not in ("picture", "patient"):
            raise ConfigError(
                f'sides_of = "{self.sides_of}".', where="augment", repair='Use "picture" or "patient".'
            )
        if self.sides_of == "patient" and not self.rewrite_text:
            raise ConfigError(
                'sides_of = "patient", but no sentence is rewritten.',
                where="augment",
                repair="Set rewrite_text = true, or leave sides_of out.",
            )

    @property
    def moves(self) -> bool:
        """Whether pixels change place by more than a quarter turn or a mirror image."""
        return self.flip or any((self.rotate, self.shift, self.zoom))

    @property
    def dihedral_alone(self) -> bool:
        """Whether every picture is one of the eight variants of a slice, pixel for pixel."""
        return not (self.moves or self.crop or self.gamma or self.contrast or self.colour)


def draw_variants(count: int, settings: AugmentSettings, generator: torch.Generator) -> Tensor:
    """Draw a variant 0 ... 7 for each of some slices.

    Returns
    -------
    Tensor : (count,) int64
        0 is the slice as it is.
    """
    if settings.dihedral == "off":
        return torch.zeros(count, dtype=torch.int64)
    if settings.dihedral == "even":
        return torch.randint(VARIANTS, (count,), generator=generator)
    mirrored = torch.full((count,), 4)
    if settings.dihedral == "published":
        mirrored = mirrored + torch.randint(4, (count,), generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.5, mirrored, 0)


def turned(image: Tensor, variants: Tensor) -> Tensor:
    """Give each member of a batch (B, ..., S, S) as its variant: turned counter-clockwise, then mirrored."""
    moved = [torch.rot90(one, int(v) % 4, (-2, -1)) for one, v in zip(image, variants, strict=True)]
    return torch.stack([one.flip(-1) if v >= 4 else one for one, v in zip(moved, variants, strict=True)])


def augment(
    image: Tensor,
    settings: AugmentSettings,
    generator: torch.Generator,
    mask: Tensor | None = None,
    variants: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Change every member of a batch by its own draw; a mask moves with its image.

    Parameters
    ----------
    image : (B, C, S, S) float32 in [-1, 1], on the CPU
    mask : (B, 1, S, S) float32 in {0, 1}, optional
    variants : (B,) int64, optional
        As `draw_variants` has just drawn them from this generator; without them they are drawn here.

    Returns
    -------
    image, mask
        Of the same shapes, but for a crop, and ranges. What moves in from outside is -1 (image) and 0 (mask).

    Raises
    ------
    ConfigError
        A crop that is larger than the slice, or colour where there is none.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(len(image), *shape, generator=generator) * 2 - 1

    if variants is None:
        variants = draw_variants(len(image), settings, generator)
    if variants.any():
        image, mask = turned(image, variants), None if mask is None else turned(mask, variants)
    if settings.moves:
        angle = uniform() * math.radians(settings.rotate)
        if settings.dihedral == "published":
            angle = torch.where((variants == 0) & (uniform() < 0), angle, 0)
        zoom = 1 + uniform() * settings.zoom
        side = torch.where(uniform() < 0, -1.0, 1.0) if settings.flip else torch.ones(len(image))
        cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
        move = uniform(2) * 2 * settings.shift  # the grid spans -1 ... 1, hence twice the share
        rows = torch.stack([torch.stack([cos * side, -sin], 1), torch.stack([sin * side, cos], 1)], 1)
        grid = F.affine_grid(torch.cat([rows, move[:, :, None]], 2), list(image.shape), align_corners=False)
        image = F.grid_sample(image + 1, grid, align_corners=False) - 1
        if mask is not None:
            mask = F.grid_sample(mask, grid, mode="nearest", align_corners=False)
    if settings.crop:
        image, mask = _cropped(image, mask, settings.crop, generator)
    if settings.gamma or settings.contrast:
        gamma = torch.exp(uniform(1, 1, 1) * settings.gamma)
        contrast = 1 + uniform(1, 1, 1) * settings.contrast
        unit = ((image + 1) / 2).clamp(0, 1)
        image = (unit**gamma * contrast).clamp(0, 1) * 2 - 1
    if settings.colour:
        if image.shape[1] != 3:
            raise ConfigError(
                f"colour = {settings.colour}, but the slices have {image.shape[1]} channels.",
                where="augment",
                repair="Leave it out: it is for RGB.",
            )
        # Beer and Lambert: I = exp(-density), and the density goes with the amount of stain. Black counts as 1/255.
        unit = ((image + 1) / 2).clamp(1 / 255, 1)
        image = unit ** (1 + uniform(3, 1, 1) * settings.colour) * 2 - 1
    return image, mask


def _cropped(
    image: Tensor, mask: Tensor | None, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Cut a square out of each member, at a place of its own."""
    if side > (size := image.shape[-1]):
        raise ConfigError(
            f"crop = {side}, but the slices have a side of {size}.", where="augment", repair="Use less."
        )
    corners = torch.randint(size - side + 1, (len(image), 2), generator=generator).tolist()

    def cut(stack: Tensor) -> Tensor:
        parts = zip(stack, corners, strict=True)
        return torch.stack([one[:, top : top + side, left : left + side] for one, (top, left) in parts])

    return cut(image), None if mask is None else cut(mask)
