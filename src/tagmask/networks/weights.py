"""Networks in and out of safetensors files. Nothing is unpickled, nothing is repaired in silence.

A file holds the tensors and, in its header, the kind of the network, its settings, the version that
wrote it and whatever the caller adds. So a file is a network by itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from tagmask import __version__
from tagmask.config import build, plain
from tagmask.diffusion.schedule import NoiseSchedule, ScheduleSettings
from tagmask.errors import ConfigError, RunError, SecurityError
from tagmask.io import sha256
from tagmask.networks.adm_checkpoint import adm_to_classifier, adm_to_denoiser, fill
from tagmask.networks.checkpoints import write_tensors
from tagmask.networks.classifier import Classifier
from tagmask.networks.cnn import CNN
from tagmask.networks.denoiser import Denoiser
from tagmask.networks.features import FeatureSettings, FrozenFeatures
from tagmask.networks.kinds import NETWORKS
from tagmask.networks.learnt import Learnt

__all__ = [
    "LEARNT",
    "SCHEDULE",
    "adm_to_classifier",
    "adm_to_denoiser",
    "check_schedule",
    "load",
    "load_features",
    "read_metadata",
    "read_tensors",
    "save",
]

SCHEDULE, LEARNT = "schedule", "learnt"
"""Keys of the metadata of denoisers: `ScheduleSettings` and `Learnt`, as plain tables."""
_PICKLED = {b"PK\x03\x04": "a zip archive, as torch.save writes", b"\x80": "a pickle"}
_CONVERT = "Use tagmask import-weights (for a published denoiser), or safetensors made where it is trusted."


def save(
    path: Path, module: nn.Module, metadata: dict[str, Any], *, dtype: torch.dtype = torch.float32
) -> None:
    """Write a network whole or not at all.

    Parameters
    ----------
    path
        The safetensors file to be.
    module
        A network of `tagmask.networks.kinds`.
    metadata
        JSON values to keep beside the weights: steps trained, fingerprint of the data.
    dtype
        Of the floats on disk. float16 halves the file; `load` gives float32 in any case.

    Raises
    ------
    RunError
        If a weight is not finite, in this dtype.
    ResourceError, InputError
        The disk is full, or the place cannot be written to.
    """
    kind = next((name for name, kind in NETWORKS.items() if isinstance(module, kind.module)), None)
    if kind is None:
        raise TypeError(f"weights of a {type(module).__name__} have no kind; known: {', '.join(NETWORKS)}")
    tensors = {}
    for name, tensor in module.state_dict().items():
        stored = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        # A copy: safetensors refuses memory that two tensors share.
        tensors[name] = stored.clone(memory_format=torch.contiguous_format)
        if not tensors[name].isfinite().all():
            raise RunError(
                f"the tensor {name} of the {kind} is not finite, so nothing was written.",
                where=path,
                repair="Train with a lower learning rate, or store as float32.",
            )
    header = {
        "kind": kind,
        "version": __version__,
        "settings": plain(module.settings),
        "metadata": metadata,
    }
    # One key, since the library writes several in an order that changes: same network, same bytes.
    write_tensors(Path(path), tensors, {"tagmask": json.dumps(header)})


@overload
def load(path: Path, kind: Literal["denoiser"]) -> Denoiser: ...
@overload
def load(path: Path, kind: Literal["classifier"]) -> Classifier: ...
@overload
def load(path: Path, kind: Literal["cnn"]) -> CNN: ...
@overload
def load(path: Path, kind: str) -> nn.Module: ...
def load(path: Path, kind: str) -> nn.Module:
    """Read a network written by `save`, onto the CPU, as float32, in evaluation mode.

    Parameters
    ----------
    path
        A safetensors file.
    kind
        What it must be: a name of `NETWORKS`.

    Raises
    ------
    RunError
        If the file is missing, damaged, of another kind, or its tensors are not exactly those of the
        network that its settings describe, all finite.
    SecurityError
        If the file is a pickle.
    """
    tensors, text = _read(Path(path))
    header = _header(text, path)
    if header["kind"] != kind:
        raise RunError(
            f"holds a {header['kind']}, but a {kind} is needed.", where=path, repair="Give the other file."
        )
    try:
        settings = build(NETWORKS[kind].settings, header["settings"], where=path)
        if _layers(settings) > len(tensors):
            raise ConfigError("settings name more layers than there are tensors.")
        with torch.device("meta"):
            module: nn.Module = NETWORKS[kind].module(settings)
    except (ConfigError, RuntimeError, OverflowError, TypeError) as error:
        what = error.what if isinstance(error, ConfigError) else str(error)
        raise RunError(
            f"describes a network that cannot be built: {what}", where=path, repair="Copy the file again."
        ) from None
    fill(module, tensors, where=path)
    return module.eval()


def load_features(
    settings: FeatureSettings, schedule: NoiseSchedule, known: str | None = None
) -> FrozenFeatures:
    """Read a denoiser as a fixed function from pictures to features.

    Parameters
    ----------
    settings, schedule
        As of `FrozenFeatures`.
    known
        SHA-256 that the file must have; None takes any.

    Raises
    ------
    RunError, SecurityError
        As `load`, or the file is another one than `known` says.
    ConfigError
        Blocks, steps or label that this denoiser and schedule do not have, or a denoiser that was trained with another
        schedule or noise, or never without a label where none is given. Files of earlier versions do not say.
    """
    try:
        found = sha256(settings.weights)
    except OSError as error:
        raise _unreadable(settings.weights, error) from None
    if known not in (None, found):
        raise RunError(
            f"is another file than the features were learnt on: its SHA-256 is {found}, not {known}.",
            where=settings.weights,
            repair="Give the denoiser of that training, or train again on this one.",
        )
    denoiser = load(settings.weights, "denoiser").requires_grad_(False)
    _check_training(settings, schedule)
    # channels_last: some 1.1 to 1.3 times faster on a CPU, and what a GPU's tensor cores want.
    denoiser.unet.to(memory_format=torch.channels_last)
    return FrozenFeatures(denoiser, settings, schedule, found)


def _check_training(settings: FeatureSettings, schedule: NoiseSchedule) -> None:
    """Refuse features of a denoiser at noise, or with a label, that its training has not shown it."""
    check_schedule(settings.weights, schedule)
    record = read_metadata(settings.weights)["metadata"]
    if LEARNT in record:
        learnt = build(Learnt, record[LEARNT], where=settings.weights)
        learnt.check("a feature extractor", only_tag=learnt.only_tag, where=settings.weights)
        if settings.label is None and not learnt.null:
            raise ConfigError(
                "cannot give these features: its tag was never hidden from it, and no label is given.",
                where=settings.weights,
                repair="Name a class that it knows: features.label = 0. Or train one with label dropout.",
            )


def check_schedule(path: Path, schedule: NoiseSchedule) -> None:
    """Refuse a denoiser that was trained with other noise than it is to be asked about, where its file says so.

    Raises
    ------
    ConfigError
        Another schedule.
    """
    record = read_metadata(path)["metadata"]
    if SCHEDULE not in record:
        return
    own = build(ScheduleSettings, record[SCHEDULE], where=path)
    if not torch.equal(own.build().alpha_bar, schedule.alpha_bar):
        raise ConfigError(
            f"was trained with a {own.kind} schedule of {own.steps} steps, but is asked for with another one.",
            where=path,
            repair=f'Set schedule.kind = "{own.kind}" and schedule.steps = {own.steps}.',
        )


def _layers(settings: Any) -> int:
    """Count the layers that settings name at least, before any is built."""
    blocks = getattr(settings, "blocks", 0)  # of each level, or one number for all
    if isinstance(blocks, int):
        blocks = (blocks,) * len(getattr(settings, "widths", ()))
    others = (getattr(settings, name, 0) for name in ("layers", "members", "depths"))
    return max(sum(blocks), *(sum(n) if isinstance(n, tuple) else n for n in others))


def read_metadata(path: Path) -> dict[str, Any]:
    """Give kind, version, settings and metadata of a file written by `save`, without its weights.

    Raises
    ------
    RunError, SecurityError
        As `load`.
    """
    return _header(_read(Path(path), tensors=False)[1], path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of any safetensors file, for `adm_to_denoiser` and `adm_to_classifier`.

    Raises
    ------
    RunError, SecurityError
        If the file is missing, damaged, or a pickle.
    """
    return _read(Path(path))[0]


