"""Slices per second against a plain transcription of the published loop, and training steps against a plain one.

    python benchmarks/speed.py            the table at the sizes a laptop finishes in some minutes
    python benchmarks/speed.py --full     the networks of experiments/papers/cdm-brats.toml at 64, 128 and 256 px too
    python benchmarks/speed.py --paper    those alone
    python benchmarks/speed.py --shipped  the networks of experiments/brain-mri.toml and hippocampus.toml, at their size
    python benchmarks/speed.py --train    training steps only

The plain loop sends one slice at a time through the network, each condition by itself, as the published script does,
with weights in the layout that torch gives them (ours are channels last); ours is `CDM.predict` with the batch that
`Pace` finds. Both see the same noise; the largest difference of the two maps, as a share of the map's largest value,
is printed beside the ratio. The two take turns, and medians are reported.

Above the table stands the speed of a large matrix product (float32; TF32 on a GPU), which no network can pass. "plain
load" is the plain loop's arithmetic as a share of it: ours can be faster by no more than its inverse. The ratio is the
median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tagmask.diffusion.guidance import classifier_guidance, label_gradient
from tagmask.diffusion.noise import gaussian
from tagmask.diffusion.schedule import NoiseSchedule
from tagmask.experiment import load_experiment
from tagmask.methods.cdm import CDM, CDMSettings
from tagmask.networks.classifier import Classifier, ClassifierSettings
from tagmask.networks.denoiser import Denoiser, DenoiserSettings
from tagmask.objectives import StepNoise, denoise
from tagmask.segmenting.pace import Pace
from tagmask.types import Batch

Shape = tuple[DenoiserSettings, ClassifierSettings]

SMALL = (
    DenoiserSettings(widths=(64, 96, 128), attention=(2,)),
    ClassifierSettings(widths=(64, 96, 128), attention=(2,)),
)
EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PAPER = EXPERIMENTS / "papers" / "cdm-brats.toml"
SHIPPED = ("brain-mri", "hippocampus")
STAGES = 2


def shape_of(experiment_file: Path) -> Shape:
    """The networks of an experiment."""
    experiment = load_experiment(experiment_file)
    assert experiment.denoiser and experiment.classifier
    return experiment.denoiser, experiment.classifier


def matrix_product_speed(device: str, side: int = 2048) -> float:
    """Floating-point operations a second of the product of two float32 matrices: what the machine can do at best."""
    a = torch.rand(side, side, device=device)

    def product() -> Tensor:
        return a @ a

    product()
    return 2 * side**3 / min(seconds(product, device)[0] for _ in range(5))


def operations(cdm: CDM, image: Tensor) -> int:
    """Floating-point operations that the plain loop spends on a slice."""

    def walk(network: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            network()
        return counter.get_total_flops()

    x, classifier = image[:1], cdm.classifier
    total = walk(lambda: cdm.denoiser(x, 1, cdm.denoiser.embed(1)))
    if classifier is not None:
        total += 2 * walk(lambda: classifier(x, 1))  # the gradient by x costs what the logits cost
    return 2 * STAGES * total


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Fill the layers that start at zero, so that the two maps are worth comparing."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
    return module.eval().requires_grad_(False)


def plain_loop(cdm: CDM, batch: Batch) -> Tensor:
    """The published loop: one slice at a time, the two conditions one after the other."""
    s, maps = cdm.settings, []
    f1, f0 = cdm.denoiser.embed(1), cdm.denoiser.embed(0)
    conditions = ((f1, 1), (s.tau * f1 + (1 - s.tau) * f0, 0))
    for i, name in enumerate(batch.ids):
        one = Batch(batch.image[i : i + 1], (name,))
        x = [cdm.schedule.add_noise(one.image, s.noise_level, gaussian(one, 0))] * 2
        total = torch.zeros_like(one.image)
        for t in range(s.noise_level, s.noise_level - s.stages, -1):
            for k, (e, y) in enumerate(conditions):
                eps = cdm.denoiser(x[k], t, e)
                if cdm.classifier is not None:
                    gradient = label_gradient(cdm.classifier, x[k], t, torch.tensor([y], device=x[k].device))
                    eps = classifier_guidance(eps, gradient, t, s.scale, cdm.schedule)
                x[k] = cdm.schedule.ddim(x[k], eps, t, t - 1)
            total = total + (x[0] - x[1]) / (1 - s.tau)
        maps.append(total.sum(dim=1, keepdim=True))
    return torch.cat(maps)


def paced(cdm: CDM, batch: Batch, pace: Pace, device: str) -> Tensor:
    """`tagmask segment`'s way: batches of the size that pays."""
    maps, start = [], 0
    while start < len(batch):
        stop = start + pace.size
        part = Batch(batch.image[start:stop], batch.ids[start:stop])
        began = time.perf_counter()
        maps.append(cdm.predict(part, 0).score_map)
        synchronise(device)
        pace.observe(len(part), time.perf_counter() - began)
        start = stop
    return torch.cat(maps)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Tensor], device: str) -> tuple[float, Tensor]:
    start = time.perf_counter()
    with torch.no_grad():
        result = work()
    synchronise(device)
    return time.perf_counter() - start, result


