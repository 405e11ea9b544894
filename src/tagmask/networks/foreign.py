"""Published .pt files: read by a child process that may do nothing else, and taken over as safetensors.

The child is `tagmask.networks.foreign_reader`. What it wrote is believed no more than any other safetensors file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from tagmask.errors import ConfigError, ResourceError, RunError, SecurityError, TagmaskError
from tagmask.networks import foreign_reader
from tagmask.networks.weights import read_tensors

__all__ = ["read_published"]

_ZIP = b"PK\x03\x04"
_KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


def read_published(path: Path, *, scratch: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a published file.

    Parameters
    ----------
    path
        A .pt file as torch.save writes it (since torch 1.6: a zip archive), or a safetensors file; told by its
        content.
    scratch
        A folder with room for a copy, which is gone when the function returns.
    key
        Where in a .pt file the table of tensors lies, as "model" or "state_dict"; None: the file is the table.

    Returns
    -------
    Tensors by their published names, on the CPU, in the file's dtypes.

    Raises
    ------
    SecurityError
        The file holds other things than tensors, was packed, or is a pickle of the old kind.
    ResourceError
        It asks for more memory or time than its size explains.
    RunError
        It is missing, damaged, or not one flat table of tensors.
    ConfigError
        A key was given for a safetensors file, which has one table only.
    """
    try:
        file = open(path, "rb")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise RunError(f"cannot be read: {error.strerror}.", where=path, repair="Check the path.") from None
    with file:
        if file.read(4) == _ZIP:
            return _read_apart(path, file.fileno(), scratch, key or "")
    if key is not None:
        raise ConfigError(
            f'key = "{key}", but only a .pt file has tables within it.', where=path, repair="Leave it out."
        )
    try:
        return read_tensors(path)
    except SecurityError as error:
        repair = "Save it again with torch 1.6 or newer, where you trust it, or ask for safetensors."
        raise SecurityError(error.what, where=path, repair=repair) from None


def _read_apart(path: Path, descriptor: int, scratch: Path, key: str) -> dict[str, Tensor]:
    """Have the child write safetensors into a folder of its own, and map that."""
    seconds = 600 + 4 * os.fstat(descriptor).st_size // 2**22
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".import-") as made:
        folder = Path(made)
        # -P: the folder of the child's own file is no place to import from.
        command = [sys.executable, "-P", foreign_reader.__file__, str(descriptor), made, key]
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        with open(folder / "errors.txt", "wb") as errors:
            try:
                done = subprocess.run(
                    command,
                    pass_fds=(descriptor,),
                    cwd=folder,
                    env={**kept, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": made},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise _refusal(foreign_reader.TOO_LARGE, f"took more than {seconds} s", path) from None
        if done.returncode:
            raise _refusal(done.returncode, _last_words(folder), path)
        return read_tensors(folder / foreign_reader.TENSORS)


def _last_words(folder: Path) -> str:
    """Give what the child said of its end: one line, for it speaks of a file that nobody trusts."""
    for name in (foreign_reader.VERDICT, "errors.txt"):
        with open(folder / name, "rb") as file:
            lines = file.read(4000).decode(errors="replace").strip().splitlines()
        if lines:
            return "".join(c if c.isprintable() else "?" for c in lines[-1])[:400]
    return ""


def _refusal(code: int, words: str, path: Path) -> TagmaskError:
    """Say what the end of the child means."""
    if code == foreign_reader.REFUSED:
        repair = "If you know who made it, ask for its tensors alone, as safetensors."
        return SecurityError(f"{words}. Nothing of it was used.", where=path, repair=repair)
    if code == foreign_reader.TOO_LARGE:
        return ResourceError(
            f"{words}.", where=path, repair="Fetch the file again; if it is the same, leave it."
        )
    if code == foreign_reader.DAMAGED:
        repair = "Give the file as it was published: one flat table of tensors, or --key."
        return RunError(f"{words}.", where=path, repair=repair)
    if code < 0:
        return ResourceError(
            f"ended its reader (signal {-code}): it wants more time, memory or disk than a file of its size may.",
            where=path,
            repair="Fetch the file again; if it is the same, leave it.",
        )
    return RunError(
        f"was not read, for its reader could not start ({words}).",
        where=path,
        repair="It needs Linux. Or give a safetensors file.",
    )
