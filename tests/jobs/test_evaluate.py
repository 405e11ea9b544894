"""A cohort whose every number can be counted by hand, through files and back."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tagmask.errors import ConfigError, InputError, TagmaskError
from tagmask.io import sha256
from tagmask.jobs.evaluate import EvaluateSettings, combine, evaluate
from tagmask.jobs.prepare import prepare
from tagmask.scoring.scoreboard import combined_markdown
from tagmask.slices import SliceSettings
from tests.random_run import write_run

KEY = ("method", "positives", "image", "dice")
AFFINE = np.diag([2.0, 3.0, 5.0, 1.0])


def write_volume(path: Path, volume: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume, affine), path)
    return path


def write_picture(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def write_lines(path: Path, lines: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def read_lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class World:
    """Three volumes of 12 x 10 x 8, labels 1 and 2; target in slices 2..5 of a and b, c is empty."""

    def __init__(self, root: Path) -> None:
        self.root, self.results, self.data = root, root / "results", root / "data" / "test"
        rng = np.random.default_rng(0)
        self.truth: dict[str, np.ndarray] = {}
        self.mask: dict[str, np.ndarray] = {}
        rows, lines = [], []
        for name in "abc":
            truth, mask = np.zeros((12, 10, 8), np.uint8), np.zeros((12, 10, 8), np.uint8)
            if name != "c":
                truth[3:7, 2:6, 2:6] = 1
                truth[3:7, 2:6, 3] = 2
                mask[3:7, 4:8, 2:6] = 1  # half of it
            mask[0, 0, 7] = name == "b"
            image = rng.uniform(0, 5, truth.shape).astype(np.float32)
            image[2:10, 1:9] += 40
            image[truth > 0] += 60
            scores = (mask + rng.uniform(0, 0.5, truth.shape)).astype(np.float32)
            self.truth[name], self.mask[name] = truth, mask
            write_volume(self.data / "images" / f"{name}.nii.gz", image)
            write_volume(root / "data" / "masks" / "test" / f"{name}.nii.gz", truth)
            write_volume(self.results / "masks" / f"{name}.nii.gz", mask)
            write_volume(self.results / "scores" / f"{name}.nii.gz", scores)
            for k in range(8):
                tag = int((truth[..., k] > 0).any())
                image_path = f"images/{name}.nii.gz"
                rows.append(
                    {"id": f"{name}{k}", "image": image_path, "label": tag, "slice": k, "patient": f"P{name}"}
                )
                line = {"id": f"{name}/{k}", "case": name, "slice": k, "patient": f"P{name}", "tag": 1}
                line |= {
                    "tag_source": "predicted",
                    "score": tag * 0.5 + k / 100,
                    "threshold": 0.5,
                    "mask_pixels": 0,
                }
                lines.append(line)
        write_lines(self.data / "labels.csv", rows)
        write_lines(self.results / "slices.csv", lines)
        manifest = {"method": "cdm", "reads": "tags", "plane": "axial"}
        (self.results / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_numbers_that_can_be_counted(world: World, tmp_path: Path) -> None:
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=200)
    assert found.summary["slices"] == {"evaluated": 24, "positives": 8, "unlisted": 0, "below_min_area": 0}
    assert found.summary["patients"] == 3 and found.failed == ()
    assert found.value("dice") == pytest.approx(0.5, abs=1e-5)
    assert found.value("iou") == pytest.approx(1 / 3, abs=1e-5)
    assert found.value("precision") == found.value("recall") == 0.5
    # 16 negative slices: 15 empty on empty count 1, the stray pixel about 0
    assert found.value("dice", subset="mixed") == pytest.approx((8 * 0.5 + 15) / 24, abs=1e-4)
    assert found.value("dice", subset="mixed", per="pooled") == pytest.approx(128 / (128 * 2 + 1), abs=1e-4)
    # a: .5; b: with the stray pixel; c: nothing on nothing
    expected = (0.5 + 64 / 129 + 1) / 3
    assert found.value("dice", subset="mixed", per="patient") == pytest.approx(expected, abs=1e-4)
    hd95 = found.summary["rows"][0]["mixed"]["image"]["hd95"]
    assert (hd95["n"], hd95["excluded"], hd95["penalised"]) == (8, 16, 0)
    assert found.summary["hd95"] == {"unit": "mm", "empty": "exclude"}
    assert hd95["value"] == pytest.approx(6.0)  # two columns of 3 mm
    assert found.summary["warnings"]["tag0_with_mask"] == found.summary["warnings"]["tag1_without_mask"] == 0


def test_the_trivial_rows_are_always_there(world: World, tmp_path: Path) -> None:
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=50)
    reads = {r["row"]: r["reads"] for r in found.summary["rows"]}
    assert reads == {
        "method": "tags",
        "all_empty": "nothing",
        "all_foreground": "nothing",
        "intensity_otsu": "nothing",
        "intensity_oracle": "test masks",
    }
    assert found.value("dice", row="all_empty") == pytest.approx(0, abs=1e-5)
    assert found.value("dice", row="all_empty", subset="mixed") == pytest.approx(16 / 24, abs=1e-5)
    assert found.value("dice", row="all_foreground") == pytest.approx(32 / 136, abs=1e-5)
    assert found.value("auprc", row="all_foreground") == pytest.approx(16 / 120)
    pooled = [found.value("auprc", row="all_empty", subset=s, per="pooled") for s in ("positives", "mixed")]
    assert pooled == [pytest.approx(16 / 120), pytest.approx(128 / 2880)]  # the prevalence of each subset
    assert found.value("recall", row="all_foreground") == 1.0
    assert found.value("dice", row="intensity_oracle") == pytest.approx(1.0, abs=0.15)
    oracle = next(r for r in found.summary["rows"] if r["row"] == "intensity_oracle")
    assert oracle["chosen"]["dice_where_chosen"] == pytest.approx(found.value("dice", row="intensity_oracle"))
    assert found.value("hd95", row="all_empty") is None
    assert any("val" in note for note in found.summary["notes"])


def test_what_a_told_method_is_compared_with_is_told_the_tags_too(world: World, tmp_path: Path) -> None:
    lines = read_lines(world.results / "slices.csv")
    truth = {row["id"]: row["label"] for row in read_lines(world.data / "labels.csv")}
    told = [{**x, "tag": truth[x["id"].replace("/", "")], "tag_source": "given"} for x in lines]
    write_lines(world.results / "slices.csv", told)
    shutil.copytree(world.root / "data", tmp_path / "others")
    val = tmp_path / "others" / "test"
    found = evaluate(world.results, world.data, out=tmp_path / "out", val=val, resamples=50)
    reads = {r["row"]: r["reads"] for r in found.summary["rows"]}
    assert reads["method"] == "tags, tags of these slices"
    assert reads["all_foreground_told"] == "tags of these slices"
    assert reads["intensity_val_told"] == "val masks, tags of these slices"
    for row in ("all_foreground", "intensity_val"):
        mark = found.value("dice", row=row)
        assert found.value("dice", row=f"{row}_told") == mark and mark is not None
        # the 16 slices without a target have empty masks, and 1 each
        assert found.value("dice", row=f"{row}_told", subset="mixed") == pytest.approx(
            (8 * mark + 16) / 24, abs=1e-5
        )
        assert found.value("dice", row=row, subset="mixed") == pytest.approx(8 * mark / 24, abs=1e-4)

    # What counts is what the method was handed, not what the truth's table says: three slices of a more are empty.
    handed = [{**x, "tag": 0} if x["case"] == "a" and x["slice"] in ("2", "3", "4") else x for x in told]
    write_lines(world.results / "slices.csv", handed)
    found = evaluate(world.results, world.data, out=tmp_path / "handed", resamples=50)
    mark = found.value("dice", row="all_foreground")
    assert mark is not None
    assert found.value("dice", row="all_foreground_told") == pytest.approx(mark * 5 / 8, abs=1e-4)


def test_image_level(world: World, tmp_path: Path) -> None:
    level = evaluate(world.results, world.data, out=tmp_path / "out", resamples=50).summary["image_level"]
    assert level["against"] == "tags" and (level["n"], level["positives"]) == (24, 8)
    assert level["method"]["auc"] == 1.0 and level["method"]["score"] == "slices.csv"
    assert level["position"]["fit"] == "nothing" and 0.7 < level["position"]["auc"] < 1
    rates = {d["row"]: (d["sensitivity"], d["false_positive_rate"]) for d in level["detection"]}
    assert rates["method"] == (1.0, 1 / 16)
    assert rates["all_foreground"] == (1.0, 1.0) and rates["all_empty"] == (0.0, 0.0)


def test_files_say_what_the_summary_says(world: World, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = evaluate(world.results, world.data, out=out, resamples=50)
    assert json.loads((out / "summary.json").read_text(encoding="utf-8")) == found.summary
    lines = [r for r in read_lines(out / "per_slice.csv") if r["row"] == "method"]
    assert len(lines) == 24
    first = next(r for r in lines if r["case"] == "a" and r["slice"] == "2")
    assert {
        k: first[k] for k in ("tp", "fp", "fn", "tn", "truth_pixels", "mask_pixels", "pixels", "status")
    } == {
        **{"tp": "8", "fp": "8", "fn": "8", "tn": "96", "truth_pixels": "16", "mask_pixels": "16"},
        **{"pixels": "120", "status": "ok"},
    }
    empty = next(r for r in lines if r["case"] == "c")
    assert (empty["status"], empty["dice"], empty["hd95"], empty["ap"]) == ("both_empty", "1", "", "")
    dices = [float(r["dice"]) for r in lines if r["positive"] == "1"]
    assert np.mean(dices) == pytest.approx(found.value("dice"), abs=1e-5)
    flat = read_lines(out / "summary.csv")
    number = next(r for r in flat if tuple(r[k] for k in ("row", "subset", "per", "metric")) == KEY)
    assert float(number["value"]) == pytest.approx(found.value("dice"), abs=1e-5)
    assert any(r["row"] == "position" and r["metric"] == "auc" for r in flat)
    patients = read_lines(out / "per_patient.csv")
    assert {(r["subset"], r["patient"]) for r in patients if r["row"] == "method"} == {
        *(("positives", p) for p in ("Pa", "Pb")),
        *(("mixed", p) for p in ("Pa", "Pb", "Pc")),
    }
    curve = [r for r in read_lines(out / "pr_curve.csv") if (r["row"], r["subset"]) == ("method", "mixed")]
    assert 10 < len(curve) <= 400 and float(curve[-1]["recall"]) == 1.0
    text = (out / "summary.md").read_text(encoding="utf-8")
    for expected in (
        "all-empty",
        "HD95 [mm]",
        "test masks",
        "16 excluded, 0 penalised",
        "slice position alone",
    ):
        assert expected in text


def test_labels_tags_and_planes(world: World, tmp_path: Path) -> None:
    found = evaluate(
        world.results, world.data, out=tmp_path / "one", mask_labels=(2,), positives="tag", resamples=20
    )
    assert found.summary["slices"]["positives"] == 8  # by tag; but label 2 is in one slice of a and b only
    assert found.summary["warnings"]["tag1_without_mask"] == 6
    assert found.value("recall") == 0.5
    coronal = evaluate(
        world.results,
        world.root / "data" / "masks" / "test",
        out=tmp_path / "two",
        plane="coronal",
        resamples=20,
    )
    assert coronal.summary["slices"]["evaluated"] == 30
    assert coronal.summary["rows"][0]["positives"]["image"]["dice"]["n"] == 8
    with pytest.raises(InputError, match=r"slice 6|plane"):
        evaluate(
            world.results, world.data, out=tmp_path / "three", plane="j", mask_labels=(9,), min_area_frac=0.5
        )


def test_slices_that_the_table_does_not_list_do_not_count(world: World, tmp_path: Path) -> None:
    rows = [r for r in read_lines(world.data / "labels.csv") if r["slice"] in ("2", "7")]
    write_lines(world.data / "labels.csv", rows)  # type: ignore[arg-type]
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert found.summary["slices"] == {"evaluated": 6, "positives": 2, "unlisted": 18, "below_min_area": 0}


def test_a_slice_beyond_the_volume_names_the_plane(world: World, tmp_path: Path) -> None:
    rows = read_lines(world.data / "labels.csv")
    rows[0]["slice"] = "8"
    write_lines(world.data / "labels.csv", rows)  # type: ignore[arg-type]
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert [c for c, _ in found.failed] == ["a"]
    assert "slice 8" in found.failed[0][1] and "plane" in found.failed[0][1]


def test_small_targets_can_be_dropped(world: World, tmp_path: Path) -> None:
    found = evaluate(world.results, world.data, out=tmp_path / "one", min_area_frac=0.10, resamples=20)
    assert found.summary["slices"] == {"evaluated": 8, "positives": 8, "unlisted": 0, "below_min_area": 16}
    with pytest.raises(InputError, match=r"16 slices|24 slices"):
        evaluate(world.results, world.data, out=tmp_path / "two", min_area_frac=0.15, resamples=20)
    body = evaluate(
        world.results,
        world.data,
        out=tmp_path / "three",
        min_area_frac=0.15,
        area_of="body",
        ap_over="body",
        resamples=20,
    )  # the body is 64 of 120 pixels and some noise
    assert body.summary["slices"]["evaluated"] == 8
    assert body.value("auprc", row="all_foreground") > 16 / 120  # type: ignore[operator]
    whole = evaluate(world.results, world.data, out=tmp_path / "four", resamples=20)
    by_slice = evaluate(world.results, world.data, out=tmp_path / "five", ap_over="slice_body", resamples=20)
    shares = [one.value("auprc", row="all_foreground") for one in (whole, body, by_slice)]
    assert shares[0] < shares[2] and shares[1] != shares[2]  # type: ignore[operator]


def test_hd95_rules(world: World, tmp_path: Path) -> None:
    cells = {}
    for rule in ("exclude", "diagonal", "zero"):
        found = evaluate(world.results, world.data, out=tmp_path / rule, empty_hd=rule, resamples=20)
        cells[rule] = found.summary["rows"][1]["positives"]["image"]["hd95"]
        if rule != "exclude":
            assert "8 penalised" in (tmp_path / rule / "summary.md").read_text(encoding="utf-8")
    assert cells["exclude"]["value"] is None and cells["exclude"]["excluded"] == 8
    assert (
        cells["diagonal"]["value"] == pytest.approx(math.hypot(24, 30))
        and cells["diagonal"]["penalised"] == 8
    )
    assert cells["zero"]["value"] == 0 and cells["zero"]["penalised"] == 8


def test_one_bad_case_does_not_stop_the_others(world: World, tmp_path: Path) -> None:
    masks = world.results / "masks"
    write_volume(masks / "a.nii.gz", np.zeros((12, 10, 7), np.uint8))
    (masks / "c.nii.gz").write_bytes(b"")
    write_volume(masks / "x.nii.gz", np.zeros((2, 2, 2), np.uint8))
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert dict(found.failed).keys() == {"a", "c"}
    assert "The mask is 12 x 10 x 7, the truth is 12 x 10 x 8" in dict(found.failed)["a"]
    assert found.summary["cases"]["extra"] == ["x"] and found.summary["slices"]["evaluated"] == 8
    assert "**2 of 3 cases are not in" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "a was left out" in (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert found.value("dice") == pytest.approx(0.5, abs=1e-5)


def test_missing_results_are_listed(world: World, tmp_path: Path) -> None:
    (world.results / "masks" / "b.nii.gz").unlink()
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert found.summary["cases"]["missing"] == ["b"] and found.summary["cases"]["matched"] == 2
    head = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8").partition("## ")[0]
    assert "**1 of 3 cases are not in these numbers**" in head


def test_a_segmentation_that_is_not_finished_is_refused(world: World, tmp_path: Path) -> None:
    manifest = world.results / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "status": "running"}))
    with pytest.raises(InputError, match=r"manifest\.json: the segmentation is not finished.*--overwrite"):
        evaluate(world.results, world.data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_would_be_a_lie_or_a_loss_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"3 of its 3 masks are of the truth itself, a\.nii\.gz for instance"
    ):
        evaluate(world.results, world.data, out=tmp_path / "out", val=world.data)
    with pytest.raises(InputError, match=r"none of 24 slices of the truth holds a label of 7\."):
        evaluate(world.results, world.data, out=tmp_path / "out", mask_labels=(7,))
    for place in (world.results, world.data):
        before = sorted(world.root.rglob("*"))
        with pytest.raises(InputError, match=r"holds other things \(.*\) and no summary\.json"):
            evaluate(world.results, world.data, out=place)
        assert sorted(world.root.rglob("*")) == before
    manifest = json.loads((world.results / "manifest.json").read_text())
    images = {name: [str(world.data / "images" / f"{name}.nii.gz")] for name in "abc"}
    (world.results / "manifest.json").write_text(json.dumps({**manifest, "inputs": images}))
    with pytest.raises(InputError, match=r"a\.nii\.gz: The mask is the image itself"):
        evaluate(world.results, world.data / "images", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_cases_that_the_run_learnt_from_are_named(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run")
    lines = (world.data / "labels.csv").read_text().splitlines()
    split = {"a": "train", "b": "val", "c": "test"}
    rows = [f"{line},{split[line[0]]}" for line in lines[1:]]
    (world.data / "all.csv").write_text("\n".join([f"{lines[0]},split", *rows]) + "\n")
    prepare(world.data / "all.csv", tmp_path / "prepared", settings=SliceSettings(size=16))
    experiment = (run / "experiment.toml").read_text()
    (run / "experiment.toml").write_text(
        re.sub(r'prepared = ".*"', f'prepared = "{tmp_path}/prepared"', experiment)
    )
    manifest = world.results / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "run": str(run)}))
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert "2 of 3 cases, a for instance, are of the train or val split" in found.summary["notes"][-1]
    assert "say little of other patients" in caplog.text
    assert "a for instance" in (tmp_path / "out" / "summary.md").read_text()
    for name in "ab":
        (world.results / "masks" / f"{name}.nii.gz").unlink()
    assert "train or val" not in str(evaluate(world.results, world.data, out=tmp_path / "c").summary["notes"])


def test_masks_that_were_changed_after_segment_are_nobodys(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, masks = world.results / "manifest.json", world.results / "masks"
    cases = [{"case": i, "status": "done", "mask_sha256": sha256(masks / f"{i}.nii.gz")} for i in "abc"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "cases": cases}))
    write_volume(masks / "x.nii.gz", world.mask["a"])  # has no truth
    found = evaluate(world.results, world.data, out=tmp_path / "one", resamples=20)
    assert found.summary["rows"][0]["reads"] == "tags" and "did not write" not in str(found.summary["notes"])
    write_volume(masks / "b.nii.gz", world.truth["b"])
    found = evaluate(world.results, world.data, out=tmp_path / "two", resamples=20)
    assert found.summary["rows"][0]["reads"] == "unknown"
    assert "1 of 3 cases, b for instance, have a mask that tagmask segment did not write" in caplog.text
    assert "b for instance, have a mask" in (tmp_path / "two" / "summary.md").read_text(encoding="utf-8")
    # of a job whose cases all failed no mask is there, so these are somebody's
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "cases": [{"case": "a", "status": "failed"}]})
    )
    found = evaluate(world.results, world.data, out=tmp_path / "three", resamples=20)
    assert found.summary["rows"][0]["reads"] == "unknown"


def test_cases_whose_truth_the_mean_mask_has_read_are_named(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (world.data / "labels.csv").read_text().splitlines()
    split = {"a": "train", "b": "val", "c": "test"}
    rows = [f"{line},{split[line[0]]}" for line in lines[1:]]
    (world.data / "all.csv").write_text("\n".join([f"{lines[0]},split", *rows]) + "\n")
    settings, masks = SliceSettings(size=16), world.root / "data" / "masks" / "test"
    prepare(world.data / "all.csv", tmp_path / "prepared", settings=settings, supervised=True, masks=masks)
    found = evaluate(
        world.results, world.data, out=tmp_path / "out", resamples=20, train=tmp_path / "prepared"
    )
    assert "1 of 3 cases, a for instance, are of the train split of" in found.summary["notes"][-1]
    assert "have read their truth" in caplog.text
    (world.results / "masks" / "a.nii.gz").unlink()
    found = evaluate(world.results, world.data, out=tmp_path / "c", resamples=20, train=tmp_path / "prepared")
    assert "mean_train_mask" in {row["row"] for row in found.summary["rows"]}
    assert "train split" not in str(found.summary["notes"])


def test_no_histogram_of_another_evaluation_stays(world: World, tmp_path: Path) -> None:
    evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert (tmp_path / "out" / "histogram.csv").is_file()
    shutil.rmtree(world.results / "scores")
    evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert not (tmp_path / "out" / "histogram.csv").exists()


def test_a_lesion_that_shows_in_one_modality_alone_is_found_by_its_intensity(
    world: World, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    for name, truth in world.truth.items():
        flair, t1 = rng.uniform(0, 3, (2, *truth.shape)).astype(np.float32)
        flair[2:10, 1:9] += 40
        flair[truth > 0] += 60
        t1[2:10, 1:9] += rng.uniform(
            1000, 5000, (8, 8, 8)
        )  # a unit of its own, and it does not show the lesion
        write_volume(world.data / "images" / f"{name}.nii.gz", flair)
        write_volume(world.data / "t1" / f"{name}.nii.gz", t1)
    table = (world.data / "labels.csv").read_text()
    (world.data / "labels.csv").write_text(
        re.sub(r"images/(.)\.nii\.gz", r"images/\1.nii.gz;t1/\1.nii.gz", table)
    )
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    oracle = next(r for r in found.summary["rows"] if r["row"] == "intensity_oracle")
    assert oracle["chosen"]["channel"] == 0 and found.value("dice", row="intensity_oracle") > 0.9  # type: ignore[operator]


@pytest.mark.parametrize(("shift", "accepted"), [(5e-4, True), (5e-3, False)])
def test_affine_noise_passes_and_a_shift_does_not(
    world: World, tmp_path: Path, shift: float, accepted: bool
) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += shift
    write_volume(world.results / "masks" / "a.nii.gz", world.mask["a"], moved)
    found = evaluate(world.results, world.data, out=tmp_path / "out", resamples=20)
    assert [c for c, _ in found.failed] == ([] if accepted else ["a"])


def test_nothing_matched_and_nothing_there(world: World, tmp_path: Path) -> None:
    other = write_volume(tmp_path / "other" / "z.nii.gz", np.zeros((2, 2, 2), np.uint8)).parent
    with pytest.raises(InputError, match="none of its 1 masks has a truth"):
        evaluate(other, world.data, out=tmp_path / "out")
    for results, truth in ((tmp_path / "no", world.data), (world.results, tmp_path / "no")):
        with pytest.raises(InputError, match="no such"):
            evaluate(results, truth, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_case_unreadable_is_an_error(world: World, tmp_path: Path) -> None:
    for name in "abc":
        (world.results / "masks" / f"{name}.nii.gz").write_bytes(b"broken")
    with pytest.raises(InputError, match="3 cases failed"):
        evaluate(world.results, world.data, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_masks_alone(world: World, tmp_path: Path) -> None:
    found = evaluate(
        world.results / "masks", world.root / "data" / "masks" / "test", out=tmp_path / "out", resamples=20
    )
    rows = [r["row"] for r in found.summary["rows"]]
    assert rows == ["method", "all_empty", "all_foreground"]
    assert found.value("dice") == pytest.approx(0.5, abs=1e-5) and found.value("auprc") is None
    assert found.summary["image_level"]["against"] == "truth"
    assert found.summary["image_level"]["method"]["score"] == "area of the mask"
    assert any("intensity" in note for note in found.summary["notes"])
    with pytest.raises(ConfigError, match="no slice has a tag"):
        evaluate(
            world.results / "masks",
            world.root / "data" / "masks" / "test",
            out=tmp_path / "o",
            positives="tag",
            resamples=20,
        )
    tagged = evaluate(
        world.results / "masks",
        world.root / "data" / "masks" / "test",
        out=tmp_path / "tagged",
        table=world.data / "labels.csv",
        positives="tag",
        resamples=20,
    )
    assert tagged.summary["image_level"]["against"] == "tags" and tagged.summary["slices"]["positives"] == 8


def test_predicted_tags_are_never_taken_for_tags(world: World, tmp_path: Path) -> None:
    truth = world.root / "data" / "masks" / "test"
    found = evaluate(
        world.results, truth, out=tmp_path / "one", resamples=20
    )  # slices.csv says tag 1, predicted
    assert found.summary["warnings"]["untagged"] == 24
    lines = read_lines(world.results / "slices.csv")
    write_lines(world.results / "slices.csv", [{**r, "tag_source": "given"} for r in lines])
    given = evaluate(world.results, truth, out=tmp_path / "two", resamples=20)
    assert given.summary["warnings"]["untagged"] == 0 and given.summary["warnings"]["tag1_without_mask"] == 16
    assert given.summary["rows"][0]["reads"] == "tags, tags of these slices"


def test_order_of_cases_and_company_change_nothing(world: World, tmp_path: Path) -> None:
    everything = evaluate(world.results, world.data, out=tmp_path / "all", resamples=20)
    for name in "ac":
        (world.results / "masks" / f"{name}.nii.gz").unlink()
    alone = evaluate(world.results, world.data, out=tmp_path / "alone", resamples=20)

    def of_b(folder: str) -> list[dict[str, str]]:
        lines = read_lines(tmp_path / folder / "per_slice.csv")
        return [
            r for r in lines if r["case"] == "b" and r["row"] in ("method", "all_empty", "intensity_otsu")
        ]

    assert of_b("all") == of_b("alone") and everything.summary["slices"]["evaluated"] == 24
    assert alone.summary["rows"][0]["positives"]["image"]["dice"]["low"] is None  # one patient: no interval


def picture_world(root: Path) -> None:
    """Two patients of five pictures each; the target is a bright square in the middle ones."""
    rng = np.random.default_rng(0)
    for split in ("val", "test"):
        rows = []
        for patient in ("p", "q"):
            for k in range(5):
                name = f"{split}_{patient}{k}"
                y, x = np.mgrid[:40, :40]
                head = np.hypot(y - 20, x - 20) < 16
                picture = np.where(head, 90, 3) + rng.integers(0, 6, (40, 40))
                picture[head & (np.hypot(y - 20, x - 20) > 14)] = 200
                truth = np.zeros((40, 40), bool)
                if 0 < k < 4:
                    truth[16:22, 14:22] = True
                    picture[truth] = 160
                write_picture(root / split / "images" / f"{name}.png", picture.astype(np.uint8))
                write_picture(root / "masks" / split / f"{name}.png", truth.astype(np.uint8) * 255)
                write_picture(root / "results" / "masks" / f"{name}.png", truth.astype(np.uint8) * 255)
                rows.append(
                    {
                        "id": name,
                        "image": f"images/{name}.png",
                        "label": int(truth.any()),
                        "patient": patient,
                        "slice": k,
                    }
                )
        write_lines(root / split / "labels.csv", rows)


def test_pictures_val_masks_and_positions(tmp_path: Path) -> None:
    picture_world(tmp_path)
    found = evaluate(
        tmp_path / "results", tmp_path / "test", out=tmp_path / "out", val=tmp_path / "val", resamples=20
    )
    assert found.summary["hd95"]["unit"] == "px"
    assert found.value("dice") == 1.0 and len(found.summary["cases"]["extra"]) == 10
    rows = {r["row"]: r for r in found.summary["rows"]}
    assert rows["intensity_val"]["reads"] == "val masks" and rows["intensity_val"]["chosen"]["slices"] == 6
    assert rows["intensity_val"]["chosen"]["shave_px"] >= 2  # the scalp is brighter than the target
    assert found.value("dice", row="intensity_val") > 0.9  # type: ignore[operator]
    assert found.value("dice", row="intensity_otsu") < 0.5  # type: ignore[operator]
    assert found.summary["image_level"]["position"]["auc"] == 1.0  # the middle three of five
    first = read_lines(tmp_path / "out" / "per_slice.csv")[0]
    assert (first["case"], first["slice"], first["position"], first["patient"]) == ("test_p0", "0", "0", "p")


def prepared(root: Path, truth: np.ndarray, *, supervised: bool) -> Path:
    """A prepared folder of one training volume on an RAS grid, at twice its size."""
    write_volume(root / "images" / "t.nii.gz", truth.astype(np.float32) + 1, np.eye(4))
    write_volume(root / "masks" / "t.nii.gz", truth, np.eye(4))
    rows = []
    for k in range(truth.shape[2]):
        row = {"id": f"t{k}", "image": "images/t.nii.gz", "label": int(truth[..., k].any()), "slice": k}
        rows.append({**row, "split": "train", "mask": "masks/t.nii.gz"})
    table = write_lines(root / "table.csv", rows)
    settings = SliceSettings(size=2 * truth.shape[0])
    prepare(table, root / "prepared", settings=settings, supervised=supervised)
    return root / "prepared"


def test_mean_of_the_train_masks_lands_on_the_grid_of_the_case(tmp_path: Path) -> None:
    """What the training saw, turned for display and at twice the size, comes back in place."""
    truth = np.zeros((10, 10, 5), np.uint8)
    truth[1:4, 6:9, 1:4] = 1
    write_volume(tmp_path / "truth" / "a.nii.gz", truth, np.eye(4))
    write_volume(tmp_path / "results" / "a.nii.gz", truth * 0, np.eye(4))
    train = prepared(tmp_path / "train", truth, supervised=True)
    found = evaluate(
        tmp_path / "results", tmp_path / "truth", out=tmp_path / "out", train=train, resamples=20
    )
    reads = {r["row"]: r["reads"] for r in found.summary["rows"]}
    assert reads["mean_train_mask"] == reads["mean_train_mask_by_position"] == "train masks"
    assert found.value("dice", row="mean_train_mask") > 0.9  # type: ignore[operator]
    assert found.value("auprc", row="mean_train_mask") == 1.0
    assert found.value("dice", row="mean_train_mask", subset="mixed") < 0.7  # type: ignore[operator]
    assert found.value("dice", row="mean_train_mask_by_position", subset="mixed") > 0.9  # type: ignore[operator]
    place = found.summary["image_level"]["position"]
    assert place["fit"] == "train tags" and place["auc"] == 1.0


def test_a_train_folder_without_masks_gives_the_position_row_only(world: World, tmp_path: Path) -> None:
    train = prepared(tmp_path / "train", world.truth["a"], supervised=False)
    found = evaluate(world.results, world.data, out=tmp_path / "out", train=train, resamples=20)
    assert not any(r["row"].startswith("mean") for r in found.summary["rows"])
    assert any("train masks is absent" in note for note in found.summary["notes"])
    # the 8 positives stand above 12 of the 16 negatives; the 4 middle ones of c tie
    place = found.summary["image_level"]["position"]
    assert place["fit"] == "train tags" and place["auc"] == pytest.approx(0.875, abs=0.03)


def test_seeds_side_by_side(world: World, tmp_path: Path) -> None:
    first = evaluate(world.results, world.data, out=tmp_path / "one", resamples=20)
    for name in "ab":
        write_volume(world.results / "masks" / f"{name}.nii.gz", world.truth[name])
    second = evaluate(world.results, world.data, out=tmp_path / "two", resamples=20)
    lines = combine([first.summary, tmp_path / "two" / "summary.json"])
    dice = next(c for c in lines if tuple(c[k] for k in ("row", "subset", "per", "metric")) == KEY)
    assert dice["mean"] == pytest.approx(0.75, abs=1e-4) and dice["runs"] == 2
    assert dice["sd"] == pytest.approx(np.std([0.5, 1.0], ddof=1), abs=1e-4)
    empty = next(c for c in lines if (c["row"], c["subset"], c["metric"]) == ("all_empty", "mixed", "dice"))
    assert empty["sd"] == 0
    assert "0.750 ± 0.354" in combined_markdown(lines)
    assert second.value("dice") == 1.0
    other = {**second.summary, "slices": {**second.summary["slices"], "evaluated": 7}}
    with pytest.raises(InputError, match="same slices"):
        combine([first.summary, other])
    with pytest.raises(InputError):
        combine([])


@pytest.mark.parametrize(
    "bad",
    [
        {"positives": "mask"},
        {"empty_hd": "worst"},
        {"min_area_frac": 1.0},
        {"area_of": "head"},
        {"ap_over": "x"},
        {"resamples": -1},
    ],
)
def test_conventions_out_of_range(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EvaluateSettings(**bad)  # type: ignore[arg-type]


def test_errors_are_ours(world: World, tmp_path: Path) -> None:
    (world.results / "manifest.json").write_text("{")
    with pytest.raises(TagmaskError, match=r"manifest\.json"):
        evaluate(world.results, world.data, out=tmp_path / "out")
