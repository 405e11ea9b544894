from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from tagmask.config import build
from tagmask.errors import ConfigError, RunError
from tagmask.methods import METHODS, settings_of
from tagmask.methods.combined import Combined, CombinedSettings, ranks, shares
from tagmask.networks import weights
from tagmask.networks.learnt import Learnt
from tagmask.runs import Run
from tagmask.scoring.learnt_from import images_learnt
from tagmask.slices import SliceSettings
from tagmask.types import Batch, Prediction
from tests.random_run import SLICES, write_run


@dataclass(frozen=True)
class Fixed:
    """A method that scores a picture by a function of it."""

    of: Callable[[Tensor], Tensor]

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        return Prediction(self.of(batch.image) + seed)


def batch(count: int = 3) -> Batch:
    image = torch.randn(count, 1, 6, 8, generator=torch.Generator().manual_seed(2))
    return Batch(image, tuple(f"c/{i}" for i in range(count)))


def combined(*functions: Callable[[Tensor], Tensor], **settings: Any) -> Combined:
    members = {str(i): Fixed(f) for i, f in enumerate(functions)}
    return Combined(members, CombinedSettings(**settings))


def square(x: Tensor) -> Tensor:
    return x.square()


def gradient(x: Tensor) -> Tensor:
    """A score that is not the same from left and from right."""
    return x * torch.linspace(0.1, 1, x.shape[-1])


def test_the_average_of_the_members_each_by_its_peak() -> None:
    b = batch()
    found = combined(square, lambda x: 1000 * gradient(x)).predict(b).score_map
    for i in range(len(b)):
        one, other = square(b.image[i]), gradient(b.image[i]).clamp(min=0)
        torch.testing.assert_close(found[i], (one / one.max() + other / other.max()) / 2)


def test_by_rank_only_the_order_counts() -> None:
    b = batch()
    found = combined(square, gradient, scale="rank").predict(b).score_map
    bent = combined(lambda x: square(x).exp(), lambda x: gradient(x) ** 3, scale="rank").predict(b).score_map
    torch.testing.assert_close(found, bent)
    assert not torch.allclose(
        found, combined(square, lambda x: -gradient(x), scale="rank").predict(b).score_map
    )


def test_members_are_equals_whatever_their_order() -> None:
    b = batch()
    torch.testing.assert_close(
        combined(square, gradient).predict(b).score_map, combined(gradient, square).predict(b).score_map
    )


@pytest.mark.parametrize("scale", ["peak", "rank"])
def test_with_flips_a_mirrored_picture_has_the_mirrored_map(scale: Any) -> None:
    method, b = combined(gradient, scale=scale, flips=True), batch()
    mirrored = Batch(b.image.flip(-1), b.ids)
    found = method.predict(b).score_map
    torch.testing.assert_close(found.flip(-1), method.predict(mirrored).score_map)
    assert not torch.allclose(found, combined(gradient, scale=scale).predict(b).score_map)


def test_the_seed_goes_to_the_members() -> None:
    b = batch()
    assert not torch.equal(combined(square).predict(b, 0).score_map, combined(square).predict(b, 7).score_map)


def test_ranks_are_those_of_statistics() -> None:
    maps = torch.randint(0, 9, (4, 1, 5, 7), generator=torch.Generator().manual_seed(0)).float()
    for found, one in zip(ranks(maps), maps, strict=True):
        expected = (rankdata(one.numpy().ravel()) - 1) / (one.numel() - 1)
        torch.testing.assert_close(found.flatten(), torch.from_numpy(expected).float())


def test_a_flat_map_has_no_say() -> None:
    flat = torch.full((1, 1, 3, 3), 4.0)
    assert ranks(flat).unique().tolist() == [0.5]
    assert shares(-flat).tolist() == (0 * flat).tolist() and shares(0 * flat).tolist() == (0 * flat).tolist()


