"""One walk through the networks for several uses of it: computed once for each slice, then remembered on disk.

A sweep over R needs the map after every stage of one walk, a table in two set-ups the same map with and
without a gate. `segment` takes a `Variant` as the method that it uses.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tagmask.types import Batch, Prediction

__all__ = ["PredictionCache", "Variant"]


_MAPS, _COLUMNS = ("score_map", "uncertainty"), ("threshold", "score", "present")
"""What a prediction holds for every pixel, and for every slice."""


class _Place(NamedTuple):
    """Where the maps of a slice lie in the file, one after the other, their shape, and what came with them."""

    offset: int
    maps: tuple[str, ...]
    shape: tuple[int, ...]
    extra: dict[str, float | bool]


@dataclass
class PredictionCache:
    """Remembers the predictions of every variant for every slice and seed.

    Parameters
    ----------
    predict
        (batch, seed) -> one prediction for each variant, in order.
    folder
        Where the maps are kept, in a file that is gone when the cache is. Memory holds a line for each slice.
    spared
        Seconds that predictions took which were recalled since `start`, and had been computed before it.
    """

    predict: Callable[[Batch, int], Sequence[Prediction]]
    folder: Path
    spared: float = 0.0
    _places: dict[tuple[str, int, int], _Place] = field(default_factory=dict, repr=False)
    _seconds: dict[tuple[str, int], float] = field(default_factory=dict, repr=False)
    _charged: set[tuple[str, int]] = field(default_factory=set, repr=False)
    _file: IO[bytes] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - closed by `close`

    def start(self, predict: Callable[[Batch, int], Sequence[Prediction]]) -> None:
        """Go on with these networks, for a use that is charged with every slice that it asks for, once."""
        self.predict, self.spared, self._charged = predict, 0.0, set()

    def close(self) -> None:
        """Forget everything."""
        self._file.close()
        self._places.clear()
        self._seconds.clear()

    def recall(self, batch: Batch, seed: int, variant: int) -> Prediction:
        """Give the predictions of one variant, having computed those of all for slices that are new."""
        new = [i for i, name in enumerate(batch.ids) if (name, seed, variant) not in self._places]
        asked = {(name, seed) for name in batch.ids} - self._charged
        self.spared += sum(self._seconds.get(one, 0.0) for one in asked)
        self._charged |= asked
        if new:
            began, part = time.perf_counter(), batch if len(new) == len(batch) else _part(batch, new)
            for k, prediction in enumerate(self.predict(part, seed)):
                for i, name in enumerate(part.ids):
                    self._places[name, seed, k] = self._put(prediction, i)
            each = (time.perf_counter() - began) / len(new)
            self._seconds |= {(name, seed): each for name in part.ids}
        places = [self._places[name, seed, variant] for name in batch.ids]
        device = batch.image.device
        maps = {
            name: torch.stack([self._map(place, index) for place in places]).to(device)
            for index, name in enumerate(places[0].maps)
        }

        def column(name: str, dtype: torch.dtype) -> Tensor | None:
            if name not in places[0].extra:
                return None
            return torch.tensor([place.extra[name] for place in places], dtype=dtype, device=device)

        return Prediction(
            maps["score_map"],
            column("threshold", torch.float32),
            column("score", torch.float32),
            column("present", torch.bool),
            maps.get("uncertainty"),
        )

    def _put(self, prediction: Prediction, i: int) -> _Place:
        maps = {name: part for name in _MAPS if (part := getattr(prediction, name)) is not None}
        offset = self._file.seek(0, 2)
        for part in maps.values():
            self._file.write(np.ascontiguousarray(part[i].cpu().numpy(), dtype=np.float32).tobytes())
        columns = {name: getattr(prediction, name) for name in _COLUMNS}
        extra = {k: v[i].item() for k, v in columns.items() if v is not None}
        return _Place(offset, tuple(maps), prediction.score_map.shape[1:], extra)

    def _map(self, place: _Place, index: int) -> Tensor:
        size = 4 * int(np.prod(place.shape))
        self._file.seek(place.offset + index * size)
        content = self._file.read(size)
        return torch.from_numpy(np.frombuffer(content, np.float32).reshape(place.shape).copy())


def _part(batch: Batch, indices: Sequence[int]) -> Batch:
    rows = torch.tensor(indices, device=batch.image.device)
    return replace(
        batch,
        image=batch.image[rows],
        ids=tuple(batch.ids[i] for i in indices),
        label=None if batch.label is None else batch.label[rows],
        text=None if batch.text is None else batch.text[rows],
    )


@dataclass(frozen=True)
class Variant:
    """A method: one of the variants of a cache.

    Parameters
    ----------
    cache
        Shared by all of them.
    index
        Which of them.
    settings
        Of this variant, for the manifest.
    """

    cache: PredictionCache
    index: int
    settings: Any

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        """Give what the variant says."""
        return self.cache.recall(batch, seed, self.index)
