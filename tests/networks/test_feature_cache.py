"""Kept features are the computed ones, bit for bit; memory and disk stay within bounds."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.errors import ConfigError
from tagmask.networks import feature_cache
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.feature_cache import FeatureCache
from tagmask.networks.features import FeatureSettings, FrozenFeatures

GIB = 2**30


class Made:
    """Features that are cheap: of 16 px, two blocks of 3 and 2 channels; how often it was asked is counted."""

    channels = (3, 2)

    def __init__(self, scale: float = 1.0) -> None:
        self.calls, self.scale = 0, scale

    def sides(self, size: int) -> tuple[int, ...]:
        return size // 4, size // 2

    def __call__(self, image: Tensor) -> list[Tensor]:
        self.calls += 1
        return [
            torch.nn.functional.avg_pool2d(image, 4).repeat(1, 3, 1, 1) * self.scale,
            torch.nn.functional.avg_pool2d(image, 2).repeat(1, 2, 1, 1) / 3,
        ]


ENTRY = 4 * (3 * 16 + 2 * 64)


def _pictures(number: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand(1, 1, 16, 16, generator=generator) * 2 - 1 for _ in range(number)]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("limit", [0, 3 * ENTRY, 100 * ENTRY], ids=["disk", "both", "memory"])
def test_what_is_kept_is_what_was_computed_once(tmp_path: Path, limit: int) -> None:
    made, oracle, pictures = Made(), Made(), _pictures(8)
    cache = FeatureCache(made, limit, folder=tmp_path)
    for turn in range(3):
        for k in (range(8), reversed(range(8)), (5, 1, 5, 7))[turn]:
            before = pictures[k].clone()
            assert _same(cache.get(("case", k), pictures[k]), oracle(pictures[k]))
            assert torch.equal(pictures[k], before)
            assert cache.memory_bytes <= limit
    assert made.calls == len(cache) == 8
    assert cache.memory_bytes + cache.disk_bytes == 8 * cache.entry_bytes(16) == 8 * ENTRY
    assert cache.memory_bytes == min(limit, 8 * ENTRY)


def test_of_a_real_backbone_every_turn_is_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Denoiser(DenoiserSettings(size=16, widths=(8, 16), attention=(), head_channels=8, classes=0)).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    frozen = FrozenFeatures(net, FeatureSettings(Path("-"), blocks=(1, 3)), NoiseSchedule.linear())
    entry = FeatureCache(frozen, 0).entry_bytes(16)
    cache, picture = FeatureCache(frozen, 3 * entry, folder=tmp_path), _pictures(1)[0]
    turns = [torch.rot90(p, k, (2, 3)) for p in (picture, picture.flip(3)) for k in range(4)]
    for _ in range(2):
        for variant, turned in enumerate(turns):
            assert _same(cache.get(("a", variant), turned), frozen(turned))
    assert (cache.memory_bytes, cache.disk_bytes, len(cache)) == (3 * entry, 5 * entry, 8)
    first, second = (cache.get(("a", v), turns[v])[0] for v in (0, 1))
    assert not torch.allclose(torch.rot90(first, 1, (2, 3)), second, atol=1e-3), "the noise does not turn"


def test_nothing_is_seen_in_the_folder_and_nothing_stays_open(tmp_path: Path) -> None:
    cache = FeatureCache(Made(), 0, folder=tmp_path)
    cache.get(0, _pictures(1)[0])
    assert list(tmp_path.iterdir()) == [] and cache.disk_bytes == ENTRY
    file = cache._file
    number = file.fileno()
    assert os.fstat(number).st_size == ENTRY
    del cache
    gc.collect()
    assert file.closed


def test_a_name_belongs_to_one_picture(tmp_path: Path) -> None:
    cache, (one, other) = FeatureCache(Made(), GIB), _pictures(2)
    cache.get("a", one)
    with pytest.raises(ConfigError, match="the picture 'a' is not the one"):
        cache.get("a", other)
    with pytest.raises(ConfigError, match="one picture at a time, not 2"):
        cache.get("b", torch.cat([one, other]))
    with pytest.raises(ConfigError, match="-1 bytes"):
        FeatureCache(Made(), -1)
    with pytest.raises(ConfigError, match="is no folder") as caught:
        FeatureCache(Made(), 0, folder=tmp_path / "absent")
    assert caught.value.where == str(tmp_path / "absent")


@pytest.mark.parametrize("how", ["free", "quota"])
def test_a_full_disk_costs_time_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    made, oracle, pictures = Made(), Made(), _pictures(4)
    cache = FeatureCache(made, ENTRY, folder=tmp_path)
    cache.get(0, pictures[0])
    cache.get(1, pictures[1])
    if how == "free":
        little = shutil.disk_usage(tmp_path)._replace(free=GIB + ENTRY - 1)
        monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: little)
    else:

        class Full:
            def seek(self, _: int) -> None:
                raise OSError(28, "No space left on device")

        kept, cache._file = cache._file, Full()  # type: ignore[assignment]
    with caplog.at_level(logging.WARNING):
        for k in (2, 3, 2):
            assert _same(cache.get(k, pictures[k]), oracle(pictures[k]))
    assert made.calls == 5 and len(cache) == 2
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path} has no more room for features: those of 2 pictures are kept, others are computed each time"
    ]
    if how == "quota":
        cache._file = kept
    assert all(_same(cache.get(k, pictures[k]), oracle(pictures[k])) for k in (0, 1))


def test_fifty_pictures_of_256_px_keep_to_the_bound(imagenet: Denoiser) -> None:
    """The published form holds all pixels: 50 pictures of 8448 features are 110 GB. Here the bound is the bound."""
    settings = FeatureSettings(Path("-"), blocks=(6, 8, 12, 16))
    frozen = FrozenFeatures(imagenet, settings, NoiseSchedule.linear())
    entry = FeatureCache(frozen, 0).entry_bytes(256)
    assert entry == 4 * (1536 * 32**2 + 1536 * 64**2 + 768 * 128**2 + 768 * 256**2) == 283_115_520
    assert 50 * 8 * entry > 100 * GIB  # so it is needed

    class Shapes:
        """The same shapes, with a number for each tensor's memory instead of memory."""

        channels, sides = frozen.channels, frozen.sides

        def __call__(self, image: Tensor) -> list[Tensor]:
            return [
                torch.zeros(1).expand(1, c, s, s)
                for c, s in zip(self.channels, frozen.sides(256), strict=True)
            ]

    for limit in (0, GIB, 4 * GIB):
        cache = FeatureCache(Shapes(), limit)
        cache._write = lambda found, size: True  # type: ignore[method-assign]
        for picture in range(50):
            for variant in range(8):
                cache._keep((picture, variant), b"", Shapes()(torch.empty(0)))
        held = [e for e in cache._entries.values() if e.features is not None]
        assert cache.memory_bytes == len(held) * entry <= limit < cache.memory_bytes + entry
        assert len(cache) == 400
