"""Reads one published .pt file, in a process of its own that may do nothing else, and writes safetensors.

Run by `tagmask.networks.foreign`, by path; imports nothing of Tagmask, and is the one place where a pickle is opened.
What keeps a file that breaks torch's weights-only reader from doing harm: docs/adr/0013-frozen-backbone.md.

    python foreign_reader.py DESCRIPTOR FOLDER KEY      the file, open for reading; where to write; "" or a key

Leaves with 0 and FOLDER/tensors.safetensors, or with one of REFUSED, TOO_LARGE, DAMAGED and FOLDER/verdict.txt.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import zipfile
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["DAMAGED", "REFUSED", "TENSORS", "TOO_LARGE", "VERDICT"]

REFUSED, TOO_LARGE, DAMAGED = 101, 102, 103
TENSORS, VERDICT = "tensors.safetensors", "verdict.txt"
MEBI = 2**20
_NEW_USER, _NEW_NETWORK, _NO_NEW_PRIVILEGES = 0x10000000, 0x40000000, 38  # of <sched.h> and <sys/prctl.h>


class _Refusal(Exception):
    """Why a file is not taken: exit code and words."""


def main(descriptor: int, folder: Path, key: str) -> None:
    """Confine this process, then read the file."""
    leave_the_network()
    verdict = os.open(folder / VERDICT, os.O_WRONLY | os.O_CREAT, 0o600)
    path, size = f"/dev/fd/{descriptor}", os.fstat(descriptor).st_size
    confine(folder, size, verdict)
    try:
        convert(path, size, folder / TENSORS, key)
    except _Refusal as error:
        leave(verdict, *error.args)
    except MemoryError:
        leave(verdict, TOO_LARGE, "needs more memory than a file of its size may")
    except Exception as error:  # whatever it is, the file is not taken
        leave(verdict, *explained(error))


def leave(verdict: int, code: int, what: str) -> NoReturn:
    """End this process, at once and from anywhere."""
    os.write(verdict, what.encode(errors="replace")[:2000])
    os._exit(code)


def explained(error: Exception) -> tuple[int, str]:
    """Give the exit code and the words for what torch said, without its advice to trust the file."""
    lines = str(error).splitlines() or [""]
    if type(error).__name__ == "UnpicklingError":
        reason = next((line for line in lines if "GLOBAL" in line or "Unpickler error" in line), lines[0])
        return REFUSED, f"holds more than tensors ({reason.partition('. ')[0].strip(' .')})"
    if "allocate memory" in str(error):
        return TOO_LARGE, "needs more memory than a file of its size may"
    return DAMAGED, f"cannot be read ({type(error).__name__}: {lines[0]})"


def leave_the_network() -> bool:
    """Move to a network without connections, before any thread starts; False: the system lets no process do so."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return bool(libc.unshare(_NEW_USER | _NEW_NETWORK) == 0)


def confine(folder: Path, size: int, verdict: int) -> None:
    """Take from this process, for good, all that reading a file of `size` bytes does not need.

    Limits of memory, time, output and processes; and every act that the interpreter announces (`sys.addaudithook`)
    but those that were seen while a file of our own was read: opening files for reading, chiefly.
    """
    seen: set[str] = set()
    rehearsing = True

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if rehearsing:
            seen.add(event)
        elif event not in seen or (event == "open" and not _reads(*arguments[1:])):
            leave(verdict, REFUSED, f"tried what no file of weights does ({event})")

    import torch

    path = folder / "rehearsal.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    for rehearsal in range(2):
        if rehearsal:  # the first one imported what it takes
            _limit(size)
            sys.addaudithook(guard)
        convert(str(path), path.stat().st_size, folder / "rehearsal.safetensors", "")
    rehearsing = False


def _reads(mode: str | None, flags: int) -> bool:
    return flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND) == 0


def _limit(size: int) -> None:
    in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_AS: in_use + 3 * size + 512 * MEBI,  # mapped, copied where it must be, written
        resource.RLIMIT_CPU: 60 + size // (4 * MEBI),
        resource.RLIMIT_FSIZE: size + 16 * MEBI,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in limits.items():
        hard = resource.getrlimit(what)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (allowed, allowed))


def convert(path: str, size: int, out: Path, key: str) -> None:
    """Read a .pt file of `size` bytes and write its tensors."""
    import torch
    from safetensors.torch import save_file

    check_archive(path, size)
    # Mapped, not read: tensors are written from where they lie.
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    save_file(flat(state, key, size), out)


def check_archive(path: str, size: int) -> None:
    """Refuse a zip archive that torch.save does not write: packed or overlapping members could unfold to anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _Refusal(DAMAGED, f"is not a whole zip archive ({error})") from None
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise _Refusal(
                REFUSED, f"holds a packed member of {member.file_size:,} bytes, which torch.save never writes"
            )
    if sum(member.file_size for member in members) > size:
        raise _Refusal(REFUSED, "holds members that overlap")
    pickles = [member for member in members if member.filename.endswith("data.pkl")]
    if len(pickles) != 1 or pickles[0].file_size > 16 * MEBI:
        raise _Refusal(REFUSED, "has not one table of tensors of at most 16 MiB, as torch.save writes")


def flat(state: Any, key: str, size: int) -> dict[str, Any]:
    """Give a table of dense tensors, names to tensors, and refuse everything else.

    Parameters
    ----------
    state
        What the file holds.
    key
        Where in it the table lies; "" where it is the table.
    size
        Bytes of the file. Tensors that take more do not lie in it.
    """
    import torch

    if key:
        if not isinstance(state, dict) or key not in state:
            raise _Refusal(DAMAGED, f"has no {key!r}{_names(state)}")
        state = state[key]
    if not isinstance(state, dict) or not state:
        raise _Refusal(DAMAGED, f"holds a {type(state).__name__} where a table of tensors is needed")
    found = {}
    for name, value in state.items():
        if isinstance(value, dict):
            raise _Refusal(DAMAGED, f"holds tables within a table{_names(state)}. Say which with --key")
        kind = type(value).__name__
        if not isinstance(name, str) or type(value) not in (torch.Tensor, torch.nn.Parameter):
            raise _Refusal(
                DAMAGED, f"holds {name!r}, a {kind}, where a tensor with a name is needed{_names(state)}"
            )
        if (
            value.layout != torch.strided
            or value.is_quantized
            or value.is_complex()
            or value.device.type != "cpu"
        ):
            raise _Refusal(DAMAGED, f"holds the tensor {name!r}, which is not dense and of real numbers")
        found[name] = value.detach()
    if sum(value.numel() * value.element_size() for value in found.values()) > size:
        raise _Refusal(REFUSED, "holds tensors that are larger together than the file")
    # A part of a larger tensor is copied: safetensors refuses memory that two tensors share.
    whole = torch.contiguous_format
    return {
        name: value.clone(memory_format=whole) if _is_part(value) else value for name, value in found.items()
    }


def _is_part(value: Any) -> bool:
    bytes_held: int = value.untyped_storage().nbytes()
    return not value.is_contiguous() or bytes_held != value.numel() * value.element_size()


def _names(state: Any) -> str:
    """Say what a table holds, shortly."""
    if not isinstance(state, dict):
        return ""
    names = [str(name)[:40] for name in list(state)[:6]]
    return f"; it holds {', '.join(names)}{', ...' if len(state) > 6 else ''}"


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
