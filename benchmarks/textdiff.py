"""An epoch of TextDiff's head on features that are kept, against one that computes them anew.

    python benchmarks/textdiff.py             a narrow backbone of the published shape; that of experiments/monuseg.toml
    python benchmarks/textdiff.py --full      the published one, 552.8 M parameters at 256 px

An epoch trains the head on every picture once, batch 1, with the eight turns and mirror images drawn as in training;
the epoch that fills the cache is not counted. Both ways start from the same weights, and must end with the same bits.
"count" is what the ratio would be if multiplications alone took time: the head's own are the same in both ways, and
no cache can save them.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from features import BLOCKS, FULL, SMALL, network  # the script beside this one
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tagmask.data.augment import VARIANTS, turned
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.experiment import load_experiment
from tagmask.networks.denoiser import DenoiserSettings
from tagmask.networks.feature_cache import FeatureCache
from tagmask.networks.features import FeatureSettings, FrozenFeatures
from tagmask.networks.textdiff import TextDiff, TextDiffSettings
from tagmask.objectives import segment
from tagmask.types import TextTokens

ROOT = Path(__file__).parents[1]
NARROW = replace(SMALL, size=128)


@dataclass(frozen=True)
class Case:
    """A head on a backbone of random weights: none of the times depends on them."""

    name: str
    frozen: FrozenFeatures
    head: TextDiff

    @classmethod
    def make(cls, name: str, backbone: DenoiserSettings, head: TextDiffSettings, device: str) -> Case:
        """Put a head on a backbone."""
        frozen = FrozenFeatures(network(backbone, device), head.features, NoiseSchedule.linear())
        torch.manual_seed(0)
        return cls(name, frozen, TextDiff(head.resolved(frozen)).to(device))


def cases(full: bool, device: str) -> Sequence[Case]:
    shape = FULL if full else NARROW
    width = 768 * shape.widths[0] // 256
    made = []
    for name, blocks in BLOCKS.items():
        head = TextDiffSettings(
            FeatureSettings(Path("-"), blocks),
            size=shape.size,
            width=width,
            head_width=width // 12,
            decoder=(width // 6, width // 24),
            null_text=True,
        )
        made.append(Case.make(name, shape, head, device))
    if not full:
        ours = load_experiment(ROOT / "experiments" / "monuseg.toml").textdiff
        backbone = load_experiment(ROOT / "experiments" / "monuseg-backbone.toml").denoiser
        assert ours is not None and backbone is not None
        made.append(Case.make("monuseg.toml", backbone, ours, device))
    return made


def sentence(case: Case, device: torch.device | str) -> TextTokens:
    embedding = torch.randn(1, 10, case.head.settings.text_width, generator=torch.Generator().manual_seed(2))
    return TextTokens(embedding, torch.ones(1, 10, dtype=torch.bool)).to(device)


def epoch(case: Case, head: TextDiff, optimizer: torch.optim.Optimizer, images: Tensor, number: int,
          get: Callable[[int, int, Tensor], Sequence[Tensor]]) -> float:  # fmt: skip
    """Train on every picture once; give the seconds."""
    variants = torch.randint(VARIANTS, (len(images),), generator=torch.Generator().manual_seed(number))
    text, start = sentence(case, images.device), time.perf_counter()
    for k, variant in enumerate(variants):
        x = turned(images[k : k + 1], variant[None])
        mask = (x[:, :1] > 0).float()
        logits = head.decode(get(k, int(variant), x), images.shape[-1], text)
        optimizer.zero_grad()
        segment(logits, mask, dice=1.5).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def gigamultiplications(act: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        act()
    return counter.get_total_flops() / 2e9


def row(case: Case, device: str, pictures: int, repeats: int) -> str:
    """One line of the table."""
    s = case.head.settings
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(pictures, s.channels, s.size, s.size, generator=generator) * 2 - 1).to(device)
    cache = FeatureCache(case.frozen, 2 * 2**30)
    for k in range(pictures):
        for variant in range(VARIANTS):
            cache.get((k, variant), turned(images[k : k + 1], torch.tensor([variant])))
    ways: dict[str, Callable[[int, int, Tensor], Sequence[Tensor]]] = {
        "anew": lambda k, variant, x: case.frozen(x),
        "kept": lambda k, variant, x: cache.get((k, variant), x),
    }
    heads = {way: copy.deepcopy(case.head).train() for way in ways}
    optimizers = {way: torch.optim.Adam(head.parameters(), lr=1e-4) for way, head in heads.items()}
    times: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(repeats + 1):
        for way, get in ways.items():
            times[way].append(epoch(case, heads[way], optimizers[way], images, number, get))
    anew, kept = (statistics.median(column[1:]) for column in times.values())  # the first warms up
    states = [head.state_dict().values() for head in heads.values()]
    difference = max(float((a - b).abs().max()) for a, b in zip(*states, strict=True))
    if difference:
        raise SystemExit(f"{case.name}: the weights differ by {difference:.1e}.")
    features, walk = cache.get((0, 0), images[:1]), case.frozen.denoiser
    x, text = images[:1].repeat(len(s.features.steps), 1, 1, 1), sentence(case, device)
    t, last = torch.tensor(s.features.steps), max(s.features.blocks) + 1
    with torch.no_grad():
        backbone = gigamultiplications(lambda: list(islice(walk.decoder(x, t, walk.embed(None)), last)))
    own = gigamultiplications(lambda: case.head.decode(features, s.size, text).sum().backward())  # type: ignore[no-untyped-call]
    room = cache.entry_bytes(s.size) * VARIANTS / 2**20
    return (
        f"{case.name:14}{s.size:5}{backbone:10.1f}{own:8.1f}{anew:10.2f}{kept:10.3f}{anew / kept:8.1f}"
        f"{1 + backbone / own:8.1f}{room:10.0f}{difference:12.1e}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="the published network at 256 px")
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", help="one line alone, by its name")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads")
    columns = {"px": 5, "backbone": 10, "head": 8, "anew s": 10, "kept s": 10, "ratio": 8, "count": 8,
               "MiB each": 10, "difference": 12}  # fmt: skip
    print(f"{'epoch of':14}" + "".join(f"{name:>{width}}" for name, width in columns.items()))
    for case in cases(options.full, options.device):
        if options.only in (None, case.name):
            print(row(case, options.device, options.pictures, options.repeats), flush=True)


if __name__ == "__main__":
    main()
