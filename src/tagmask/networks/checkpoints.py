"""States of a training in safetensors files: tensors by name and a JSON record. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from tagmask.errors import RunError
from tagmask.io import atomic_write

__all__ = ["read_checkpoint", "write_checkpoint", "write_tensors"]

_SYSTEM = re.compile(r"\(os error (\d+)\)")
"""How the library quotes what the system says."""


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    Raises
    ------
    ResourceError, InputError
        The disk is full, or the place cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            if (number := _SYSTEM.search(str(error))) is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def write_checkpoint(path: Path, tensors: dict[str, Tensor], record: dict[str, Any]) -> None:
    """Write a state whole or not at all.

    Parameters
    ----------
    tensors
        Any dtype, any device; stored as they are.
    record
        JSON values.
    """
    # A copy: safetensors refuses memory that two tensors share.
    stored = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, stored, {"checkpoint": json.dumps(record)})


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
