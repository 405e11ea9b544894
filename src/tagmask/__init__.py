"""Tagmask: from image tags to pixel masks.

    import tagmask

    tagmask.prepare("scans/labels.csv", "prepared/scans")
    run = tagmask.train("experiment.toml", out="runs/scans")
    tagmask.segment(run, ["scans/new.nii.gz"], out="results/new")

Research use only. Not a medical device. Each name is imported when first asked for, so that `import tagmask`
costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tagmask.datasets.settings import DatasetSettings
    from tagmask.errors import TagmaskError
    from tagmask.io import read_study
    from tagmask.jobs.ablate import ablate
    from tagmask.jobs.benchmark import benchmark
    from tagmask.jobs.evaluate import EvaluateSettings, combine, evaluate
    from tagmask.jobs.import_weights import import_weights
    from tagmask.jobs.prepare import prepare
    from tagmask.jobs.report import report
    from tagmask.jobs.segment import segment
    from tagmask.jobs.train import train
    from tagmask.jobs.tune import tune
    from tagmask.jobs.tune_masks import tune_masks
    from tagmask.methods import METHODS
    from tagmask.runs import Run
    from tagmask.slices import SliceSettings

    open_run = Run.open

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "DatasetSettings",
    "EvaluateSettings",
    "Run",
    "SliceSettings",
    "TagmaskError",
    "__version__",
    "ablate",
    "benchmark",
    "combine",
    "evaluate",
    "import_weights",
    "open_run",
    "prepare",
    "read_study",
    "report",
    "segment",
    "train",
    "tune",
    "tune_masks",
]

# Public name -> where it lives: module, and what it is called there.
_HOMES = {
    "METHODS": ("tagmask.methods", "METHODS"),
    "DatasetSettings": ("tagmask.datasets.settings", "DatasetSettings"),
    "EvaluateSettings": ("tagmask.jobs.evaluate", "EvaluateSettings"),
    "Run": ("tagmask.runs", "Run"),
    "SliceSettings": ("tagmask.slices", "SliceSettings"),
    "TagmaskError": ("tagmask.errors", "TagmaskError"),
    "ablate": ("tagmask.jobs.ablate", "ablate"),
    "benchmark": ("tagmask.jobs.benchmark", "benchmark"),
    "combine": ("tagmask.jobs.evaluate", "combine"),
    "evaluate": ("tagmask.jobs.evaluate", "evaluate"),
    "import_weights": ("tagmask.jobs.import_weights", "import_weights"),
    "open_run": ("tagmask.runs", "Run.open"),
    "prepare": ("tagmask.jobs.prepare", "prepare"),
    "read_study": ("tagmask.io", "read_study"),
    "report": ("tagmask.jobs.report", "report"),
    "segment": ("tagmask.jobs.segment", "segment"),
    "train": ("tagmask.jobs.train", "train"),
    "tune": ("tagmask.jobs.tune", "tune"),
    "tune_masks": ("tagmask.jobs.tune_masks", "tune_masks"),
}


def __getattr__(name: str) -> Any:
    """Import a public name."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'tagmask' has no attribute {name!r}. Public names: {', '.join(__all__)}."
        )
    module, attribute = _HOMES[name]
    value = attrgetter(attribute)(import_module(module))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
