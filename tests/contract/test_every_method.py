"""What every entry of METHODS keeps, whoever wrote it. A new method is tested by being in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

from tagmask.config import plain
from tagmask.data.prepared import Prepared
from tagmask.errors import RunError
from tagmask.jobs.segment import segment
from tagmask.masks import MaskSettings, binarise
from tagmask.methods import METHODS, settings_of
from tagmask.networks.kinds import MASK_LEARNERS
from tagmask.runs import Run
from tagmask.slices import SliceSettings
from tagmask.types import Batch, TextTokens
from tests.random_run import ALL, LEAST, SLICES, TEXT_WIDTH, TRAINING, write_run
from tests.toys import SIZE

pytestmark = pytest.mark.parametrize("name", METHODS)

# Largest difference of a slice's map alone and in company. "combined" divides CDM's maps by their peak, some 1e-3
# here, so rounding errors grow with them.
ROUNDING = {"combined": 2e-3}


@pytest.fixture(scope="module")
def made() -> dict[object, Run]:
    """Runs that are open already."""
    return {}


@pytest.fixture
def runs(name: str, made: dict[object, Run], tmp_path: Path) -> Callable[[int], Run]:
    """Give a function from the number of channels to a run with every network, of random weights."""
    training = TRAINING.get(name, ())

    def run(channels: int = 1) -> Run:
        if (key := (channels, training, slices_of(name).size)) not in made:
            folder = write_run(
                tmp_path / "run", *training, networks=ALL, channels=channels, slices=slices_of(name)
            )
            made[key] = Run.open(folder)
        return made[key]

    return run


def needs_of(name: str) -> tuple[str, ...]:
    """The networks that a method needs as it comes."""
    return METHODS[name].needs_of(settings_of(name, {}))


def slices_of(name: str) -> SliceSettings:
    """Toys, but for networks that take none."""
    return replace(SLICES, size=max(SIZE, *(LEAST.get(need, 0) for need in needs_of(name))))


def batch_of(name: str, count: int = 4, channels: int = 1, label: bool = False) -> Batch:
    """Slices, sentences for those networks that read them, and tags if they are wanted; the second has no text."""
    generator, size = torch.Generator().manual_seed(1), slices_of(name).size
    image = torch.rand(count, channels, size, size, generator=generator) * 2 - 1
    tags = torch.arange(count) % 2 if label else None
    mask = torch.tensor([[True, i != 1] for i in range(count)]) & (torch.arange(count) != 1)[:, None]
    text = TextTokens(torch.randn(count, 2, TEXT_WIDTH, generator=generator) * mask[..., None], mask)
    return Batch(image, tuple(f"case{i}/{7 * i}" for i in range(count)), tags, text)


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    """Some slices of a batch, in another order."""
    text = None if batch.text is None else batch.text[torch.tensor(rows)]
    return Batch(batch.image[rows], tuple(batch.ids[i] for i in rows), text=text)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_a_score_for_every_pixel(name: str, channels: int, count: int, runs: Callable[[int], Run]) -> None:
    found = runs(channels).method(name).predict(batch_of(name, count, channels)).score_map
    size = slices_of(name).size
    assert found.shape == (count, 1, size, size) and found.dtype == torch.float32
    assert found.isfinite().all() and not found.requires_grad
    assert all(float(score.std()) > 1e-4 for score in found)  # it says something


def test_what_is_said_of_whole_slices_fits_the_batch(name: str, runs: Callable[[int], Run]) -> None:
    found = runs(1).method(name).predict(batch_of(name, 3))
    for value, dtype in (
        (found.threshold, torch.float32),
        (found.score, torch.float32),
        (found.present, torch.bool),
    ):
        assert value is None or (value.shape == (3,) and value.dtype == dtype)
    assert found.present is None or found.score is not None  # a decision comes with what it was made by


def test_what_is_read_off_a_walk_is_a_setting_and_the_method_can_read_it(
    name: str, runs: Callable[[int], Run]
) -> None:
    recipe = METHODS[name]
    assert recipe.read_off <= {field.name for field in fields(recipe.settings)}
    assert not recipe.read_off or hasattr(runs(1).method(name), "predict_all")


def test_the_same_seed_gives_the_same_bits(name: str, runs: Callable[[int], Run]) -> None:
    batch = batch_of(name)
    first = runs(1).method(name).predict(batch, 3).score_map
    torch.manual_seed(999)  # neither the global state nor what went before matters
    torch.rand(7)
    method = runs(1).method(name)
    method.predict(batch_of(name, 2), 8)
    assert torch.equal(method.predict(batch, 3).score_map, first)
    before = torch.get_rng_state()
    method.predict(batch, 3)
    assert torch.equal(torch.get_rng_state(), before)  # and it leaves the global state alone


def test_alone_as_in_company(name: str, runs: Callable[[int], Run]) -> None:
    method, batch = runs(1).method(name), batch_of(name, 5)
    together = method.predict(batch, 3).score_map
    alone = [method.predict(rows_of(batch, [i]), 3).score_map for i in range(5)]
    rounding = ROUNDING.get(name, 1e-5)
    assert float((torch.cat(alone) - together).abs().max()) < rounding
    order = [3, 0, 4, 1, 2]
    assert (
        float((method.predict(rows_of(batch, order), 3).score_map - together[order]).abs().max()) < rounding
    )


def test_the_input_is_untouched(name: str, runs: Callable[[int], Run]) -> None:
    batch = batch_of(name, label=True)
    kept = batch.image.clone()
    found = runs(1).method(name).predict(batch, 0).score_map
    assert torch.equal(batch.image, kept)
    found.zero_()  # the map is no view of the picture either
    assert torch.equal(batch.image, kept)


def test_tags_of_the_batch_do_not_move_the_map(name: str, runs: Callable[[int], Run]) -> None:
    method, plainly = runs(1).method(name), batch_of(name)
    reference = method.predict(plainly, 0).score_map
    for label in (torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)):
        assert torch.equal(method.predict(replace(plainly, label=label), 0).score_map, reference)


def test_networks_are_left_as_they_are(name: str, runs: Callable[[int], Run]) -> None:
    run = runs(1)
    method = run.method(name)
    networks: list[Any] = [run.network(need) for need in run.needs(name)]
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    method.predict(batch_of(name), 0)
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
        assert not network.training and all(p.grad is None for p in network.parameters())


def test_maps_can_be_made_masks(name: str, runs: Callable[[int], Run]) -> None:
    batch = batch_of(name)
    binary = binarise(runs(1).method(name).predict(batch).score_map, batch.image, MaskSettings())
    assert binary.mask.any() and not binary.mask.all()


def test_tags_suffice(
    name: str, prepared: Path, runs: Callable[[int], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data prepared without masks serves every method; and what reads tags is never given a mask."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a mask was asked for")

    for reader in (
        "tagmask.io.read_mask",
        "tagmask.io.studies.read_mask",
        "tagmask.data.prepared.Prepared.open_masks",
    ):
        monkeypatch.setattr(reader, fail)
    data = Prepared.open(prepared)
    assert not data.supervised
    batch, size = data.batch(data.split_indices("test")), slices_of(name).size
    found = runs(1).method(name).predict(replace(batch, image=interpolate(batch.image, size))).score_map
    assert found.isfinite().all() and len(found) == 8


def test_what_was_read_is_stamped(name: str, runs: Callable[[int], Run]) -> None:
    # Only a mask learner is trained on masks, and whoever uses one says so.
    read = runs(1).reads(name).removesuffix(" + texts")
    assert read == ("train masks" if MASK_LEARNERS.keys() & needs_of(name) else "tags")


def test_needs_are_true(name: str, tmp_path: Path) -> None:
    """It can be made from just what it needs, and from nothing less."""
    needs = needs_of(name)
    assert needs and set(needs) <= set(ALL)
    training = TRAINING.get(name, ())
    enough = Run.open(write_run(tmp_path / "enough", *training, networks=needs, slices=slices_of(name)))
    found = enough.method(name).predict(batch_of(name)).score_map
    # What it does not name has no part in it, so that the manifest lists all weights that had.
    everything = Run.open(write_run(tmp_path / "everything", *training, networks=ALL, slices=slices_of(name)))
    assert torch.equal(everything.method(name).predict(batch_of(name)).score_map, found)
    for need in needs:
        run = write_run(tmp_path / need, *training, networks=tuple(n for n in ALL if n != need))
        with pytest.raises(RunError, match=f"no weights of the {need} that {name} needs"):
            Run.open(run).method(name)


def test_settings_have_defaults_and_round_trip(name: str) -> None:
    settings = settings_of(name, {})
    assert type(settings) is METHODS[name].settings
    assert settings_of(name, plain(settings)) == settings
    if table := plain(settings):
        with pytest.raises(FrozenInstanceError):
            setattr(settings, next(iter(table)), None)
    documented = type(settings).__doc__ or ""
    assert all(field.name in documented for field in fields(settings))
    assert "mask" not in plain(settings), "[methods.X.mask] is the table of its masks"


def test_segment_runs_it(name: str, cohort: Path, tmp_path: Path, runs: Callable[[int], Run]) -> None:
    result = segment(runs(1), [cohort / "test"], out=tmp_path / "out", method=name)
    assert len(result.done) == 8 and not result.failed