def test_members_are_settings_of_known_methods() -> None:
    table = {"members": {"cdm": {"noise_level": 50}, "grad_cam": {}}, "flips": True}
    settings = settings_of("combined", table)
    assert METHODS["combined"].needs_of(settings) == ("denoiser", "classifier")
    assert METHODS["combined"].asks(settings) == ({"conditional": True},)


@pytest.mark.parametrize(
    ("members", "learnt", "message"),
    [
        ({"ddib": {}, "cg_diff": {"condition": "healthy"}}, Learnt(null=False), "never hidden"),
        ({"cg_diff": {"condition": "healthy"}, "ddib": {}}, Learnt(null=False), "never hidden"),
        ({"cdm": {}, "anoddpm": {}}, Learnt(conditional=False, only_tag=0), "both tags"),
        ({"anoddpm": {}, "cdm": {}}, Learnt(conditional=False, only_tag=0), "both tags"),
    ],
)
def test_a_denoiser_must_have_learnt_what_each_member_asks(
    members: dict[str, Any], learnt: Learnt, message: str
) -> None:
    settings = settings_of("combined", {"members": members})
    with pytest.raises(ConfigError, match=message):
        for asked in METHODS["combined"].asks(settings):
            learnt.check("combined", **asked)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"members": {}}, "members: none"),
        ({"members": {"combined": {}}}, "members: combined"),
        ({"scale": "max"}, "scale"),
        ({"members": {"cdm": {"run": 5}}}, r'run = "runs/other"'),
    ],
)
def test_settings_out_of_range_are_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(CombinedSettings, table)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"cmd": {}}, "unknown method 'cmd'"),
        ({"cdm": {"noise_levle": 5}}, r"members\.cdm\].*noise_levle"),
    ],
)
def test_members_that_cannot_be_are_refused(members: dict[str, Any], message: str) -> None:
    settings = settings_of("combined", {"members": members})
    with pytest.raises(ConfigError, match=message):
        METHODS["combined"].needs_of(settings)


# members of other runs


def of_two(
    tmp_path: Path, learner: str = "segmenter", slices: SliceSettings = SLICES, more: str = "", **record: Any
) -> Path:
    """Write a run whose combination has CDM here and a mask learner elsewhere; give its folder."""
    method = {"segmenter": "unet", "lvit": "lvit"}[learner]
    other = write_run(tmp_path / "other", networks=(learner,), slices=slices)
    environment = json.loads((other / "environment.json").read_text())
    (other / "environment.json").write_text(json.dumps({**environment, **record}))
    members = (
        f"{{cdm={{noise_level=200,stages=1,tau=0.0}},{method}={{run={str(other)!r}{more and ','}{more}}}}}"
    )
    return write_run(tmp_path / "run", f"methods.combined.members={members}")


def test_a_member_may_be_of_another_run(tmp_path: Path) -> None:
    run = Run.open(of_two(tmp_path, masks_read="tags"))
    picture = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    b = Batch(picture, ("a", "b"))
    cdm = run.method("cdm", noise_level=200, stages=1, tau=0.0).predict(b).score_map
    unet = Run.open(tmp_path / "other").method("unet").predict(b).score_map
    found = run.method("combined").predict(b).score_map
    torch.testing.assert_close(found, (shares(cdm) + shares(unet)) / 2)
    assert not torch.allclose(shares(cdm), shares(unet), atol=0.1)
    assert run.reads("combined") == "tags" and run.needs("combined") == ("denoiser",)
    weights = tmp_path / "other" / "weights" / "segmenter.safetensors"
    assert run.weights_files("combined")["unet: segmenter"] == weights
    assert run.size("combined") == run.size("cdm") + Run.open(tmp_path / "other").size("unet")


