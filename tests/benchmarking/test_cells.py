"""What a cell depends on, and what is refused before anything is computed."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tagmask.benchmarking.bench import load_bench
from tagmask.benchmarking.cells import Cell, plan_cell
from tagmask.benchmarking.folds import Hashes, open_fold
from tagmask.benchmarking.names import Place
from tagmask.errors import InputError, TagmaskError
from tagmask.runs import Run
from tests.benchmarking import toybench
from tests.random_run import write_run

Plan = Callable[..., Cell]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cohort and run, made once. Read only."""
    folder = tmp_path_factory.mktemp("made")
    toybench.cohort(folder / "cohort")
    write_run(folder / "run")
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "world")
    return tmp_path / "world"


def plan(
    world: Path,
    *,
    protocol: str = "",
    data: str = "",
    truth: str = "test",
    row: str = "",
    method: str = "cdm",
    seed: int = 0,
) -> Cell:
    """Plan the one cell of a file with these parts."""
    parts = (
        protocol,
        toybench.data(world / "cohort", data, truth=truth),
        toybench.row("CDM", world / "run", row, method=method),
    )
    bench = load_bench(toybench.write(world / "bench.toml", *parts))
    fold = open_fold(bench, Place("toy"), Hashes())
    cell = plan_cell(bench, bench.rows[0], fold, Place("toy"), seed, world / "out" / "cells")
    assert cell.evaluation_key  # every file is read for it
    return cell


