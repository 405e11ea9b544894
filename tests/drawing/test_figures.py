"""Pictures say what was put in; charts are drawn without state, display or surprise."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tagmask.drawing import charts, evaluation, tiles


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def rgb(name: str) -> tuple[int, ...]:
    return tuple(int(name[k : k + 2], 16) for k in (1, 3, 5))


def test_a_plain_tile_is_the_image_enlarged() -> None:
    image = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
    found = pixels(tiles.tile(image))
    zoom = found.shape[0] // 64
    assert found.shape == (64 * zoom, 48 * zoom, 3) and 240 <= found.shape[0] <= 340
    assert (found[::zoom, ::zoom] == image[..., None]).all()
    assert (found == found[::zoom, ::zoom].repeat(zoom, 0).repeat(zoom, 1)).all()


def test_truth_is_an_outline_inside_the_lesion_and_mask_a_tint() -> None:
    image = np.full((72, 72), 100, np.uint8)
    region = np.zeros((72, 72), bool)
    region[20:40, 30:60] = True
    zoom = pixels(tiles.tile(image)).shape[0] // 72
    large = region.repeat(zoom, 0).repeat(zoom, 1)
    outlined = pixels(tiles.tile(image, truth=region))
    orange = (outlined == rgb(tiles.TRUTH)).all(axis=-1)
    assert orange.any() and not orange[~large].any()
    assert orange[20 * zoom, 30 * zoom] and not orange[30 * zoom, 45 * zoom]
    assert (outlined[~orange] == 100).all()
    masked = pixels(tiles.tile(image, mask=region))
    assert (masked[~large] == 100).all() and (masked[large] != 100).any(axis=-1).all()
    assert masked[30 * zoom, 45 * zoom].tolist() == [round(60 + 0.4 * c) for c in rgb(tiles.MASK)]


def test_truth_lies_over_the_mask_and_a_single_pixel_is_seen() -> None:
    region = np.zeros((64, 64), bool)
    region[0, 63] = True
    both = pixels(tiles.tile(np.zeros((64, 64), np.uint8), mask=region, truth=region))
    assert (both == rgb(tiles.TRUTH)).all(axis=-1).any()
    assert not (both == rgb(tiles.MASK)).all(axis=-1).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (300, 7, 3)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    region = np.ones(shape[:2], bool)
    found = pixels(tiles.tile(np.zeros(shape, np.uint8), mask=region, truth=region))
    assert found.shape[0] % shape[0] == 0 and found.shape[1] % shape[1] == 0


def test_scores_rise_in_brightness_and_the_unknown_is_grey() -> None:
    score = np.linspace(-1, 2, 64 * 64, dtype=np.float32).reshape(64, 64)
    score[0, 0] = np.nan
    found = pixels(tiles.score_tile(score, (-1, 2)))
    light = found[:: found.shape[0] // 64, :: found.shape[0] // 64] @ np.array([0.2126, 0.7152, 0.0722])
    assert tuple(found[0, 0]) == (128, 128, 128)
    assert (np.diff(light.ravel()[1:]) > -1.5).all() and light[-1, -1] > light[0, 1] + 150
    bar = pixels(tiles.scale())
    assert bar.shape == (1, 128, 3) and tuple(bar[0, -1]) == tuple(found[-1, -1])


def test_charts_are_pictures_and_the_same_twice() -> None:
    edges = np.linspace(-1, 3, 101)
    middle = (edges[1:] + edges[:-1]) / 2
    background, truth = (np.round(1e5 * np.exp(-((middle - m) ** 2) * 4)).astype(int) for m in (0, 1))
    recall = np.linspace(0, 1, 30)
    sizes = np.random.default_rng(0).integers(1, 900, 200)
    charts = [
        lambda: evaluation.score_histogram(edges, background, truth, [0.4, 0.5, 0.9]),
        lambda: evaluation.score_histogram(edges, background, truth * 0, [0.5]),
        lambda: evaluation.score_histogram(np.array([1.0, 1.5]), np.array([4]), np.array([0])),
        lambda: evaluation.precision_recall(
            {"a": (recall, 1 - recall), "b": (recall, recall * 0 + 0.1)}, 0.05
        ),
        lambda: evaluation.dice_over_size(sizes, 1 / sizes),
        lambda: evaluation.dice_over_size(np.array([7]), np.array([0.5])),
    ]
    for draw in charts:
        first = draw()
        assert first == draw()
        shape = pixels(first).shape
        assert shape[0] >= 500 and shape[1] >= 800 and len(first) < 150_000


def test_the_threshold_is_drawn_where_it_lies() -> None:
    edges, counts = np.linspace(0, 1, 51), np.full(50, 10)
    left, right = (
        pixels(evaluation.score_histogram(edges, counts, counts, [t]))[150:500] for t in (0.25, 0.75)
    )
    dark = [(p.max(axis=-1) < 110).sum(axis=0) for p in (left, right)]
    apart = int((dark[1] - dark[0]).argmax()) - int((dark[0] - dark[1]).argmax())
    assert apart == pytest.approx(0.5 * 800, rel=0.15)


def test_quarters_hold_everything_once() -> None:
    sizes = np.array([1, 1, 1, 1, 1, 2, 3, 50, 60, 70, 900])
    bounds = evaluation.quarters(sizes)
    counts = [int(((sizes >= low) & (sizes <= high)).sum()) for low, high in bounds]
    assert sum(counts) == len(sizes)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(bounds))
    assert evaluation.quarters(np.array([4, 4, 4])) == [(4, 4)]
    assert evaluation.quarters(np.zeros(0, int)) == []


def test_no_pyplot() -> None:
    code = (
        "import sys, tagmask.drawing.charts, tagmask.drawing.tiles; print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def line(x: list[float], y: list[float]) -> charts.SweepLine:
    values = np.array(y)
    return charts.SweepLine(np.array(x), values, values - 0.1, values + 0.1)


def test_a_sweep_is_drawn_twice_alike_as_png_and_svg() -> None:
    lines = {"Dice": line([0, 1, 10], [0.2, 0.4, 0.3]), "AUPRC": line([0, 1, 10], [0.1, 0.2, 0.2])}
    found = charts.sweep(lines, x="scale s", y="mean", log=True)
    assert list(found) == ["png", "svg"] and pixels(found["png"]).std() > 0
    assert found["svg"].lstrip().startswith(b"<?xml") and b"<dc:date>" not in found["svg"]
    assert charts.sweep(lines, x="scale s", y="mean", log=True) == found
    assert charts.sweep(lines, x="scale s", y="mean") != found


@pytest.mark.parametrize("x", [[5.0], [0.0], [0.9, 0.95, 0.99], [0.0, 500.0]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_sweeps_are_drawn_without_a_warning(x: list[float], log: bool) -> None:
    assert charts.sweep({"a": line(x, [float("nan")] * len(x))}, x="x", y="y", log=log)["png"]