def test_what_a_member_of_another_run_has_read_is_stamped_and_its_pictures_are_known(
    tmp_path: Path, masked: Path
) -> None:
    folder = of_two(tmp_path)
    assert Run.open(folder).reads("combined") == "tags, train masks"
    file = tmp_path / "other" / "experiment.toml"
    text = file.read_text().replace('prepared = "nowhere"', f"prepared = {str(masked)!r}")
    file.write_text(text + "\n[train.segmenter]\nselect_every = 5\n")
    run = Run.open(folder)
    assert run.reads("combined") == "tags, train masks + val masks" and run.reads("cdm") == "tags"
    learnt = list(images_learnt(run, "combined"))
    assert {image.run for image in learnt} == {tmp_path / "other"} and not list(images_learnt(run, "cdm"))
    assert len(learnt) == 2 * 32  # 24 pictures of train and 8 of val, and their masks
    # asked of other settings than the run's: those of a manifest, say
    assert not list(images_learnt(run, "combined", members={"cdm": {}}))
    members = {"unet": {"run": str(tmp_path / "other")}}
    assert list(images_learnt(Run.open(folder, overrides=["methods.combined.members={cdm={}}"]), "combined",
                              members=members)) == learnt  # fmt: skip
    own = run.path / "experiment.toml"
    own.write_text(own.read_text().replace('prepared = "nowhere"', f"prepared = {str(masked)!r}"))
    seen = {image.run for image in images_learnt(Run.open(folder), "combined", members=members)}
    # its val split may have chosen, though no network is its own
    assert seen == {run.path, tmp_path / "other"}
    shutil.rmtree(tmp_path / "other")  # a member's run that is gone hides nothing of the run's own
    learnt = list(itertools.islice(found := images_learnt(Run.open(folder), "combined", members=members), 64))
    assert {image.run for image in learnt} == {run.path}
    with pytest.raises(RunError, match="is not a run"):
        next(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"slices": replace(SLICES, normalise="slice", window=None)},
            "sees slices cut with .*'slice'.*prepared alike",
        ),
        ({"learner": "lvit"}, "lvit reads sentences"),
        ({"more": "nme=5"}, r"\[methods\.combined\.members\.unet\] of .*other.*nme"),
        ({"more": "name='x'"}, r"\[methods\.combined\.members\.unet\] of .*other.*name"),
    ],
)
def test_a_member_that_looks_at_other_things_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run = Run.open(of_two(tmp_path, **options))
    with pytest.raises(ConfigError, match=message):
        run.method("combined")


def test_a_member_of_a_run_that_is_not_there(tmp_path: Path) -> None:
    folder = of_two(tmp_path)
    shutil.move(tmp_path / "other", tmp_path / "gone")
    with pytest.raises(RunError, match=r"other: .*is not a run"):
        Run.open(folder).method("combined")
    (tmp_path / "gone" / "weights" / "segmenter.safetensors").unlink()
    shutil.move(tmp_path / "gone", tmp_path / "other")
    with pytest.raises(RunError, match=r"other: .*no weights of the segmenter that unet needs"):
        Run.open(folder).method("combined")


def test_stamps_are_not_repeated_and_networks_of_other_runs_are_loaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(of_two(tmp_path, masks_read="tags, train masks"))
    assert run.reads("combined") == "tags, train masks"
    loaded: list[str] = []
    real = weights.load
    monkeypatch.setattr(weights, "load", lambda path, kind: loaded.append(kind) or real(path, kind))
    for flips in (False, True):
        run.method("combined", flips=flips)
    run.size("combined")
    assert sorted(loaded) == ["denoiser", "segmenter"]


def test_weights_after_fewer_steps_are_of_one_run(tmp_path: Path) -> None:
    folder = of_two(tmp_path)
    (folder / "snapshots").mkdir()
    shutil.copy(
        folder / "weights" / "denoiser.safetensors", folder / "snapshots" / "denoiser-000010.safetensors"
    )
    with pytest.raises(ConfigError, match=r"after 10 steps are asked for, but unet is of .*other"):
        Run.open(folder, snapshot=10).method("combined")