def repaint(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # past the end of the picture: still a PNG, but another file
    path.write_bytes(bytes(content))


def retag(world: Path) -> None:
    path = world / "cohort/test/labels.csv"
    path.write_text(path.read_text().replace("_0.png,0,", "_0.png,,", 1))


def test_a_cell_is_named_after_what_it_is_and_the_same_again(world: Path) -> None:
    cell = plan(world)
    assert cell.title == "CDM on toy, seed 0" and cell.folder.name == f"CDM-toy-seed0-{cell.key[:12]}"
    assert plan(world).folder == cell.folder and plan(world).evaluations == cell.evaluations
    assert cell.segmented is None and not cell.evaluated


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("seed", lambda w: {"seed": 1}),
        ("setting", lambda w: {"row": 'set = ["methods.cdm.stages=1"]'}),
        ("mask rule", lambda w: {"row": 'set = ["mask.median=3"]'}),
        ("method", lambda w: {"method": "cg_cdm"}),
        ("source of tags", lambda w: {"row": 'tags = "none"'}),
        ("weights", lambda w: repaint(w / "run/weights/denoiser.safetensors") or {}),
        ("classifier", lambda w: repaint(w / "run/weights/classifier.safetensors") or {}),
        ("image", lambda w: repaint(w / "cohort/test/images/test0_1.png") or {}),
        ("tag", lambda w: retag(w) or {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_masks_depend_on_makes_another_cell(
    what: str, change: Callable[[Path], dict], world: Path
) -> None:
    before = plan(world)
    assert plan(world, **change(world)).key != before.key


@pytest.mark.parametrize("read", [False, True])
def test_masks_depend_on_sentences_where_they_are_read(
    read: bool, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(words: str) -> None:
        head, *lines = table.read_text().splitlines()
        table.write_text("\n".join([f"{head},text", *(f"{line},{words}" for line in lines)]))
        told.append(plan(world).key)
        told.append(plan(world, row='set = ["text.tokens=3"]').key)
        table.write_text("\n".join([head, *lines]))

    monkeypatch.setattr("tagmask.benchmarking.cells.reads_text", lambda settings: read)
    table, told = world / "cohort/test/labels.csv", list[str]()
    tell("in the left")
    tell("in the right")
    assert len(set(told)) == (4 if read else 1)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("protocol", lambda w: {"protocol": '[protocol]\nempty_hd = "zero"'}),
        ("own convention", lambda w: {"data": "min_area_frac = 0.01"}),
        ("val set", lambda w: {"data": f'val = "{w}/cohort/val"'}),
        ("truth", lambda w: repaint(w / "cohort/masks/test/test0_1.png") or {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_numbers_depend_on_leaves_the_masks(
    what: str, change: Callable[[Path], dict], world: Path
) -> None:
    before = plan(world)
    after = plan(world, **change(world))
    assert after.key == before.key and after.evaluation_key != before.evaluation_key


def test_another_way_of_counting_makes_other_numbers(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan(world)
    first = before.evaluation_key
    monkeypatch.setattr("tagmask.benchmarking.cells.VERSION", 10**6)
    after = plan(world)
    assert after.key == before.key and after.evaluation_key != first


def test_patients_of_a_plain_folder_of_masks_count_too(world: Path) -> None:
    table = world / "table.csv"
    lines = (world / "cohort/test/labels.csv").read_text().replace("images/", f"{world}/cohort/test/images/")
    table.write_text(lines)
    before = plan(world, truth="masks/test", data=f'table = "{table}"')
    table.write_text(lines.replace(",test1,", ",test0,"))
    after = plan(world, truth="masks/test", data=f'table = "{table}"')
    assert after.key == before.key and after.evaluation_key != before.evaluation_key


def test_the_place_of_the_weights_does_not_matter(world: Path) -> None:
    before = plan(world)
    shutil.move(world / "run", world / "moved")
    (world / "run").symlink_to(world / "moved")
    assert plan(world).key == before.key


def test_a_record_of_something_else_is_no_record(world: Path) -> None:
    cell = plan(world)
    cell.close_segmentation({"seconds": 1.0})
    cell.close_evaluation()
    assert cell.evaluated and cell.segmented is not None and cell.segmented["seconds"] == 1.0
    path = cell.folder / "segmented.json"
    path.write_text(path.read_text().replace(cell.key, "0" * 64))
    assert cell.segmented is None
    path.write_text("{")
    assert cell.segmented is None


def tuned(world: Path, text: str) -> None:
    (world / "run" / "tuned.toml").write_text(text)


TUNED = "[methods.cdm]\nnoise_level = 77\nstages = 2\n\n[mask]\nmedian = 3\n"


def test_tuned_by_tags_none_and_by_a_file(world: Path) -> None:
    tuned(world, TUNED)
    by_tags, plain = plan(world, row='tuned = "tags"'), plan(world)
    assert by_tags.run.experiment.methods["cdm"]["noise_level"] == 77
    assert by_tags.run.experiment.mask.median == 3
    assert plain.run.experiment.methods["cdm"]["noise_level"] == 300
    (world / "val-masks.toml").write_text(TUNED.replace("77", "88") + MEMBERS)
    text = (world / "run/experiment.toml").read_text()
    (world / "run/experiment.toml").write_text(text + "\n[methods.combined.members.cg_cdm]\n")
    by_file = plan(world, row=f'tuned = "{world}/val-masks.toml"\nset = ["mask.median=5"]')
    assert by_file.run.experiment.methods["combined"]["members"] == {"cdm": {"tau": 0.0, "sign": "negative"}}
    assert by_file.run.experiment.methods["cdm"]["noise_level"] == 88
    assert by_file.run.experiment.mask.median == 5, "the row's own overrides come last"


MEMBERS = """
[methods.combined.members.cdm]
tau = 0.0
sign = "negative"
"""


def leaked(world: Path, folder: str = "images", name: str = "swap") -> str:
    """Make the run one that was trained on the test pictures, which lie in a folder under another name."""
    from tagmask.jobs.prepare import prepare
    from tests.random_run import SLICES

    text = (world / "cohort/test/labels.csv").read_text().replace("images/test", f"{folder}/{name}")
    text = text.replace("test", "swap")
    (world / "cohort/train" / folder).mkdir(exist_ok=True)
    for picture in (world / "cohort/test/images").iterdir():
        shutil.copy(picture, world / "cohort/train" / folder / picture.name.replace("test", name))
    table = world / "cohort/train/labels.csv"
    table.write_text(table.read_text() + text.partition("\n")[2])
    shutil.rmtree(world / "cohort/val")
    copy = world / "elsewhere"
    shutil.copytree(world / "cohort", copy)
    shutil.rmtree(copy / "test")
    prepare(copy, world / "prepared", settings=SLICES)
    text = (world / "run/experiment.toml").read_text()
    (world / "run/experiment.toml").write_text(text.replace('"nowhere"', f'"{world}/prepared"'))
    return "was trained with"


def forgotten(world: Path) -> None:
    """Prepare the run's data as Tagmask once did, without the split of each file."""
    leaked(world)
    path = world / "prepared/fingerprint.json"
    record = json.loads(path.read_text())
    del record["splits"]
    path.write_text(json.dumps(record))


def one_tag(world: Path, tag: int) -> None:
    path = world / "cohort/test/labels.csv"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows({**line, "label": tag} for line in lines)


@pytest.mark.parametrize(
    ("what", "change", "says"),
    [
        ("no run", lambda w: shutil.rmtree(w / "run"), "is not a run"),
        (
            "no network",
            lambda w: (w / "run/weights/denoiser.safetensors").unlink(),
            "no weights of the denoiser",
        ),
        ("no snapshot", lambda w: {"row": "snapshot = 7"}, "no weights after 7 steps"),
        ("method without its network", lambda w: {"method": "unet"}, "no weights of the segmenter"),
        ("bad override", lambda w: {"row": 'set = ["methods.cdm.tua=1"]'}, "Did you mean tau?"),
        ("not tuned", lambda w: {"row": 'tuned = "tags"'}, "no settings of cdm that were chosen by tags"),
        ("no file", lambda w: {"row": 'tuned = "v.toml"'}, "no such settings file"),
        ("no truth", lambda w: shutil.rmtree(w / "cohort/masks/test"), "no masks were found"),
        ("no table", lambda w: (w / "cohort/test/labels.csv").unlink(), "labels.csv"),
        ("no image", lambda w: (w / "cohort/test/images/test0_0.png").unlink(), "test0_0.png"),
        ("no positive", lambda w: one_tag(w, 0), "has tag 0, none has tag 1"),
        ("no negative", lambda w: one_tag(w, 1), 'count positive slices alone: setups = ["positives"]'),
        ("val is missing", lambda w: {"data": 'val = "nowhere"'}, "nowhere"),
        ("train is missing", lambda w: {"data": 'train = "nowhere"'}, "nowhere"),
        ("leak", leaked, "was trained with"),
        ("leak under a name twice given", lambda w: leaked(w, "more", "train"), "was trained with"),
        ("splits not written down", forgotten, "Prepare it again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_made_is_refused(
    what: str, change: Callable[[Path], object], says: str, world: Path
) -> None:
    parts = change(world)
    with pytest.raises(TagmaskError) as raised:
        plan(world, **(parts if isinstance(parts, dict) else {}))
    assert says in str(raised.value)


def test_a_fold_without_negatives_will_do_for_positives_alone(world: Path) -> None:
    one_tag(world, 1)
    assert plan(world, protocol='[protocol]\nsetups = ["positives"]').key


def test_tags_that_nobody_could_choose_by_are_named(world: Path, tmp_path: Path) -> None:
    """Without val slices of both tags `tagmask tune` has nothing to go by: the message says so."""
    from tagmask.jobs.prepare import prepare
    from tests.random_run import SLICES

    shutil.rmtree(world / "cohort/val")
    prepare(world / "cohort", tmp_path / "prepared", settings=SLICES)
    text = (world / "run/experiment.toml").read_text()
    (world / "run/experiment.toml").write_text(text.replace('"nowhere"', f'"{tmp_path}/prepared"'))
    with pytest.raises(InputError, match="has no val slices of both tags to choose by"):
        plan(world, row='tuned = "tags"')


def test_tags_are_needed_where_they_count(world: Path) -> None:
    path = world / "cohort/test/labels.csv"
    path.write_text(
        "\n".join(line.replace(",0,", ",,").replace(",1,", ",,") for line in path.read_text().splitlines())
    )
    assert plan(world).key, "without any tag nothing is known of the classes"
    with pytest.raises(InputError, match='no slice has a tag, but positives = "tag"'):
        plan(world, protocol='[protocol]\npositives = "tag"')


def test_weights_of_a_snapshot_are_told_apart(world: Path) -> None:
    before = plan(world)
    kept = world / "run/snapshots/denoiser-000003.safetensors"
    kept.parent.mkdir()
    shutil.copy(world / "run/weights/denoiser.safetensors", kept)
    assert plan(world, row="snapshot = 3").key == before.key, "the same weights give the same masks"
    repaint(kept)
    assert plan(world, row="snapshot = 3").key != before.key
    assert Run.open(world / "run", snapshot=3).weights_path("denoiser") == kept


def test_a_setting_that_came_later_leaves_finished_cells_at_its_default(world: Path) -> None:
    assert "min_max" not in plan(world).identity["settings"]
    on = plan(world, row='set = ["methods.cdm.min_max=true"]')
    assert on.identity["settings"] == {**plan(world).identity["settings"], "min_max": True}
    assert on.key != plan(world).key


def test_masks_depend_on_what_a_member_of_another_run_is(world: Path) -> None:
    other = write_run(world / "other", "methods.cdm.noise_level=50")
    members = f"methods.combined.members={{cdm={{run={str(other)!r}}}}}"
    row = f"set = [{json.dumps(members)}]"
    before = plan(world, method="combined", row=row)
    assert before.key == plan(world, method="combined", row=row).key
    file = other / "experiment.toml"
    file.write_text(file.read_text().replace("noise_level = 50", "noise_level = 60"))
    after = plan(world, method="combined", row=row)
    assert after.key != before.key
    repaint(other / "weights" / "denoiser.safetensors")
    assert plan(world, method="combined", row=row).key not in (before.key, after.key)