def inference_row(
    size: int, shape: Shape, guided: bool, device: str, slices: int, repeats: int, limit: float
) -> str:
    """One line of the table; `limit` is `matrix_product_speed`."""
    denoiser = randomised(Denoiser(replace(shape[0], size=size))).to(device)
    classifier = randomised(Classifier(replace(shape[1], size=size))).to(device) if guided else None
    settings = CDMSettings(noise_level=400, stages=STAGES, tau=0.5)

    def method(layout: torch.memory_format) -> CDM:
        networks = [deepcopy(n).to(memory_format=layout) if n else None for n in (denoiser, classifier)]
        return CDM(networks[0], NoiseSchedule.linear(), networks[1], settings)  # type: ignore[arg-type]

    cdm, published = method(torch.channels_last), method(torch.contiguous_format)
    image = torch.rand(slices, 1, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = Batch(image, tuple(f"s/{i}" for i in range(slices))).to(device)
    pace = Pace(largest=slices)
    while not pace.settled:  # find the batch before the clock runs
        paced(cdm, batch, pace, device)
    pairs = []
    for _ in range(repeats):
        ours, a = seconds(lambda: paced(cdm, batch, pace, device), device)
        plain, b = seconds(lambda: plain_loop(published, batch), device)
        pairs.append((ours, plain))
    difference = float((a - b).abs().max() / b.abs().max())
    ours, plain = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(p / o for o, p in pairs)
    parameters = sum(p.numel() for p in denoiser.parameters()) / 1e6
    load = operations(published, batch.image) * slices / plain / limit
    return (
        f"{'CG-CDM' if guided else 'CDM':7}{size:5}{parameters:9.1f}{pace.size:7}{slices / ours:12.2f}"
        f"{slices / plain:12.2f}{ratio:8.2f}{load:12.0%}{difference:12.1e}"
    )


def training_row(size: int, device: str, repeats: int, steps: int = 3, batch: int = 16) -> str:
    """Steps per second in bf16 against fp32, network of the small experiments."""
    denoiser = randomised(Denoiser(replace(SMALL[0], size=size, patch=2))).requires_grad_().to(device)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-4)
    schedule = NoiseSchedule.linear()
    image = torch.rand(batch, 1, size, size, device=device) * 2 - 1
    label = torch.arange(batch, device=device) % 2
    noise = StepNoise(
        torch.randint(1, 1001, (batch,), device=device), torch.randn_like(image), torch.zeros_like(label) > 0
    )

    def run(bf16: bool) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=bf16):
                loss = denoise(denoiser, schedule, image, label, noise)  # type: ignore[arg-type]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        synchronise(device)
        return steps / (time.perf_counter() - start)

    run(True), run(False)
    pairs = [(run(True), run(False)) for _ in range(repeats)]
    fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
    speeds = f"bf16 {fast:6.2f}  fp32 {slow:6.2f} steps/s   ratio {fast / slow:.2f}"
    return f"train  {size:5}{batch:7} slices a step  {speeds}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="paper-size networks at every size")
    parser.add_argument("--train", action="store_true", help="training steps only")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256], help="image sides in pixels")
    parser.add_argument("--slices", type=int, help="slices a row; by default fewer the larger they are")
    parser.add_argument("--paper", action="store_true", help="paper-size networks alone")
    parser.add_argument("--shipped", action="store_true", help="the shipped experiments' networks alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = (
        True  # as convolutions may: or the limit would be that of other arithmetic
    )
    limit = matrix_product_speed(options.device)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads, R = {STAGES}")
    print(f"float32 matrix product {limit / 1e9:.0f} GFLOP/s")
    print(training_row(64, options.device, options.repeats))
    if options.train:
        return
    columns = {
        "px": 5,
        "M param": 9,
        "batch": 7,
        "ours sl/s": 12,
        "plain sl/s": 12,
        "ratio": 8,
        "plain load": 12,
        "map diff": 12,
    }
    print(f"{'method':7}" + "".join(f"{name:>{width}}" for name, width in columns.items()))
    gpu = options.device == "cuda"
    cases: list[tuple[Shape, int]] = []
    if not options.paper:
        shipped = [shape_of(EXPERIMENTS / f"{name}.toml") for name in SHIPPED]
        cases += [(shape, shape[0].size) for shape in shipped]
    if not (options.paper or options.shipped):
        cases += [(SMALL, size) for size in options.sizes]
    if not options.shipped:
        every = options.full or options.paper or gpu
        cases += [(shape_of(PAPER), size) for size in options.sizes if size <= 64 or every]
    for shape, size in cases:
        slices = options.slices or max(4, 1024 // size) * (4 if gpu else 1)
        for guided in (False, True):
            row = inference_row(size, shape, guided, options.device, slices, options.repeats, limit)
            print(row, flush=True)


if __name__ == "__main__":
    main()
