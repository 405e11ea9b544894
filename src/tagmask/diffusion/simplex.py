"""Simplex noise in octaves: noise with structures of several sizes at once, for denoisers trained with it.

Wyatt et al. 2022 (AnoDDPM, https://doi.org/10.1109/CVPRW56347.2022.00080) sum six octaves of K. Spencer's
OpenSimplex noise in three dimensions: columns, rows and the time step. A field is

    n(x, y, t) = Σ_k γ^k o(2^k x / ν, 2^k y / ν, 2^k i / ν),   i = t - 1,   k = 0 ... 5,   γ = 0.8,   ν = 64,
    o(p) = Σ_v max(0, 2 - |p - v|²)⁴ g_v·(p - v) / 103,

v running over a lattice whose nearest neighbours are √2 apart, and g_v over 24 directions, dealt to the lattice by
a permutation of 256 numbers. Unlike Gaussian noise it is not of unit variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from tagmask.seeds import keyed
from tagmask.types import Batch

__all__ = ["NoiseKind", "fields", "noise_like", "simplex"]

NoiseKind = Literal["gaussian", "simplex"]

OCTAVES, PERSISTENCE, FREQUENCY = 6, 0.8, 64.0
_SCALE = 103.0  # brings o into about [-1, 1]
# The 24 permutations of (±11, ±4, ±4) without repetition, and the steps to lattice points that can lie within
# reach (√2) of a point of the cell above one of them.
_DIRECTIONS = np.array(
    [
        np.multiply(order, signs)
        for signs in product((-1, 1), repeat=3)
        for order in sorted(set(permutations((11, 4, 4))))
    ],
    dtype=np.float32,
)
_STEPS = np.array(
    [s for s in product((-1, 0, 1, 2), repeat=3) if 0 <= sum(s) <= 3 and max(s) - min(s) <= 2], dtype=np.int32
)


def fields(permutation: np.ndarray, t: int, size: int) -> np.ndarray:
    """Give the noise that permutations of the lattice's directions make at one step.

    A field is linear in the directions, and where it takes them depends on t alone: one sparse matrix serves all.

    Parameters
    ----------
    permutation : (N, 256) uint8
        Each row a permutation of 0 ... 255.
    t
        Step, 1 ... T.
    size
        S.

    Returns
    -------
    (N, S, S) float32
        Of mean 0 and a standard deviation of about 0.5.
    """
    lattice, weights = _geometry(t, size)
    h = permutation[:, lattice[:, 0]]
    for axis in (1, 2):  # uint8: sums wrap around at 256
        h = np.take_along_axis(permutation, h + lattice[:, axis], axis=1)
    directions = _DIRECTIONS[h % len(_DIRECTIONS)].reshape(len(permutation), -1)  # (N, 3 V)
    return np.asarray(weights @ directions.T).T.reshape(-1, size, size)


def _geometry(t: int, size: int) -> tuple[np.ndarray, sparse.csr_array]:
    """Lattice points (V, 3) uint8 about the pixels, and the matrix (S², 3 V) from their directions to fields."""
    step = np.arange(size) / FREQUENCY
    y, x = np.meshgrid(step, step, indexing="ij")
    scale = 2.0 ** np.arange(OCTAVES)
    plane = np.stack([x, y, np.full_like(x, (t - 1) / FREQUENCY)], axis=-1).reshape(-1, 1, 3)
    point = plane * scale[:, None]  # (S², octaves, 3)
    cell = np.floor(point - point.sum(axis=-1, keepdims=True) / 6).astype(np.int32)
    inside, reach = (point - _position(cell)).astype(np.float32), _position(_STEPS).astype(np.float32)
    # 2 - |p - v|², for all steps from each point's cell at once
    kernel = 2 - (inside**2).sum(axis=-1, keepdims=True) + 2 * inside @ reach.T - (reach**2).sum(axis=-1)
    pixel, octave, near = np.nonzero(kernel > 0)
    amplitude = (PERSISTENCE ** np.arange(OCTAVES) / _SCALE).astype(np.float32)
    weight = kernel[pixel, octave, near] ** 4 * amplitude[octave]
    vector = weight[:, None] * (inside[pixel, octave] - reach[near])
    # Each octave numbers the lattice points of a box of its own.
    low = cell.min(axis=0) - 1
    sides = cell.max(axis=0) + 3 - low
    boxes = [np.indices(side).reshape(3, -1).T + corner for side, corner in zip(sides, low, strict=True)]
    first = np.cumsum([0, *(len(box) for box in boxes)])[:-1]
    strides = np.stack([sides[:, 1] * sides[:, 2], sides[:, 2], np.ones_like(sides[:, 2])], axis=-1)
    number = ((cell - low) * strides).sum(axis=-1) + first  # of the cell itself; a step goes to another
    columns = 3 * (number[pixel, octave] + (strides @ _STEPS.T)[octave, near])[:, None] + np.arange(3)
    ends = 3 * np.cumsum(np.bincount(pixel, minlength=size**2))
    lattice = np.concatenate(boxes)
    shape = (size**2, 3 * len(lattice))
    weights = sparse.csr_array((vector.ravel(), columns.ravel(), np.append(0, ends)), shape=shape)
    return lattice.astype(np.uint8), weights


def _position(lattice: np.ndarray) -> np.ndarray:
    """Where a lattice point (..., 3) lies in space."""
    return np.asarray(lattice + lattice.sum(axis=-1, keepdims=True) / 3)


def simplex(batch: Batch, seed: int, draw: int = 0, *, t: int) -> Tensor:
    """Simplex noise keyed by (slice id, seed, draw), each channel with lattice directions of its own.

    Drawn on the CPU, so that a GPU sees the same numbers.

    Parameters
    ----------
    t
        The step that the noise belongs to, its third coordinate.

    Returns
    -------
    Tensor : (B, C, S, S) float32, on the batch's device.
    """
    b, c, size, _ = batch.image.shape
    generators = [keyed("simplex", id, seed, draw, k) for id in batch.ids for k in range(c)]
    found = fields(_permutations(generators), t, size)
    return torch.from_numpy(found.reshape(b, c, size, size)).to(batch.image.device)


def noise_like(image: Tensor, t: Tensor, kind: NoiseKind, generator: torch.Generator) -> Tensor:
    """Draw the noise of a training step: each slice's own, of the kind the network is to remove.

    Parameters
    ----------
    image : (B, C, S, S) float32, on the CPU
    t : (B,) int64
        Steps, 1 ... T.
    """
    if kind == "gaussian":
        return torch.randn(image.shape, generator=generator)
    _, c, size, _ = image.shape
    found = [fields(_permutations([generator] * c), int(step), size) for step in t]
    return torch.from_numpy(np.stack(found))


def _permutations(generators: Sequence[torch.Generator]) -> np.ndarray:
    """Draw one permutation (256,) uint8 from each generator, in order."""
    return np.stack([torch.randperm(256, generator=g).to(torch.uint8).numpy() for g in generators])
