from __future__ import annotations

import csv
import json
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from tagmask.errors import ConfigError, InputError, RunError, TableError
from tagmask.io import alone_in, read_mask, read_scores, sha256
from tagmask.jobs.segment import SegmentResult, segment
from tagmask.networks import weights
from tagmask.runs import Run
from tagmask.segmenting import cases, workbench
from tagmask.slices import SliceSettings
from tagmask.types import Batch, Prediction
from tests.io.files import save_series
from tests.random_run import SLICES, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of random weights. Read only."""
    return write_run(tmp_path_factory.mktemp("random") / "run")


@pytest.fixture
def brightness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a method in place whose score is the grey value: what comes out must be what went in."""

    class Grey:
        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            return Prediction(batch.image[:, :1].clone())

    monkeypatch.setattr(Run, "method", lambda *_, **__: Grey())


def grey(seed: int, shape: tuple[int, ...] = (16, 16)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def picture(path: Path, seed: int = 0, array: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey(seed) if array is None else array).save(path)
    return path


def volume(path: Path, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3), affine: Any = None) -> Path:
    nib.save(nib.Nifti1Image(grey(seed, shape), np.diag([1.0, 1, 3, 1]) if affine is None else affine), path)
    return path


def pictures(folder: Path, count: int) -> list[Path]:
    return [picture(folder / f"p{i}.png", seed=i) for i in range(count)]


def table(path: Path, columns: str, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])
    return path


