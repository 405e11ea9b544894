"""The promises of docs/adr/0001-floors.md, checked by reading every import of the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tagmask"

# A unit is a module or a folder directly inside the package. Write a new one on the floor where it belongs.
FLOORS: dict[int, set[str]] = {
    0: {"errors", "seeds", "types"},
    1: {
        *("config", "data", "datasets", "diffusion", "drawing", "grids", "io", "machine", "masks", "metrics"),
        *("networks", "slices", "text", "thresholds"),
    },
    2: {
        *("ablations", "benchmarking", "experiment", "methods", "objectives", "reporting", "runs", "scoring"),
        *("segmenting", "train_settings", "training"),
    },
    3: {"jobs"},
    4: {"__init__", "__main__", "cli", "doctor"},
}
FLOOR = {unit: floor for floor, units in FLOORS.items() for unit in units}

# Outside library -> who may import it: a unit, or one module of a unit. Others are open to all.
DOORS: dict[str, set[str]] = {
    "accelerate": {"training.processes", "training.trainer"},
    "diffusers": {"networks"},
    "huggingface_hub": {"text.bert"},
    "matplotlib": {"drawing"},
    "monai": set(),  # an oracle of tests alone
    "nibabel": {"io"},
    "openpyxl": {"data.xlsx"},
    "PIL": {"io"},
    "pydantic": {"config"},
    "pydicom": {"io"},
    "rich": {"cli"},
    "safetensors": {"networks"},
    "tifffile": {"io"},
    "transformers": {"text.bert"},
    "typer": {"cli"},
}
# They need a torchvision that fits torch to the letter, or read pickles.
BANNED = {
    *(
        "torchvision",
        "timm",
        "pytorch_grad_cam",
        "segmentation_models_pytorch",
        "anomalib",
        "itk",
        "lightning",
    ),
    *("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
}
# The one module that may open a pickle: in a confined process, as tensors alone; docs/adr/0013-frozen-backbone.md.
FOREIGN_READER = "networks.foreign_reader"
MASK_READERS = {
    *("datasets.tags", "jobs.prepare", "jobs.evaluate", "io"),  # files of masks
    *("data.prepared", "data.prepared_writer"),  # where prepared ones lie
    *("training.batches", "training.selection", "jobs.tune_masks", "scoring.baseline_rows"),  # prepared ones
}
"""Modules that may open a mask, each for what its results are stamped with."""


@dataclass(frozen=True)
class Module:
    """A source file: `name` is dotted and leaves out the package, "" the package's own __init__."""

    name: str
    tree: ast.Module

    @property
    def unit(self) -> str:
        return self.name.split(".")[0] or "__init__"

    def imports(self) -> Iterator[str]:
        """Full dotted names of all that is imported, wherever the statement stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{self.name}: relative import; write tagmask.…"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def own_imports(self) -> set[str]:
        """What is imported of the package, without its name."""
        return {name.removeprefix("tagmask.") for name in self.imports() if name.startswith("tagmask.")}

    def within(self, places: set[str]) -> bool:
        return any(self.name == place or self.name.startswith(f"{place}.") for place in places)


def parse(name: str, source: str) -> Module:
    return Module(name, ast.parse(source))


def modules() -> list[Module]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__":
            parts = parts[:-1]
        found.append(parse(".".join(parts), path.read_text(encoding="utf-8")))
    return found


MODULES = modules()


def unit_of(imported: str) -> str | None:
    """The unit behind "io.read_study"; None for a name that the package itself gives, as __version__."""
    first = imported.split(".")[0]
    return first if first in FLOOR else None


def of_one_paper(one: str, other: str) -> bool:
    """Whether both lie in the files of one method: methods.anofpdm and methods.anofpdm_choice."""
    a, b = (name.removeprefix("methods.").split(".")[0] for name in (one, other))
    owners = {path.stem for path in (PACKAGE / "methods").glob("*.py")}
    return any(a == p or a.startswith(f"{p}_") for p in owners if b == p or b.startswith(f"{p}_"))


def upward(module: Module) -> list[str]:
    """Imports of a higher floor; a job's of another job, a method's of another method (its own files it may)."""
    wrong = []
    for imported in sorted(module.own_imports()):
        unit = unit_of(imported)
        if unit is None:
            continue
        if FLOOR[unit] > FLOOR[module.unit]:
            wrong.append(
                f"{module.name} (floor {FLOOR[module.unit]}) imports {imported} (floor {FLOOR[unit]})"
            )
        siblings = {"jobs": {"jobs.benchmark", "jobs.benchmark_cell", "jobs.ablate"}, "methods": {"methods"}}
        strangers = unit == module.unit and not of_one_paper(module.name, imported)
        if strangers and unit in siblings and module.name not in siblings[unit]:
            wrong.append(f"{module.name} imports {imported}, of its own kind")
    return wrong


def through_the_wall(module: Module) -> list[str]:
    """Outside libraries that are not imported at their door, or not to be imported at all."""
    wrong = []
    for imported in sorted(module.imports()):
        library = imported.split(".")[0]
        if library in BANNED:
            wrong.append(f"{module.name} imports {library}, which nothing here may")
        if library in DOORS and not module.within(DOORS[library]):
            wrong.append(f"{module.name} imports {library}; its door is {', '.join(sorted(DOORS[library]))}")
    return wrong


def trusting(module: Module) -> list[str]:
    """Calls that run what a file says."""
    wrong = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        arguments = {k.arg: k.value for k in node.keywords}
        pickle = arguments.get("allow_pickle")
        refused = isinstance(pickle, ast.Constant) and pickle.value is False
        tensors_alone = (
            isinstance(arguments.get("weights_only"), ast.Constant)
            and arguments["weights_only"].value is True
        )
        if module.name == FOREIGN_READER and call == "torch.load" and tensors_alone:
            continue
        if call in ("eval", "exec", "compile", "__import__", "torch.load", "yaml.load", "yaml.unsafe_load"):
            wrong.append(f"{module.name}:{node.lineno} calls {call}")
        elif (call in ("np.load", "numpy.load") or pickle is not None) and not refused:
            wrong.append(f"{module.name}:{node.lineno} calls {call} without allow_pickle=False")
    return wrong


OPENERS = {"read_mask", "stack_labels", "open_masks", "masks.npy"}


def reads_masks(module: Module) -> bool:
    """Whether an opener of masks is named anywhere: imported, as an attribute, or as text for getattr."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name in OPENERS for alias in node.names):
            return True
        if isinstance(node, ast.Attribute) and node.attr in OPENERS:
            return True
        if isinstance(node, ast.Constant) and node.value in OPENERS:
            return True
    return False