def _unreadable(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot be read: {error.strerror}.", where=path, repair="Check the path.")


def _read(path: Path, *, tensors: bool = True) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read tensors and header; the library checks every length against the file's."""
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise _unreadable(path, error) from None
    for magic, what in _PICKLED.items():
        # A safetensors file is 8 bytes of length, any bytes, and then a brace.
        if start.startswith(magic) and start[8:] != b"{":
            raise SecurityError(
                f"is {what}: opening it would run its code, so it is not opened.", where=path, repair=_CONVERT
            )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys() if tensors else ()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise RunError(
            f"is not a whole safetensors file ({error}).", where=path, repair="Copy it again, or train again."
        ) from None


def _header(text: dict[str, str], path: Path) -> dict[str, Any]:
    """Take apart what `save` put into the header."""
    if "tagmask" not in text:
        raise RunError(
            "was not written by tagmask.",
            where=path,
            repair="Import published weights with tagmask import-weights.",
        )
    try:
        header = json.loads(text["tagmask"])
    except (ValueError, RecursionError):
        header = None
    kinds = {"kind": str, "version": str, "settings": dict, "metadata": dict}
    if not isinstance(header, dict) or any(not isinstance(header.get(k), kind) for k, kind in kinds.items()):
        raise RunError("has a header that cannot be read.", where=path, repair="Copy the file again.")
    return header
