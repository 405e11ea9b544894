"""Make demo/run, the embedded weights, from a tuned run: half precision, nothing but what segmenting needs.

python demo/embed.py runs/hippocampus demo/run
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch

from tagmask.io import commands_of, write_text
from tagmask.io.commands import COMMANDS
from tagmask.networks import weights
from tagmask.runs import Run
from tagmask.runs.chosen import VAL_MASKS


def main(source: Path, target: Path) -> None:
    run = Run.open(source)
    (target / "weights").mkdir(parents=True, exist_ok=True)
    (target / "experiment.toml").write_text(run.experiment.to_toml(), encoding="utf-8")
    record = {key: run.environment[key] for key in ("data", "slices", "versions")}
    (target / "environment.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    if commands := commands_of(source):
        write_text(target / COMMANDS, "\n".join(commands) + "\n")
    if (source / VAL_MASKS).is_file():
        shutil.copyfile(source / VAL_MASKS, target / VAL_MASKS)
    for name in run.experiment.networks():
        path = target / "weights" / f"{name}.safetensors"
        metadata = weights.read_metadata(run.weights_path(name))["metadata"]
        weights.save(path, run.network(name), metadata, dtype=torch.float16)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