def test_every_unit_stands_on_a_floor() -> None:
    units = {module.unit for module in MODULES}
    assert units - FLOOR.keys() == set(), "say in FLOORS on which floor it stands"
    assert FLOOR.keys() - units == set(), "is not there any more"


def test_imports_go_down() -> None:
    assert [line for module in MODULES for line in upward(module)] == []


def test_units_of_one_floor_do_not_go_round_in_circles() -> None:
    graph: dict[str, set[str]] = {unit: set() for unit in FLOOR}
    for module in MODULES:
        if module.unit != "__init__":  # it promises names, and imports none before it is asked
            graph[module.unit] |= {u for name in module.own_imports() if (u := unit_of(name))} - {module.unit}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_each_library_comes_in_by_its_door() -> None:
    assert [line for module in MODULES for line in through_the_wall(module)] == []


def test_nothing_runs_what_a_file_says() -> None:
    assert [line for module in MODULES for line in trusting(module)] == []


def test_masks_are_read_by_two_jobs_alone() -> None:
    readers = {module.name for module in MODULES if reads_masks(module)}
    assert {name for name in readers if not name.startswith("io")} <= MASK_READERS
    assert "jobs.evaluate" in readers, "the check is blind"


def test_files_can_be_read_in_one_go() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): n for path, n in lengths.items() if n > 300} == {}, "part it where it has a seam"