def slices_of(result: SegmentResult) -> list[dict[str, str]]:
    with (result.out / "slices.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def manifest_of(result: SegmentResult) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((result.out / "manifest.json").read_text())
    return found


def files(folder: Path) -> set[str]:
    """Every file, hidden ones too: a temporary file that is left would be seen."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def maps(result: SegmentResult) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mask and score map of each case, by its name."""
    found = {}
    for mask in sorted((result.out / "masks").iterdir()):
        name = mask.name.partition(".")[0]
        scores = next((result.out / "scores").glob(f"{name}.*"))
        found[name] = read_mask(mask).array, read_scores(scores)
    return found


def check_agree(found: SegmentResult, reference: SegmentResult) -> None:
    """Scores agree within 1e-5; masks do, but for pixels whose score is the threshold but for rounding."""
    rows: dict[str, list[float]] = {}
    for row in slices_of(reference):
        rows.setdefault(row["case"], []).append(float(row["threshold"]))
    expected = maps(reference)
    for name, (mask, scores) in maps(found).items():
        before = expected[name]
        assert np.abs(scores - before[1]).max() < 1e-5, name
        close = np.abs(scores - np.array(rows[name])) < 1e-4
        assert (mask == before[0])[~close].all() and close.mean() < 0.05, name


# grids

TILTED = np.array([[0.8, -0.6, 0, 7], [0.6, 0.8, 0, -11], [0, 0, 3, 2.5], [0, 0, 0, 1]])
AFFINES = {
    "RAS": np.diag([1.0, 1, 3, 1]),
    "LPS": np.array([[-1.0, 0, 0, 4], [0, -1, 0, 5], [0, 0, 3, 6], [0, 0, 0, 1]]),
    "SRA": np.array([[0.0, 1, 0, 4], [0, 0, -1, 5], [3, 0, 0, 6], [0, 0, 0, 1]]),
    "tilted": TILTED,
}


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("plane", ["axial", "file"])
def test_a_volume_comes_back_voxel_by_voxel(
    name: str, plane: str, run: Path, tmp_path: Path, brightness: None
) -> None:
    axis = 0 if name == "SRA" else 2  # which axis of the file runs from feet to head
    shape = [16, 16, 16]
    shape[axis] = 5
    source = volume(tmp_path / "scan.nii.gz", shape=tuple(shape), affine=AFFINES[name])
    settings = SLICES if plane == "axial" else replace(SLICES, plane="ijk"[axis])
    run = write_run(tmp_path / "run", "mask.rule=fixed", "mask.value=0.25", slices=settings)
    result = segment(run, [source], out=tmp_path / "out", tags="none")
    assert (result.done, result.failed, result.slices) == (("scan",), {}, 5)

    before = nib.load(source)
    expected = before.get_fdata() / 127.5 - 1
    mask, scores = nib.load(result.out / "masks/scan.nii.gz"), nib.load(result.out / "scores/scan.nii.gz")
    for image, dtype in ((mask, np.uint8), (scores, np.float32)):
        assert image.get_data_dtype() == dtype
        assert (image.affine == before.affine).all()
        assert image.header.get_zooms() == before.header.get_zooms()
        assert (image.header["sform_code"], image.header["qform_code"]) == (
            before.header["sform_code"],
            before.header["qform_code"],
        )
    assert np.abs(scores.get_fdata() - expected).max() < 1e-5
    assert (mask.get_fdata() == (expected > 0.25)).all()
    counts = np.moveaxis(expected > 0.25, axis, 0).reshape(5, -1).sum(axis=1)
    assert [int(row["mask_pixels"]) for row in slices_of(result)] == counts.tolist()


@pytest.mark.parametrize("shape", [(30, 22), (9, 40)])
def test_a_picture_comes_back_at_its_own_size(
    shape: tuple[int, int], run: Path, tmp_path: Path, brightness: None
) -> None:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    ramp = (255 * (rows + columns) / (sum(shape) - 2)).astype(np.uint8)
    result = segment(run, [picture(tmp_path / "a.b.png", array=ramp)], out=tmp_path / "out", tags="none")
    with Image.open(result.out / "masks/a.b.png") as mask:
        assert (mask.mode, mask.size) == ("L", shape[::-1])
        assert set(np.unique(np.asarray(mask))) == {0, 255}
        inside = np.asarray(mask) > 0
    scores = read_scores(result.out / "scores/a.b.tif")[..., 0]
    assert scores.dtype == np.float32 and np.abs(scores - (ramp / 127.5 - 1)).max() < 0.25
    assert ramp[inside].mean() > ramp[~inside].mean() + 80


def test_a_resampled_volume_keeps_its_grid(run: Path, tmp_path: Path) -> None:
    affine = np.diag([0.7, 1.3, 4.0, 1])
    result = segment(
        run, [volume(tmp_path / "v.nii", shape=(37, 21, 2), affine=affine)], out=tmp_path / "out"
    )
    mask = nib.load(result.out / "masks/v.nii.gz")
    assert mask.shape == (37, 21, 2) and np.allclose(mask.affine, affine)
    assert 0 < float(mask.get_fdata().mean()) < 1


def test_a_dicom_series_becomes_a_nifti_mask(run: Path, tmp_path: Path) -> None:
    pixels = grey(0, (3, 16, 16)).astype(np.int16)
    folder = save_series(tmp_path / "series", pixels, [0.0, 3.0, 6.0])
    result = segment(run, [folder], out=tmp_path / "out")
    assert nib.load(result.out / "masks/series.nii.gz").shape == (16, 16, 3)
    assert [row["slice"] for row in slices_of(result)] == ["0", "1", "2"]


# what is written


def test_the_manifest_says_how_the_masks_came_about(run: Path, tmp_path: Path) -> None:
    volume(tmp_path / "v.nii")
    listed = table(
        tmp_path / "t.csv",
        "id,image,label,slice,patient",
        *((f"v{k}", "v.nii", k % 2, k, "P") for k in range(3)),
    )
    extra = picture(tmp_path / "extra.png")
    result = segment(
        run, [listed, extra], out=tmp_path / "out", method="cg_cdm", seed=5, batch=2, device="cpu",
        overrides=["methods.cg_cdm.scale=3.0", "mask.median=3"],
    )  # fmt: skip
    assert files(result.out) == {
        "manifest.json", "slices.csv", "masks/v.nii.gz", "scores/v.nii.gz", "masks/extra.png", "scores/extra.tif",
    }  # fmt: skip
    manifest = manifest_of(result)
    expected = {
        **{
            "format": "tagmask-segmentation",
            "status": "finished",
            "run": str(run.resolve()),
            "method": "cg_cdm",
        },
        **{"reads": "tags", "seed": 5, "tags": "given", "device": "cpu", "snapshot": None, "batch": 2},
        **{"plane": "axial", "inputs": {"v": [str(tmp_path / "v.nii")], "extra": [str(extra)]}},
    }
    assert expected.items() <= manifest.items()
    settings = manifest["settings"]
    assert (settings["method"]["scale"], settings["method"]["noise_level"], settings["mask"]["median"]) == (
        3,
        300,
        3,
    )
    assert settings["slices"]["size"] == 16
    assert manifest["weights"] == {
        n: sha256(run / "weights" / f"{n}.safetensors") for n in ("denoiser", "classifier")
    }
    assert manifest["environment"]["versions"]["torch"] == torch.__version__
    cases = {case["case"]: case for case in manifest["cases"]}
    assert {(c["status"], c["slices"], c["seconds"] >= 0) for c in cases.values()} == {
        ("done", 3, True),
        ("done", 1, True),
    }
    assert cases["extra"]["sources"] == [str(extra)]
    assert cases["v"]["mask_sha256"] == sha256(tmp_path / "out" / "masks" / "v.nii.gz")


def test_a_row_for_every_slice_in_the_order_of_the_inputs(run: Path, tmp_path: Path) -> None:
    volume(tmp_path / "v.nii")
    listed = table(
        tmp_path / "t.csv",
        "id,image,label,slice,patient",
        ("row1", "v.nii", 1, 1, "P"),
        ("row0", "v.nii", 0, 0, "P"),
    )
    result = segment(run, [listed, picture(tmp_path / "x.png")], out=tmp_path / "out")
    rows = slices_of(result)
    assert tuple(rows[0]) == workbench.COLUMNS
    assert [(r["id"], r["case"], r["slice"], r["patient"]) for r in rows] == [
        ("row0", "v", "0", "P"), ("row1", "v", "1", "P"), ("v/2", "v", "2", "v"), ("x", "x", "0", "x"),
    ]  # fmt: skip
    assert [(r["tag"], r["tag_source"]) for r in rows[:2]] == [("0", "given"), ("1", "given")]
    assert all(0 < float(r["score"]) < 1 and np.isfinite(float(r["threshold"])) for r in rows)
    mask = nib.load(result.out / "masks/v.nii.gz").get_fdata()
    assert [int(r["mask_pixels"]) for r in rows[:3]] == mask.sum(axis=(0, 1)).tolist()


# tags


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Pictures tagged 0, 1 and not at all."""
    pictures(tmp_path, 3)
    return table(
        tmp_path / "three.csv", "id,image,label", ("a", "p0.png", 0), ("b", "p1.png", 1), ("c", "p2.png", "")
    )


def tags_of(result: SegmentResult) -> list[tuple[str, str]]:
    return [(row["tag"], row["tag_source"]) for row in slices_of(result)]


@pytest.mark.parametrize("bias", [-5.0, 5.0])
def test_given_tags_rule_and_the_classifier_fills_in(
    bias: float, run: Path, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Run.open(run)
    real = opened.network("classifier")
    assert real is not None
    monkeypatch.setattr(type(real), "forward", lambda _, x, t: torch.tensor([[0.0, bias]]).expand(len(x), 2))
    result = segment(opened, [three], out=tmp_path / "out")
    guess = str(int(bias > 0))
    assert tags_of(result) == [("0", "given"), ("1", "given"), (guess, "predicted")]
    found = {name: bool(mask.any()) for name, (mask, _) in maps(result).items()}
    assert found == {"p0": False, "p1": True, "p2": bias > 0}
    assert all(np.ptp(scores) > 0 for _, scores in maps(result).values())  # a tag 0 empties the mask alone
    assert all(
        float(row["score"]) == pytest.approx(1 / (1 + np.exp(-bias)), abs=1e-5) for row in slices_of(result)
    )
    assert manifest_of(result)["tags"] == "given"

    result = segment(opened, [three], out=tmp_path / "all", tags="predicted")
    assert tags_of(result) == [(guess, "predicted")] * 3
    result = segment(opened, [three], out=tmp_path / "none", tags="none")
    assert tags_of(result) == [("", "none")] * 3
    assert all(mask.any() for mask, _ in maps(result).values())


def test_without_a_classifier_untagged_slices_are_segmented_and_say_so(three: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", networks=("denoiser",))
    result = segment(run, [three], out=tmp_path / "out")
    assert tags_of(result) == [("0", "given"), ("1", "given"), ("", "none")]
    assert {row["score"] for row in slices_of(result)} == {""}
    assert set(manifest_of(result)["weights"]) == {"denoiser"}
    with pytest.raises(InputError, match="no classifier"):
        segment(run, [three], out=tmp_path / "other", tags="predicted")
    assert not (tmp_path / "other").exists()


class Deciding:
    """A method with a threshold, a score and a decision of its own: all by the mean grey value."""

    def predict(self, batch: Batch, seed: int = 0) -> Prediction:
        mean = batch.image.mean(dim=(1, 2, 3))
        return Prediction(batch.image[:, :1].clone(), mean - 0.25, 100 * mean, mean > 0)


@pytest.fixture
def deciding(monkeypatch: pytest.MonkeyPatch) -> Deciding:
    made = Deciding()
    monkeypatch.setattr(Run, "method", lambda *_, **__: made)
    return made


@pytest.fixture
def dark_and_bright(tmp_path: Path) -> tuple[Path, dict[str, float]]:
    """Two pictures below and above middle grey, tagged the other way round; and their means."""
    means = {}
    for name, low in (("dark", 0), ("bright", 128)):
        array = (grey(7) // 2 + low).astype(np.uint8)
        picture(tmp_path / f"{name}.png", array=array)
        means[name] = float((array / 127.5 - 1).mean())
    rows = (("dark", "dark.png", 1), ("bright", "bright.png", 0))
    return table(tmp_path / "two.csv", "id,image,label", *rows), means


@pytest.mark.parametrize("networks", [("denoiser",), ("denoiser", "classifier")])
def test_a_method_that_decides_needs_no_classifier(
    networks: tuple[str, ...],
    dark_and_bright: tuple[Path, dict[str, float]],
    tmp_path: Path,
    deciding: Deciding,
) -> None:
    listed, means = dark_and_bright
    result = segment(
        write_run(tmp_path / "run", networks=networks), [listed], out=tmp_path / "out", tags="predicted"
    )
    assert tags_of(result) == [("0", "method"), ("1", "method")]
    found = {name: bool(mask.any()) for name, (mask, _) in maps(result).items()}
    assert found == {"dark": False, "bright": True}
    assert [float(row["score"]) for row in slices_of(result)] == pytest.approx(
        [100 * means["dark"], 100 * means["bright"]], rel=1e-4
    )
    manifest = manifest_of(result)
    assert (manifest["tag_sources"], manifest["score_source"]) == ({"method": 2}, "method")


def test_given_tags_overrule_the_method_and_its_score_is_kept(
    run: Path, dark_and_bright: tuple[Path, dict[str, float]], tmp_path: Path, deciding: Deciding
) -> None:
    listed, means = dark_and_bright
    for tags, expected in (("given", [("1", "given"), ("0", "given")]), ("none", [("", "none")] * 2)):
        result = segment(run, [listed], out=tmp_path / tags, tags=tags)
        assert tags_of(result) == expected
        assert float(slices_of(result)[0]["score"]) == pytest.approx(100 * means["dark"], rel=1e-4)
    # Slices that nobody tagged are the classifier's, as ever.
    result = segment(run, [tmp_path / "dark.png"], out=tmp_path / "untagged")
    assert tags_of(result)[0][1] == "predicted"
    assert manifest_of(result)["tag_sources"] == {"predicted": 1}


def test_a_score_alone_decides_nothing(run: Path, three: Path, tmp_path: Path) -> None:
    class Scoring(Deciding):
        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            return replace(super().predict(batch), present=None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "method", lambda *_, **__: Scoring())
        result = segment(run, [three], out=tmp_path / "out", tags="predicted")
        assert {source for _, source in tags_of(result)} == {"predicted"}
        assert manifest_of(result)["score_source"] == "method"
        bare = write_run(tmp_path / "bare", networks=("denoiser",))
        with pytest.raises(InputError, match="cdm does not decide by itself"):
            segment(bare, [three], out=tmp_path / "other", tags="predicted")
    assert not (tmp_path / "other").exists()


def test_the_methods_own_threshold(
    run: Path, dark_and_bright: tuple[Path, dict[str, float]], tmp_path: Path, deciding: Deciding
) -> None:
    own = {"overrides": ["mask.rule=method"], "tags": "none"}
    result = segment(run, [dark_and_bright[0]], out=tmp_path / "out", **own)
    for row, (name, mean) in zip(slices_of(result), dark_and_bright[1].items(), strict=True):
        mask, scores = maps(result)[name]
        assert float(row["threshold"]) == pytest.approx(mean - 0.25, abs=1e-5)
        assert (mask == (scores > mean - 0.25)).all() and 0 < mask.mean() < 1


def test_a_threshold_that_no_one_gives_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").touch()  # tells nothing
    with pytest.raises(ConfigError, match=r"mask\.rule.*cdm gives none.*otsu, quantile, fixed"):
        segment(
            run,
            [tmp_path / "bad.png", *pictures(tmp_path, 2)],
            out=tmp_path / "out",
            overrides=["mask.rule=method"],
        )
    assert not (tmp_path / "out").exists()


def test_one_tag_for_a_whole_volume(run: Path, tmp_path: Path) -> None:
    volume(tmp_path / "v.nii")
    result = segment(
        run, [table(tmp_path / "t.csv", "id,image,label", ("v", "v.nii", 0))], out=tmp_path / "out"
    )
    assert tags_of(result) == [("0", "given")] * 3
    assert not nib.load(result.out / "masks/v.nii.gz").get_fdata().any()


def test_a_tag_that_stands_for_all_slices_is_doubted(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume(tmp_path / "v.nii")
    whole = table(tmp_path / "t.csv", "id,image,label", ("v", "v.nii", 1))
    segment(run, [whole], out=tmp_path / "whole")
    assert "In 1 volumes one tag 1 stands for all slices" in caplog.text
    caplog.clear()
    segment(run, [whole], out=tmp_path / "judged", tags="predicted")
    rows = [(f"v{k}", "v.nii", 1, k) for k in range(3)]
    segment(run, [table(tmp_path / "u.csv", "id,image,label,slice", *rows)], out=tmp_path / "slices")
    assert "stands for all slices" not in caplog.text


def test_no_mask_of_the_table_is_opened(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "p.png")
    (tmp_path / "m.png").write_bytes(b"unreadable")
    listed = table(tmp_path / "t.csv", "id,image,label,mask", ("p", "p.png", 1, "m.png"))
    assert segment(run, [listed], out=tmp_path / "out").failed == {}


# bad cases


def spoil_missing(folder: Path) -> Path:
    return folder / "bad.png"


def spoil_broken(folder: Path) -> Path:
    picture(folder / "bad.png")
    path = folder / "bad.png"
    path.write_bytes(path.read_bytes()[:60])
    return path


def spoil_colours(folder: Path) -> Path:
    """An RGB picture is a fine picture, but the network is of one channel."""
    return picture(folder / "bad.png", array=grey(1, (16, 16, 3)))


def spoil_folder(folder: Path) -> Path:
    (folder / "bad.png").mkdir()
    return folder / "bad.png"


@pytest.mark.parametrize("spoil", [spoil_missing, spoil_broken, spoil_colours, spoil_folder])
@pytest.mark.parametrize("place", [0, 2])
def test_one_bad_case_never_stops_the_others(
    spoil: Callable[[Path], Path], place: int, run: Path, tmp_path: Path
) -> None:
    good = pictures(tmp_path, 4)
    alone = segment(run, good, out=tmp_path / "alone", batch=4)
    names = [path.name for path in good]
    names.insert(place, spoil(tmp_path).name)
    listed = table(tmp_path / "t.csv", "id,image", *((name, name) for name in names))
    seen: list[tuple[int, int]] = []
    result = segment(run, [listed], out=tmp_path / "out", batch=4, report=lambda *count: seen.append(count))
    assert result.done == ("p0", "p1", "p2", "p3")
    assert list(result.failed) == ["bad"] and "bad.png" in result.failed["bad"]
    assert f"failed: bad: {result.failed['bad']}" in str(result)
    assert sorted(seen) == [(n, 5) for n in range(1, 6)]

    assert files(result.out) - {"failed.csv"} == files(alone.out)
    with (result.out / "failed.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"case": "bad", "problem": result.failed["bad"]}]
    records = {case["case"]: case for case in manifest_of(result)["cases"]}
    assert records["bad"]["status"] == "failed" and records["bad"]["error"] == result.failed["bad"]
    assert records["bad"]["sources"] == [str(tmp_path / "bad.png")]
    assert "bad" not in {row["case"] for row in slices_of(result)}
    for name, (mask, scores) in maps(result).items():
        assert (mask == maps(alone)[name][0]).all() and (scores == maps(alone)[name][1]).all()


def test_a_case_that_the_method_cannot_do(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that shows only in a batch with others is laid on the case it belongs to."""
    opened = Run.open(run)
    made = opened.method()
    real = type(made).predict

    def breaks(self: Any, batch: Batch, seed: int = 0) -> Prediction:
        if any(name.startswith("v/") for name in batch.ids):
            raise RuntimeError("odd numbers")
        return real(self, batch, seed)

    inputs = [*pictures(tmp_path, 2), volume(tmp_path / "v.nii"), picture(tmp_path / "last.png")]
    fine = segment(opened, [inputs[0], inputs[1], inputs[3]], out=tmp_path / "fine", batch=4)
    monkeypatch.setattr(type(made), "predict", breaks)
    result = segment(opened, inputs, out=tmp_path / "out", batch=4)
    assert result.done == ("p0", "p1", "last")
    assert result.failed == {"v": "RuntimeError: odd numbers"}
    assert files(result.out) == files(fine.out) | {"failed.csv"}
    assert [row["case"] for row in slices_of(result)] == [row["case"] for row in slices_of(fine)]
    check_agree(result, fine)


def test_a_case_that_cannot_be_written_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = workbench.write_scores

    def breaks(path: Path, *rest: Any) -> Path:
        if path.name == "p1":
            raise OSError("the disk is gone")
        return real(path, *rest)

    monkeypatch.setattr(workbench, "write_scores", breaks)
    result = segment(run, pictures(tmp_path, 3), out=tmp_path / "out")
    assert (result.done, result.failed) == (("p0", "p2"), {"p1": "the disk is gone"})
    assert not any("p1" in name for name in files(result.out))
    assert [row["case"] for row in slices_of(result)] == ["p0", "p2"]
    assert result.slices == 2


def test_a_slice_out_of_range_fails_its_volume_and_names_the_row(run: Path, tmp_path: Path) -> None:
    volume(tmp_path / "v.nii")
    listed = table(tmp_path / "t.csv", "id,image,label,slice", ("x", "v.nii", 1, 1), ("y", "v.nii", 1, 3))
    result = segment(run, [listed, picture(tmp_path / "p.png")], out=tmp_path / "out")
    assert result.done == ("p",)
    assert all(part in result.failed["v"] for part in ("slice 3", "0 to 2", "v.nii", "row y"))


def test_two_rows_of_one_picture_fail_it(run: Path, tmp_path: Path) -> None:
    picture(tmp_path / "p.png")
    listed = table(tmp_path / "t.csv", "id,image,label,slice", ("a", "p.png", 0, 0), ("b", "p.png", 1, 1))
    assert "2 rows" in segment(run, [listed], out=tmp_path / "out").failed["p"]


def test_all_cases_may_fail(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    result = segment(run, [tmp_path / "bad.png"], out=tmp_path / "out")
    assert (result.done, list(result.failed)) == ((), ["bad"])
    assert files(result.out) == {"manifest.json", "slices.csv", "failed.csv"}
    assert manifest_of(result)["status"] == "finished"


# company


@pytest.mark.parametrize("method", ["cdm", "cg_cdm"])
def test_maps_do_not_depend_on_batch_order_or_company(method: str, run: Path, tmp_path: Path) -> None:
    volumes = [volume(tmp_path / f"v{n}.nii", seed=n, shape=(16, 16, n)) for n in (5, 4)]
    inputs = [*pictures(tmp_path, 4), *volumes]

    def done(name: str, chosen: list[Path], batch: int | None) -> SegmentResult:
        return segment(run, chosen, out=tmp_path / name, method=method, batch=batch, tags="none")

    reference = done("one", inputs, 1)
    assert len(maps(reference)) == 6
    assert all(mask.any() and np.ptp(scores) > 0.01 for mask, scores in maps(reference).values())
    together = [
        done("b3", inputs, 3),
        done("b8", inputs, 8),
        done("auto", inputs, None),
        done("r", inputs[::-1], 3),
    ]
    for result in together:
        assert maps(result).keys() == maps(reference).keys()
    for result in [*together, *(done(f"alone{i}", [path], 2) for i, path in enumerate(inputs))]:
        check_agree(result, reference)


def test_the_seed_decides(run: Path, tmp_path: Path) -> None:
    inputs = pictures(tmp_path, 2)
    first, again, other = (
        maps(segment(run, inputs, out=tmp_path / name, seed=seed, batch=2))
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    for name, (mask, scores) in first.items():
        assert scores.tobytes() == again[name][1].tobytes() and (mask == again[name][0]).all()
        assert np.abs(scores - other[name][1]).max() > 1e-3 * np.abs(scores).max()
    assert not np.allclose(first["p0"][1], first["p1"][1])  # each slice has its own noise


def test_otsu_mean_is_one_threshold_for_all(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [*pictures(tmp_path, 2), volume(tmp_path / "v.nii")]
    each = slices_of(segment(run, inputs, out=tmp_path / "each", batch=2))
    mean = float(np.mean([float(row["threshold"]) for row in each]))
    assert len({row["threshold"] for row in each}) == len(each) == 5
    (tmp_path / "bad.png").touch()  # counts in neither pass
    written: list[str] = []
    real = workbench.write_mask
    monkeypatch.setattr(
        workbench, "write_mask", lambda path, *rest: written.append(path.name) or real(path, *rest)
    )
    result = segment(
        run, [*inputs, tmp_path / "bad.png"], out=tmp_path / "mean", batch=2, tags="none",
        overrides=["mask.rule=otsu_mean"],
    )  # fmt: skip
    (threshold,) = {float(row["threshold"]) for row in slices_of(result)}
    assert threshold == pytest.approx(mean, rel=1e-4)
    for mask, scores in maps(result).values():
        assert (mask == (scores > mean)).mean() > 0.99
    assert len(slices_of(result)) == 5 and list(result.failed) == ["bad"]
    assert len(manifest_of(result)["cases"]) == 4
    assert written == ["p0", "p1", "v"]  # the pass that looks for the threshold writes nothing


# memory


@pytest.mark.parametrize("fits", [1, 3])
def test_too_large_a_batch_is_halved_and_nothing_changes(
    fits: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, inputs = Run.open(run), pictures(tmp_path, 7)
    reference = segment(opened, inputs, out=tmp_path / "a", batch=1)
    made = opened.method()
    real, sizes = type(made).predict, []

    def narrow(self: Any, batch: Batch, seed: int = 0) -> Prediction:
        sizes.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, batch, seed)

    monkeypatch.setattr(type(made), "predict", narrow)
    result = segment(opened, inputs, out=tmp_path / "b", batch=7)
    assert sizes[:2] == [7, 3] and max(sizes[3:]) <= fits
    assert result.failed == {} and manifest_of(result)["batch"] == (3 if fits == 3 else 1)
    check_agree(result, reference)


def test_a_slice_that_does_not_fit_ends_the_job(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Run.open(run)

    def never(*_: Any) -> Prediction:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(opened.method()), "predict", never)
    with pytest.raises(torch.OutOfMemoryError):
        segment(opened, pictures(tmp_path, 3), out=tmp_path / "out", batch=2)


@pytest.mark.parametrize("kind", ["volumes", "pictures"])
def test_few_studies_are_in_memory(
    kind: str, run: Path, tmp_path: Path, brightness: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "volumes":
        inputs = [volume(tmp_path / f"v{i}.nii", seed=i, shape=(16, 16, 4)) for i in range(30)]
    else:
        inputs = pictures(tmp_path, 30)
    opened: list[weakref.ref[Any]] = []
    alive: list[int] = []
    begin, read = cases.OpenCase.__post_init__, cases.read_study

    def note(case: Any) -> None:
        opened.append(weakref.ref(case))
        begin(case)

    def count(*args: Any, **options: Any) -> Any:
        alive.append(sum(case() is not None for case in opened))
        return read(*args, **options)

    monkeypatch.setattr(cases.OpenCase, "__post_init__", note)
    monkeypatch.setattr(cases, "read_study", count)
    segment(run, inputs, out=tmp_path / "out", batch=4, tags="none")
    assert len(opened) == len(alive) == 30
    # A volume of 4 slices is done before the next is read; pictures wait until a batch is full.
    assert max(alive) == (0 if kind == "volumes" else 3)


def test_large_cases_go_through_in_smaller_batches(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [*pictures(tmp_path, 9), volume(tmp_path / "v.nii"), picture(tmp_path / "last.png")]
    reference = segment(run, inputs, out=tmp_path / "all", batch=8)
    opened: list[weakref.ref[Any]] = []
    alive, sizes = [], []
    read, predict = cases.OpenCase.read, workbench.Workbench._predict

    def count(*arguments: Any) -> Any:
        alive.append(sum(case() is not None for case in opened))
        case = read(*arguments)
        opened.append(weakref.ref(case))
        return case

    def note(self: Any, members: list[Any]) -> None:
        sizes.append(len(members))
        predict(self, members)

    monkeypatch.setattr(cases.OpenCase, "read", count)
    monkeypatch.setattr(workbench.Workbench, "_predict", note)
    a_picture = 4 * 4 * 16**2  # the study, its slice, map and mask, of float32
    monkeypatch.setattr(workbench, "HELD", 3 * a_picture)
    bounded = segment(run, inputs, out=tmp_path / "bounded", batch=8)
    assert max(alive) == 2 and sizes == [3, 3, 3, 3, 1]  # the volume's slices wait alone, and fill the budget
    assert (bounded.done, bounded.failed) == (reference.done, {})
    check_agree(bounded, reference)


# refusals


def test_results_are_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").touch()
    first = segment(run, [*pictures(tmp_path, 2), tmp_path / "bad.png"], out=tmp_path / "out")
    before = {name: (first.out / name).read_bytes() for name in files(first.out)}
    with pytest.raises(InputError, match="--overwrite"):
        segment(run, [tmp_path / "p0.png"], out=tmp_path / "out")
    assert {name: (first.out / name).read_bytes() for name in files(first.out)} == before

    (first.out / "masks/mine.txt").write_text("keep me")
    second = segment(run, [tmp_path / "p1.png"], out=tmp_path / "out", overwrite=True)
    # The results of another job do not pass for this one's; what no job wrote is left alone.
    assert files(second.out) == {
        "manifest.json",
        "slices.csv",
        "masks/p1.png",
        "scores/p1.tif",
        "masks/mine.txt",
    }


@pytest.mark.parametrize("place", ["data", "run"])
def test_a_folder_of_other_things_is_left_alone(place: str, run: Path, tmp_path: Path) -> None:
    if place == "run":
        shutil.copytree(run, tmp_path / "run")
    data = tmp_path / "data"
    image = picture(data / "p0.png")
    picture(data / "masks" / "p0.png", seed=5)  # of a person, where a result would be written
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for overwrite in (False, True):
        with pytest.raises(
            InputError, match=r"holds other things \(.*\) and no manifest\.json.*an empty folder"
        ):
            segment(run, [image], out=tmp_path / place, overwrite=overwrite)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_hidden_files_are_no_other_things(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".0123.tmp.json").touch()  # of a job that was killed while it wrote
    assert segment(run, pictures(tmp_path, 1), out=tmp_path / "out").done == ("p0",)


def test_two_jobs_do_not_write_into_one_folder(run: Path, tmp_path: Path) -> None:
    with alone_in(tmp_path / "out"), pytest.raises(RunError, match="in use by another process"):
        segment(run, pictures(tmp_path, 1), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert segment(run, pictures(tmp_path, 1), out=tmp_path / "out").done == ("p0",)


def test_the_tag_is_that_of_the_training_data(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "environment.json").read_text())
    (tmp_path / "run" / "environment.json").write_text(json.dumps({**record, "tag": "lesion"}))
    picture(tmp_path / "a.png", 0), picture(tmp_path / "b.png", 1)
    both = table(tmp_path / "t.csv", "id,image,label,lesion", ("a", "a.png", 0, 1), ("b", "b.png", 1, 0))
    assert [row["tag"] for row in slices_of(segment(tmp_path / "run", both, out=tmp_path / "x"))] == [
        "1",
        "0",
    ]
    asked = segment(tmp_path / "run", both, out=tmp_path / "y", tag="label")
    assert [row["tag"] for row in slices_of(asked)] == ["0", "1"]
    assert "No row" not in caplog.text
    other = table(tmp_path / "o.csv", "id,image,label", ("a", "a.png", 0))
    found = segment(tmp_path / "run", [other], out=tmp_path / "z")
    assert [row["tag_source"] for row in slices_of(found)] == ["predicted"], (
        "the tag of another target is none"
    )
    assert "No row of the tables has a tag in the column 'lesion'" in caplog.text
    with pytest.raises(TableError, match="lesion"):
        segment(tmp_path / "run", other, out=tmp_path / "w", tag="lesion")


def test_a_name_that_is_no_text_stops_nothing(run: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"in/b\xff.png")
    try:
        picture(odd)
    except OSError:
        pytest.skip("this disk takes no such name")
    picture(tmp_path / "in" / "a.png", 1)
    found = segment(run, tmp_path / "in", out=tmp_path / "out")
    assert len(found.done) == 2 and not found.failed
    assert (tmp_path / "out" / "masks" / odd.name).is_file()
    assert [row["case"] for row in slices_of(found)] == ["a", "b\\udcff"]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["status"] == "finished"


def test_results_that_are_inputs_are_not_removed(run: Path, tmp_path: Path) -> None:
    first = segment(run, pictures(tmp_path, 1), out=tmp_path / "out")
    before = (first.out / "masks/p0.png").read_bytes()
    result = segment(run, [first.out / "masks/p0.png"], out=tmp_path / "out", overwrite=True)
    assert "overwrite its own input" in result.failed["p0"]
    assert (first.out / "masks/p0.png").read_bytes() == before


def test_nothing_to_segment(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to segment"):
        segment(run, [], out=tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        segment(run, [tmp_path / "empty"], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_inputs_of_one_name(run: Path, tmp_path: Path) -> None:
    inputs = [picture(tmp_path / "a" / "p.png"), picture(tmp_path / "b" / "p.png", seed=1)]
    with pytest.raises(InputError, match=r"both called 'p'.*a/p\.png.*b/p\.png"):
        segment(run, inputs, out=tmp_path / "out")
    # Within one folder or table they get names of their own.
    listed = table(tmp_path / "t.csv", "id,image", ("1", "a/p.png"), ("2", "b/p.png"))
    assert segment(run, [listed], out=tmp_path / "out").done == ("a_p", "b_p")


def test_one_image_with_two_tags_is_refused(run: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "p.png")
    listed = table(tmp_path / "t.csv", "id,image,label", ("p", "p.png", 0))
    with pytest.raises(InputError, match="given twice"):
        segment(run, [image, listed], out=tmp_path / "out")
    result = segment(
        run, [image, image], out=tmp_path / "out"
    )  # but the very same, as two patterns of a shell give
    assert (result.done, result.slices) == (("p",), 1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "cmd"}, ConfigError, r"unknown method 'cmd'.*cdm, cg_cdm"),
        ({"method": "unet"}, RunError, r"segmenter that unet needs"),
        ({"overrides": ["methods.cdm.noise_levl=5"]}, ConfigError, r"Did you mean noise_level"),
        ({"overrides": ["methods.cdm.noise_level=1001"]}, ConfigError, r"1000 steps"),
        ({"overrides": ["mask.rule=quantile"]}, ConfigError, r"mask\.value"),
        ({"batch": 0}, ConfigError, r"batch = 0"),
        ({"batch": -1}, ConfigError, r"batch = -1"),
        ({"tags": "guessed"}, ConfigError, r"'guessed'.*given, predicted, none"),
        ({"device": "gpu"}, ConfigError, r"'gpu' cannot be used"),
        ({"device": "cuda:77"}, ConfigError, r"'cuda:77' cannot be used"),
        ({"snapshot": 3}, RunError, r"no weights after 3 steps"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    options: dict[str, Any], error: type[Exception], message: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        segment(run, [picture(tmp_path / "p.png")], out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"experiment\.toml"):
        segment(tmp_path, [picture(tmp_path / "p.png")], out=tmp_path / "out")


def test_overrides_of_an_open_run_are_refused(run: Path, tmp_path: Path) -> None:
    """They would have no effect."""
    for options in ({"overrides": ["mask.median=3"]}, {"snapshot": 3}):
        with pytest.raises(ConfigError, match="open already"):
            segment(Run.open(run), [picture(tmp_path / "p.png")], out=tmp_path / "out", **options)


def test_a_snapshot_gives_other_masks_and_is_on_record(trained: Path, tmp_path: Path) -> None:
    inputs = pictures(tmp_path, 1)
    last = segment(trained, inputs, out=tmp_path / "last")
    early = segment(trained, inputs, out=tmp_path / "early", snapshot=3)
    assert not np.allclose(maps(last)["p0"][1], maps(early)["p0"][1])
    manifest = manifest_of(early)
    assert manifest["snapshot"] == 3
    assert manifest["weights"] == {
        "denoiser": sha256(trained / "snapshots" / "denoiser-000003.safetensors"),
        "classifier": sha256(trained / "weights" / "classifier.safetensors"),  # it kept none
    }


def test_a_stopped_job_says_that_it_is_not_finished(run: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment(run, pictures(tmp_path, 3), out=tmp_path / "out", batch=1, report=stop)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["status"], set(manifest["inputs"])) == ("running", {"p0", "p1", "p2"})
    assert files(tmp_path / "out") == {"manifest.json", "masks/p0.png", "scores/p0.tif"}


def test_several_channels(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", channels=2, networks=("denoiser", "classifier"))
    for name, seed in (("a1.nii", 0), ("a2.nii", 1), ("b.nii", 2)):
        volume(tmp_path / name, seed=seed)
    listed = table(tmp_path / "t.csv", "id,image", ("a", "a1.nii;a2.nii"), ("b", "b.nii"))
    result = segment(run, [listed], out=tmp_path / "out")
    assert len(result.done) == 1 and "1 channels" in result.failed["b"]


def test_slices_without_a_tag_need_the_classifier_that_the_experiment_names(
    tmp_path: Path, three: Path
) -> None:
    run = write_run(tmp_path / "run", "classifier.size=16", networks=("denoiser",))
    with pytest.raises(
        RunError, match=r"no weights of the classifier that tags slices.*goes on.*--tags none"
    ):
        segment(run, [three], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(segment(run, [three], out=tmp_path / "all", tags="none").done) == 3
    told = table(tmp_path / "told.csv", "id,image,label", ("a", "p0.png", 0), ("b", "p1.png", 1))
    assert tags_of(segment(run, [told], out=tmp_path / "told")) == [("0", "given"), ("1", "given")]


def test_another_schedule_than_the_denoisers_own_is_refused(tmp_path: Path) -> None:
    run, path = write_run(tmp_path / "run"), tmp_path / "run" / "weights" / "denoiser.safetensors"
    record = {"step": 1, "schedule": {"kind": "linear", "steps": 1000}}
    weights.save(path, weights.load(path, "denoiser"), record)
    scan = picture(tmp_path / "a.png")
    for change in ('schedule.kind="cosine"', "schedule.steps=500"):
        with pytest.raises(
            ConfigError, match=r"denoiser\.safetensors: .*linear schedule of 1000 steps.*another one"
        ):
            segment(run, [scan], out=tmp_path / "out", overrides=[change])
    assert not (tmp_path / "out").exists() and segment(run, [scan], out=tmp_path / "out").done == ("a",)


def test_the_run_may_cut_another_plane(tmp_path: Path) -> None:
    settings = SliceSettings(plane="sagittal", size=16, normalise="slice")
    run = write_run(tmp_path / "run", slices=settings)
    source = volume(tmp_path / "v.nii", shape=(3, 16, 16), affine=np.diag([3.0, 1, 1, 1]))
    result = segment(run, [source], out=tmp_path / "out")
    assert len(slices_of(result)) == 3 and manifest_of(result)["plane"] == "sagittal"


def test_a_copied_run_works_where_it_is(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "else where")
    first = maps(segment(run, pictures(tmp_path, 1), out=tmp_path / "a"))
    second = maps(segment(tmp_path / "else where", pictures(tmp_path, 1), out=tmp_path / "b"))
    assert (first["p0"][1] == second["p0"][1]).all()


@pytest.mark.parametrize("masks_read", ["tags", "train masks", None])
def test_a_segmenter_has_read_what_its_masks_were_made_from(tmp_path: Path, masks_read: str | None) -> None:
    run = write_run(tmp_path / "run", networks=("denoiser", "segmenter"))
    environment = json.loads((run / "environment.json").read_text())
    if masks_read:
        (run / "environment.json").write_text(json.dumps({**environment, "masks_read": masks_read}))
    scan = picture(tmp_path / "a.png")
    made = {
        name: segment(run, [scan], out=tmp_path / name, method=name, tags="none") for name in ("unet", "cdm")
    }
    assert manifest_of(made["unet"])["reads"] == (masks_read or "train masks")
    assert manifest_of(made["cdm"])["reads"] == "tags"


def test_what_a_method_is_unsure_of_lies_beside_its_scores_and_old_ones_do_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Doubting:
        unsure = True

        def predict(self, batch: Batch, seed: int = 0) -> Prediction:
            grey = batch.image[:, :1].clone()
            return Prediction(grey, uncertainty=(grey + 1) / 2 if self.unsure else None)

    method = Doubting()
    monkeypatch.setattr(Run, "method", lambda *_, **__: method)
    run = write_run(tmp_path / "run", "mask.rule=fixed", "mask.value=0.25")
    scan, plain = volume(tmp_path / "scan.nii.gz"), picture(tmp_path / "plain.png")
    result = segment(run, [scan, plain], out=tmp_path / "out", tags="none", batch=2)

    expected = nib.load(scan).get_fdata() / 255
    found = nib.load(result.out / "uncertainty/scan.nii.gz")
    assert (found.affine == nib.load(scan).affine).all()
    assert np.abs(found.get_fdata() - expected).max() < 1e-5
    flat = np.asarray(Image.open(result.out / "uncertainty/plain.tif"))
    assert np.abs(flat - np.asarray(Image.open(plain)) / 255).max() < 1e-5
    top = np.sort(expected[..., 1], axis=None)[-25:].mean()  # a tenth of 256 pixels
    assert [float(r["uncertainty"]) for r in slices_of(result)][1] == pytest.approx(top, rel=1e-5)

    real = workbench.write_scores

    def breaks(path: Path, *rest: Any) -> Path:
        if path.parent.name == "uncertainty":
            raise OSError("the disk is gone")
        return real(path, *rest)

    monkeypatch.setattr(workbench, "write_scores", breaks)
    broken = segment(run, [plain], out=tmp_path / "broken", tags="none")
    assert broken.failed == {"plain": "the disk is gone"} and not any("plain" in f for f in files(broken.out))
    monkeypatch.setattr(workbench, "write_scores", real)

    method.unsure = False
    result = segment(run, [scan, plain], out=tmp_path / "out", tags="none", overwrite=True)
    assert not [*(result.out / "uncertainty").iterdir()]
    assert {r["uncertainty"] for r in slices_of(result)} == {""}
