"""Features of a frozen denoiser: what the cut saves, what one batch of steps gains, what keeping them gains.

    python benchmarks/features.py             a narrow network of the published shape: some minutes on one core
    python benchmarks/features.py --full      the published one, 552.8 M parameters at 256 px
    python benchmarks/features.py --counts    arithmetic alone, counted on shapes: seconds, at any size

The weights are random: none of the times depends on them. "Saved" is the share of a whole forward that the cut leaves
out, in multiplications and in seconds. Ways that are compared take turns and medians are reported; that they agree is
checked before anything is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.networks.adm_checkpoint import PUBLISHED
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.networks.feature_cache import FeatureCache
from tagmask.networks.features import FeatureSettings, FrozenFeatures

BLOCKS = {"MoNuSeg": (6, 8, 12, 16), "QaTa": (4, 6, 8, 12)}
STEPS = (51, 151, 251)
FULL = PUBLISHED["imagenet-256"]
SMALL = replace(FULL, widths=(32, 32, 64, 64, 128, 128), head_channels=16, size=64)


def network(settings: DenoiserSettings, device: str) -> Denoiser:
    """Random weights everywhere: where ADM starts at zero, arithmetic would be of zeros."""
    with torch.device("meta"):
        net = Denoiser(settings).eval().requires_grad_(False)
    net.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.03, generator=generator)
    net.unet.to(memory_format=torch.channels_last)
    return net


def features(net: Denoiser, blocks: tuple[int, ...], steps: tuple[int, ...] = STEPS) -> FrozenFeatures:
    return FrozenFeatures(net, FeatureSettings(Path("-"), blocks, steps), NoiseSchedule.linear())


def multiplications(act: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        act()
    return counter.get_total_flops() // 2


def counted_row(name: str, settings: DenoiserSettings) -> str:
    """Multiplications of one picture at one step: a whole forward, the cut one, and the share that is saved."""
    with torch.device("meta"):
        net, x = Denoiser(settings).eval(), torch.zeros(1, settings.channels, settings.size, settings.size)
        e = torch.zeros(1, settings.embedding_width)
    t = torch.tensor([51])
    whole = multiplications(lambda: net(x, t, e))
    walk = net.decoder(x, t, e)
    cut = multiplications(lambda: [next(walk) for _ in range(max(BLOCKS[name]) + 1)])
    return f"{name:10}{BLOCKS[name]!s:18}{whole / 1e9:12.2f}{cut / 1e9:12.2f}{1 - cut / whole:10.1%}"


def seconds(act: Callable[[], list[Tensor]]) -> tuple[float, list[Tensor]]:
    start = time.perf_counter()
    result = act()
    if result[0].is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def compare(
    name: str,
    plain: Callable[[], list[Tensor]],
    ours: Callable[[], list[Tensor]],
    repeats: int,
    tolerance: float | None,
) -> str:
    """One line: seconds of both and their ratio, after checking that they agree (None: they are to differ)."""
    pairs, difference = [], 0.0
    for _ in range(repeats + 1):
        (a, slow), (b, fast) = seconds(plain), seconds(ours)
        pairs.append((a, b))
        if tolerance is not None:
            of_pairs = zip(slow, fast, strict=True)
            difference = max(difference, *(float((p - q).abs().max() / p.abs().max()) for p, q in of_pairs))
            if difference > tolerance:
                raise SystemExit(f"{name}: the results differ by {difference:.1e}.")
    a, b = (statistics.median(column) for column in zip(*pairs[1:], strict=True))  # the first warms up
    return f"{name:44}{a:10.3f}{b:10.4f}{a / b:9.2f}{1 - b / a:9.1%}{difference:11.1e}"


def timed_rows(net: Denoiser, repeats: int, pictures: int) -> Sequence[str]:
    size, device = net.settings.size, net.unet.conv_in.weight.device
    generator = torch.Generator().manual_seed(1)
    x = [(torch.rand(1, 3, size, size, generator=generator) * 2 - 1).to(device) for _ in range(pictures)]
    rows, e = [], net.embed(None)

    @torch.no_grad()
    def whole() -> list[Tensor]:
        return [net(x[0].repeat(len(STEPS), 1, 1, 1), torch.tensor(STEPS), e)]

    for name, blocks in BLOCKS.items():
        cut = features(net, blocks)
        rows.append(compare(f"whole forward / cut, {name} {blocks}", whole, lambda: cut(x[0]), repeats, None))  # noqa: B023
    blocks = BLOCKS["MoNuSeg"]
    together, single = features(net, blocks), [features(net, blocks, (step,)) for step in STEPS]

    def one_by_one() -> list[Tensor]:
        return [torch.cat(found, dim=1) for found in zip(*(one(x[0]) for one in single), strict=True)]

    close = 1e-2 if device.type == "cuda" else 1e-4  # a GPU rounds its convolutions to TF32
    rows.append(
        compare("3 steps one by one / in a batch", one_by_one, lambda: together(x[0]), repeats, close)
    )

    def epoch(get: Callable[[int], list[Tensor]]) -> list[Tensor]:
        return [get(k)[-1] for k in range(pictures)]

    recomputed = lambda: epoch(lambda k: together(x[k]))  # noqa: E731
    for where, limit in (("memory", 2**36), ("disk", 0)):
        cache = FeatureCache(together, limit)
        kept = lambda: epoch(lambda k: cache.get(k, x[k]))  # noqa: B023, E731
        kept()
        rows.append(compare(f"{pictures} pictures recomputed / from {where}", recomputed, kept, repeats, 0.0))
    room = FeatureCache(together, 0).entry_bytes(size) / 2**20
    rows.append(f"room of one picture: {room:.1f} MiB; with eight variants {8 * room:.0f} MiB")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the published network at 256 px")
    parser.add_argument("--counts", action="store_true", help="count multiplications alone")
    parser.add_argument(
        "--size", type=int, help="side of the pictures, a multiple of 32; by default 64, or 256"
    )
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    shape = FULL if options.full else SMALL
    settings = replace(shape, size=options.size or shape.size)
    print(
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, {settings.size} px"
    )
    columns = {"whole, 1e9": 12, "cut, 1e9": 12, "saved": 10}
    print(f"{'':10}{'blocks':18}" + "".join(f"{name:>{width}}" for name, width in columns.items()))
    for name in BLOCKS:
        print(counted_row(name, settings))
    if options.counts:
        return
    net = network(settings, options.device)
    columns = {"plain s": 10, "ours s": 10, "ratio": 9, "saved": 9, "difference": 11}
    print(f"\n{'plain / ours':44}" + "".join(f"{name:>{width}}" for name, width in columns.items()))
    for row in timed_rows(net, options.repeats, options.pictures):
        print(row, flush=True)


if __name__ == "__main__":
    main()