def test_nothing_is_left_open() -> None:
    marks = ("TODO", "FIXME", "XXX")
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    assert [str(path) for path, text in sources.items() if any(mark in text for mark in marks)] == []


# The checks are checked: each of these lines must be caught where it stands.


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("errors", "from tagmask.io import read_study"),
        ("slices", "def f():\n    from tagmask.methods.cdm import CDM"),
        ("methods.cdm", "from tagmask.jobs.train import train"),
        ("methods.cdm", "from tagmask.methods.supervised import Supervised"),
        ("methods.cdm", "from tagmask.methods.anofpdm_passage import Passage"),
        ("jobs.segment", "import tagmask.jobs.train"),
        ("jobs.train", "from tagmask import cli"),
    ],
)
def test_an_upward_import_is_caught(name: str, source: str) -> None:
    assert upward(parse(name, source)) != []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("jobs.train", "from tagmask.runs import Run"),
        ("jobs.benchmark", "from tagmask.jobs.segment import segment"),
        ("jobs.ablate", "from tagmask.jobs.evaluate import evaluate"),
        ("io.nifti", "from tagmask.io.guards import same_grid"),
        ("methods.anofpdm_choice", "from tagmask.methods.anofpdm import AnoFPDM"),
        ("cli.training", "from tagmask import __version__"),
    ],
)
def test_a_downward_import_is_not(name: str, source: str) -> None:
    assert upward(parse(name, source)) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("slices", "import nibabel as nib"),
        ("jobs.segment", "from accelerate import Accelerator"),
        ("networks.adm_unet", "from torchvision import ops"),
        ("networks.weights", "import pickle"),
        ("masks", "def f():\n    import matplotlib.pyplot as plt"),
    ],
)
def test_a_library_beside_its_door_is_caught(name: str, source: str) -> None:
    assert through_the_wall(parse(name, source)) != []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "archive.get(allow_pickle=flag)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
    ],
)
def test_trust_is_caught(source: str) -> None:
    assert trusting(parse("io.nifti", source)) != []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "eval(x)",
    ],
)
def test_even_the_reader_of_foreign_files_trusts_nothing_else(source: str) -> None:
    assert trusting(parse(FOREIGN_READER, source)) != []
    assert trusting(parse(FOREIGN_READER, "torch.load(path, weights_only=True)")) == []


def test_the_reader_of_foreign_files_is_run_and_not_called() -> None:
    """Its constants apart, the package knows only where it lies."""
    importers = {m.name for m in MODULES if FOREIGN_READER in m.own_imports()}
    assert importers == {"networks.foreign"}
    parent = next(m for m in MODULES if m.name == "networks.foreign")
    used = {
        n.attr
        for n in ast.walk(parent.tree)
        if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "foreign_reader"
    }
    assert used <= {"REFUSED", "TOO_LARGE", "DAMAGED", "TENSORS", "VERDICT", "__file__"}
    reader = next(m for m in MODULES if m.name == FOREIGN_READER)
    assert reader.own_imports() == set()


@pytest.mark.parametrize(
    "source", ["network.eval()", "np.load(path, allow_pickle=False)", "re.compile(text)"]
)
def test_what_only_looks_like_trust_is_not(source: str) -> None:
    assert trusting(parse("io.nifti", source)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from tagmask.io import read_mask",
        "from tagmask.io.stacks import stack_labels",
        "from tagmask import io\nio.read_mask(path)",
        "from tagmask.io.studies import read_mask as r",
        "getattr(io, 'read_mask')",
        "prepared.open_masks()",
        "np.load(folder / 'masks.npy', allow_pickle=False)",
    ],
)
def test_a_reader_of_masks_is_caught(source: str) -> None:
    assert reads_masks(parse("jobs.segment", source))
