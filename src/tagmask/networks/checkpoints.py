"""States of a training in safetensors files: tensors by name and a JSON record. Nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from tagmask.errors import RunError
from tagmask.io import atomic_write

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write a state whole or not at all.

    Parameters
    ----------
    tensors
        Any dtype, any device; stored as they are.
    record
        JSON values.
    """
    from safetensors.torch import save_file

    # A copy: safetensors refuses memory that two tensors share.
    stored = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(stored, temporary, metadata={"checkpoint": json.dumps(record)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Raises
    ------
    RunError
        The file is damaged or foreign.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors, json.loads((file.metadata() or {})["checkpoint"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise RunError(
            f"is not a whole checkpoint ({error}).",
            where=path,
            repair="Delete it: training goes on from the one before.",
        ) from None
