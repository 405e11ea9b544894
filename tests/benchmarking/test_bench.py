"""The benchmark file: what it says, and how what it cannot say is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tagmask.benchmarking.bench import load_bench
from tagmask.benchmarking.names import Place
from tagmask.benchmarking.protocol import PRESETS, Protocol
from tagmask.benchmarking.trainings import training_of
from tagmask.config import build
from tagmask.errors import ConfigError
from tagmask.methods import METHODS

ROOT = Path(__file__).parents[2]
DATA = '[data.toy]\ninputs = "in"\ntruth = "truth"\n'
ROW = '[[row]]\nname = "CDM"\nmethod = "cdm"\nrun = "runs/{data}"\n'


def write(folder: Path, *parts: str) -> Path:
    (folder / "bench.toml").write_text("\n".join(parts), encoding="utf-8")
    return folder / "bench.toml"


def test_the_least_there_is_to_say(tmp_path: Path) -> None:
    bench = load_bench(write(tmp_path, DATA, ROW))
    assert bench.protocol == Protocol() and list(bench.data) == ["toy"]
    row = bench.rows[0]
    assert (row.tuned, row.tags, bench.sets(row), bench.data["toy"].folds) == (
        "none",
        "given",
        ["toy"],
        ("",),
    )
    assert row.folder(Place("toy")) == Path("runs/toy")


def test_a_preset_is_what_differs_from_the_defaults(tmp_path: Path) -> None:
    by_name = load_bench(write(tmp_path, 'protocol = "anofpdm"', DATA, ROW)).protocol
    assert (by_name.setups, by_name.metrics) == (("mixed", "positives"), ("dice", "iou", "auprc"))
    assert (by_name.per("auprc"), by_name.per("dice"), by_name.seeds) == ("pooled", "image", (0, 1, 2))
    parts = '[protocol]\npreset = "cdm"\nseeds = [7]\nmin_area_frac = 0.05\n'
    changed = load_bench(write(tmp_path, parts, DATA, ROW)).protocol
    assert (changed.setups, changed.empty_hd, changed.seeds) == (("positives",), "zero", (7,))
    assert changed.settings().min_area_frac == 0.05 and changed.settings().empty_hd == "zero"


def test_the_protocol_says_who_knows_the_tags_unless_the_row_does(tmp_path: Path) -> None:
    """AnoFPDM's paper segments slices without tags: its rivals' masks are not emptied, its own by its verdict."""
    own = ROW.replace('name = "', 'name = "own ') + 'tags = { mixed = "predicted", positives = "none" }\n'
    for preset, tags in (("anofpdm", "none"), ("cdm", "given"), ("tagmask", "given")):
        rival, gated = load_bench(write(tmp_path, f'protocol = "{preset}"', DATA, ROW, own)).rows
        assert {rival.tags_of("mixed"), rival.tags_of("positives")} == {tags}
        assert (gated.tags_of("mixed"), gated.tags_of("positives")) == ("predicted", "none")
    changed = ["protocol.tags={mixed='predicted',positives='none'}"]
    (row,) = load_bench(write(tmp_path, '[protocol]\npreset = "anofpdm"', DATA, ROW), changed).rows
    assert row.tags_of("mixed") == "predicted"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name: str) -> None:
    build(Protocol, PRESETS[name])


def test_a_set_may_have_conventions_of_its_own(tmp_path: Path) -> None:
    bench = load_bench(write(tmp_path, DATA + "min_area_frac = 0.05\nmask_labels = [2, 3]\n", ROW))
    settings = bench.protocol.settings(**bench.data["toy"].conventions)
    assert (settings.min_area_frac, settings.mask_labels) == (0.05, (2, 3))


def test_overrides_reach_protocol_and_data(tmp_path: Path) -> None:
    file = write(tmp_path, DATA, ROW)
    bench = load_bench(file, ["protocol.seeds=[5]", "data.toy.inputs=elsewhere"])
    assert (bench.protocol.seeds, bench.data["toy"].inputs) == ((5,), "elsewhere")


DRAWN = ROW.replace("CDM", "U-Net").replace('"cdm"', '"unet"').replace("runs/{data}", "runs/{draw}")
DRAWN += 'experiment = "e.toml"\ntrain = ["data.draw={draw}"]\n'
VARIED = """
[[row]]
name = "U-Net, {shots}"
method = "unet"
vary = { shots = [5, 20] }
run = "r-{shots}"
experiment = "e.toml"
train = ["data.shots={shots}"]
"""
TWIN = VARIED.replace("U-Net, {shots}", "{shots}, twin, U-Net").replace("method", 'line = "U-Net"\nmethod')
NUMBERED = '[[row]]\nname = "W, {n}"\nmethod = "cdm"\nrun = "r{n}"\nvary = { n = [1, 2] }\n'


def figure(x: str, *more: str) -> str:
    return "\n".join(["[[figure]]", 'name = "f"', f'x = "{x}"', *more, ""])


FOLDS = '[data.toy]\ninputs = "f{fold}/in"\ntruth = "f{fold}"\nfolds = ["a", "b"]\n'


def test_names_of_data_and_fold_go_into_paths(tmp_path: Path) -> None:
    row = load_bench(write(tmp_path, FOLDS, ROW.replace("runs/{data}", "runs/{data}-{fold}"))).rows[0]
    assert row.folder(Place("toy", "b")) == Path("runs/toy-b")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([DATA], "row: Field required"),
        ([ROW], "data: Field required"),
        (["row = []\n[data]\n"], "it has no data"),
        ([DATA, ROW, "[protocl]\n"], "unknown key protocl. Did you mean protocol?"),
        (["[protocol]\nseed = [1]\n", DATA, ROW], "unknown key seed. Did you mean seeds?"),
        (['protocol = "cmd"', DATA, ROW], "unknown preset 'cmd'. Did you mean cdm?"),
        (["[protocol]\nseeds = []\n", DATA, ROW], "seeds = []"),
        (["[protocol]\nseeds = [1, 1]\n", DATA, ROW], "seeds = [1, 1]. Name at least one, each once."),
        (["[protocol]\nresamples = 0\n", DATA, ROW], "resamples = 0"),
        (['[protocol]\nempty_hd = "nil"\n', DATA, ROW], "empty_hd = 'nil'"),
        (["[protocol]\nmin_area_frac = 2\n", DATA, ROW], "evaluate.min_area_frac"),
        ([DATA + "min_area_frac = -1\n", ROW], "[data.toy]: -1.0 is no share"),
        ([DATA + 'tuth = "x"\n', ROW], "unknown key tuth. Did you mean truth?"),
        ([DATA + 'published = ["hu2023"]\n', ROW], "unknown table 'hu2023'"),
        ([DATA + 'folds = ["a", "b"]\n', ROW], "there are 2 folds, but inputs = 'in' is the same in all"),
        ([FOLDS.replace('"b"', '"a"'), ROW], "Name each fold once"),
        ([DATA, ROW, "sead = 1\n"], "unknown key sead. Did you mean seeds?"),
        ([DATA, ROW.replace('"cdm"', '"cg_cmd"')], "unknown method 'cg_cmd'. Did you mean cg_cdm?"),
        ([DATA, ROW, 'tags = "guessed"\n'], "tags"),
        ([DATA, ROW, 'tuned = "masks"\n'], "tuned = 'masks'"),
        ([DATA, ROW, "seeds = []\n"], "seeds = []"),
        ([DATA, ROW, 'data = ["toys"]\n'], "unknown data set 'toys'. Did you mean toy?"),
        ([DATA, ROW.replace('"runs/{data}"', '{toys = "r"}')], "unknown data set 'toys'"),
        ([DATA, ROW.replace('"runs/{data}"', "{}")], "run names no folder for toy"),
        ([DATA, ROW, 'tags = {mixed = "none"}\n'], "tags says nothing of positives"),
        ([DATA, ROW, ROW], "two rows are called 'CDM'"),
        ([DATA.replace('"in"', "3"), ROW], "inputs = 3"),
        ([DATA + "draws = []\n", ROW], "draws = []. Name each draw once."),
        ([DATA + 'draws = ["0", "0"]\n', ROW], "draws = ['0', '0']. Name each draw once."),
        ([DATA + "draws = [0, 1]\n", ROW], "draws.0 = 0"),
        ([DATA.replace('"in"', '"in{draw}"'), ROW], "a draw changes the training pictures alone"),
        ([DATA + 'val = "val{draw}"\n', ROW], "val = 'val{draw}' has {draw}"),
        ([DATA + 'train = "p{draw}"\n', ROW], "train = 'p{draw}', but there are no draws"),
        ([DATA, DRAWN], "[[row]] U-Net: it has {draw}, but [data.toy] has no draws"),
        ([DATA, ROW.replace("{data}", "{shots}")], "unknown name in braces in run: 'shots'"),
        ([DATA, ROW, 'set = ["data.draw={draw}"]\n'], "unknown name in braces in set: 'draw'"),
        ([DATA, ROW, 'train = ["data.shots=5"]\n'], "train = ['data.shots=5'], but there is no experiment"),
        (
            [DATA, DRAWN.replace("data.draw=", "mask.value=0.")],
            "train has 'mask.value=0.{draw}', but no training",
        ),
        ([DATA, ROW, 'networks = ["denoiser"]\n'], "networks = ['denoiser'], but there is no experiment"),
        ([DATA, ROW, 'experiment = "e.toml"\nnetworks = ["unet"]\n'], "unknown network 'unet'"),
        ([DATA, ROW, 'experiment = "e.toml"\nnetworks = []\n'], "networks = []"),
        (
            [DATA, DRAWN.replace("runs/{draw}", "runs")],
            "train has {draw}, but run = 'runs' is the same for all",
        ),
        ([DATA, ROW, '[[train]]\nexperiment = "e.toml"\n'], "[[train]]: run: Field required"),
        ([DATA, ROW, '[[train]]\nexperiment="e"\nrun="r"\nnetworks=["deniser"]\n'], "Did you mean denoiser?"),
        ([DATA, VARIED.replace("[5, 20]", "[]")], "vary.shots = []. Give a list"),
        ([DATA, VARIED.replace("[5, 20]", "5")], "vary.shots = 5. Give a list"),
        ([DATA, VARIED.replace("[5, 20]", "[[5], [20]]")], "vary.shots = [[5], [20]]. Give a list"),
        ([DATA, VARIED.replace("[5, 20]", "[5, 5]")], "vary.shots = [5, 5] has one of them twice"),
        ([DATA, VARIED.replace("{ shots = [5, 20] }", "5")], "vary = 5"),
        ([DATA, VARIED.replace("shots = [5, 20]", "")], "vary = {}"),
        ([DATA, VARIED.replace("{ shots", "{ draw = [1], shots")], "vary.draw: the name is taken"),
        ([DATA, VARIED.replace("{ shots", "{ mean = [1], shots")], "vary.mean: the name is taken"),
        (
            [DATA, VARIED.replace("{ shots", '{ "a b" = [1], shots')],
            "vary.a b: the name is taken or is no name",
        ),
        ([DATA, VARIED.replace("{ shots", "{ text = [1], shots")], "vary.text is used nowhere"),
        ([DATA, VARIED.replace("U-Net, {shots}", "U-Net")], "vary.shots = [5, 20] gives rows of one name"),
        ([DATA, VARIED.replace("r-{shots}", "r").replace("={shots}", "=5")], "changes nothing but the name"),
        (
            [DATA, VARIED.replace("[5, 20]", "[5]").replace("r-{shots}", "r").replace("={shots}", "=5")],
            "vary.shots = [5] changes nothing but the name",
        ),
        ([DATA, ROW, 'line = "CDM {shot}"\n'], "unknown name in braces in line: 'shot'"),
        (
            [DATA, VARIED.replace("r-{shots}", "r")],
            "{shots} changes how the run is trained, but run is the same",
        ),
        ([DATA, VARIED.replace("r-{shots}", "r-{shot}-{shots}")], "in run: 'shot'. Did you mean shots?"),
        ([DATA, VARIED.replace("[5, 20]", "[5]"), VARIED], "two rows are called 'U-Net, 5'"),
        (
            [DATA, VARIED, figure("shot")],
            "[[figure]] f: unknown varied setting in x: 'shot'. Did you mean shots?",
        ),
        ([DATA, ROW, figure("shots")], "Known here: none."),
        ([DATA, VARIED, figure("shots", 'lines = "text"')], "unknown varied setting in lines: 'text'"),
        (
            [DATA, VARIED, figure("shots", 'lines = "shots"')],
            "x, lines and panels are shots, shots. Name each",
        ),
        ([DATA, VARIED, figure("shots", 'metric = "dise"')], "metric = 'dise'"),
        (
            ['protocol = "cdm"', DATA, VARIED, figure("shots", 'metric = "auprc"')],
            "unknown metric of this protocol",
        ),
        (
            ['protocol = "cdm"', DATA, VARIED, figure("shots", 'setup = "mixed"')],
            "unknown setup of this protocol",
        ),
        ([DATA, VARIED, figure("shots"), figure("shots")], "[[figure]]: two figures are called 'f'"),
        ([DATA, VARIED, figure("shots").replace('"f"', '"../f"')], "name = '../f'"),
        (
            [DATA, VARIED, VARIED.replace("U-Net", "V", 1), figure("n", 'lines = "shots"'), NUMBERED],
            "the row 'W, 1' varies n, but not shots",
        ),
        (
            [DATA, VARIED, TWIN, figure("shots")],
            "the rows 'U-Net, 5' and '5, twin, U-Net' stand at one place",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(parts: list[str], says: str, tmp_path: Path) -> None:
    file = write(tmp_path, *parts)
    with pytest.raises(ConfigError) as raised:
        load_bench(file)
    assert says in str(raised.value) and str(file) in str(raised.value)


@pytest.mark.parametrize(
    "file", sorted((ROOT / "experiments" / "bench").glob("*.toml")), ids=lambda f: f.stem
)
def test_the_benchmarks_of_the_house_load(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    bench = load_bench(file)
    assert {row.method for row in bench.rows} <= set(METHODS)
    for row in bench.rows:  # what reads masks or has no noise says so itself
        assert row.method != "unet" or (row.seeds or bench.protocol.seeds) == (0,)
    for entry in bench.train:
        assert entry.load().networks()
    for row in bench.rows:
        for place in bench.places(row):
            training = training_of(row, place)
            if training is not None:
                assert set(training.networks) <= set(training.load().networks())


def test_the_tables_of_textdiff_share_one_run_a_draw() -> None:
    for name, counts in (("monuseg", [7, 1, 1]), ("monuseg-text", [1, 1, 1, 1, 1])):
        runs: dict[str, list[str]] = {}
        for row in load_bench(ROOT / "experiments" / "bench" / f"{name}.toml").rows:
            runs.setdefault(str(row.folder(Place("monuseg", draw="3"))), []).append(row.name)
        assert [len(names) for names in runs.values()] == counts and "runs/monuseg-3" in runs
    masks = load_bench(ROOT / "experiments" / "bench" / "monuseg-masks.toml")
    shared = {row.folder(Place("monuseg", draw="3")): row.vary["shots"] for row in masks.rows}
    assert {shared[Path(run)] for run in ("runs/monuseg-3", "runs/monuseg-zeta1-3")} == {5}


def test_a_row_varies(tmp_path: Path) -> None:
    """One row for each combination, the last setting fastest; what is no text stays what it is."""
    more = VARIED.replace("[5, 20]", '[5, 20], text = ["none", "cross"]').replace("U-Net,", "U-Net, {text},")
    more = more.replace("r-{shots}", "r-{data}-{shots}-{text}").replace(
        '{shots}"]', '{shots}", "a.b={text}"]'
    )
    rows = load_bench(write(tmp_path, DATA, more)).rows
    assert [row.name for row in rows] == [f"U-Net, {t}, {s}" for s in (5, 20) for t in ("none", "cross")]
    assert rows[1].vary == {"shots": 5, "text": "cross"} and {row.line for row in rows} == {"U-Net"}
    assert rows[1].train == ("data.shots=5", "a.b=cross")
    assert rows[1].folder(Place("toy")) == Path("r-toy-5-cross")


def test_a_draw_goes_into_run_and_training(tmp_path: Path) -> None:
    drawn = DATA + 'draws = ["0", "1"]\n'
    bench = load_bench(write(tmp_path, drawn, DRAWN, ROW))
    assert [list(bench.places(row)) for row in bench.rows] == [
        [("toy", "", "0"), ("toy", "", "1")],
        [("toy", "", "")],
    ]
    row = bench.rows[0]
    assert (
        row.folder(Place("toy", draw="1")) == Path("runs/1")
        and Place("toy", draw="1").fill(row.train[0]) == "data.draw=1"
    )


def test_braces_of_toml_are_left_alone(tmp_path: Path) -> None:
    more = "set = ['methods.combined.members={cdm={draws=4}}']\n"
    assert load_bench(write(tmp_path, DATA, ROW, more)).rows[0].set[0].endswith("{cdm={draws=4}}")


def test_a_line_is_filled_as_the_name_is(tmp_path: Path) -> None:
    """One of its own, and one of a name of which every part varies; no reader ever sees braces."""
    own = VARIED.replace("method", 'line = "at {shots}"\nmethod').replace("U-Net, ", "V, ")
    rows = load_bench(write(tmp_path, DATA, own, VARIED.replace("U-Net, {shots}", "{shots} masks"))).rows
    assert [row.line for row in rows] == ["at 5", "at 20", "5 masks", "20 masks"]


def test_a_single_value_may_belong_to_a_run_that_does_not_name_it(tmp_path: Path) -> None:
    single = VARIED.replace("[5, 20]", "[5]").replace("r-{shots}", "r")
    (row,) = load_bench(write(tmp_path, DATA, single)).rows
    assert (row.train, row.run, row.vary) == (("data.shots=5",), "r", {"shots": 5})
