"""A published denoiser -> a weights file of ours, which `FeatureSettings` and a run can name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tagmask.config import build, override, plain, read_toml
from tagmask.diffusion.schedule import ScheduleSettings
from tagmask.errors import ConfigError, InputError
from tagmask.io import sha256
from tagmask.networks import weights
from tagmask.networks.adm_checkpoint import PUBLISHED, adm_to_denoiser
from tagmask.networks.denoiser import DenoiserSettings
from tagmask.networks.foreign import read_published

__all__ = ["Imported", "import_weights"]


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Parameters
    ----------
    out
        The weights file.
    settings
        The network's.
    parameters
        Their number.
    sha256
        Of the file.
    """

    out: Path
    settings: DenoiserSettings
    parameters: int
    sha256: str

    def __str__(self) -> str:
        return f"imported {self.parameters:,} parameters -> {self.out}\nsha256 {self.sha256}"


def import_weights(
    file: Path | str,
    out: Path | str,
    *,
    settings: DenoiserSettings | Path | str = "imagenet-256",
    overrides: Sequence[str] = (),
    key: str | None = None,
    new_attention_order: bool = False,
    overwrite: bool = False,
) -> Imported:
    """Turn a published ADM U-Net (guided-diffusion and its descendants) into a denoiser's weights file.

    A .pt file is opened in a confined process of its own, and only as a table of tensors; there is no other way
    in. Every tensor must belong to a layer and every layer have its tensors, or nothing is written.

    Parameters
    ----------
    file
        A .pt or safetensors file, told by its content.
    out
        The safetensors file to be.
    settings
        Shape of the network: a name of `tagmask.networks.adm_checkpoint.PUBLISHED`, a TOML file that holds the
        settings or has them as its table [denoiser], or the record itself.
    overrides
        `a=b` assignments on top.
    key
        Where in a .pt file the tensors lie, as "model" or "state_dict"; None: the file is the table.
    new_attention_order
        The checkpoint's `use_new_attention_order`.
    overwrite
        Whether a file that is there may be replaced.

    Returns
    -------
    Imported
        What was written.

    Raises
    ------
    ConfigError
        Settings that make no network, or no published one.
    InputError
        `out` is taken, or is the input.
    RunError
        The file is missing, damaged, nested, or its tensors are not those of the settings; the message names
        the first that is missing, unknown, of another shape, or not finite.
    SecurityError, ResourceError
        It is more than tensors, or asks for more than its size explains.
    """
    file, out = Path(file), Path(out)
    shape = _settings(settings, overrides)
    if out.exists() and not overwrite:
        raise InputError("is there already.", where=out, repair="Give another file, or --overwrite.")
    if out.exists() and file.exists() and out.samefile(file):
        raise InputError("is the file to be imported.", where=out, repair="Give another file.")
    out.parent.mkdir(parents=True, exist_ok=True)
    state = read_published(file, scratch=out.parent, key=key)
    denoiser = adm_to_denoiser(state, shape, new_attention_order=new_attention_order)
    del state
    record: dict[str, Any] = {"imported": file.name, "imported_sha256": sha256(file)}
    if str(settings) in PUBLISHED:
        record[weights.SCHEDULE] = plain(ScheduleSettings())  # all of them: linear, 1,000 steps
    weights.save(out, denoiser, record)
    parameters = sum(p.numel() for p in denoiser.parameters())
    return Imported(out, shape, parameters, sha256(out))


def _settings(given: DenoiserSettings | Path | str, overrides: Sequence[str]) -> DenoiserSettings:
    """Settle the network's shape."""
    where: object = "--settings"
    if isinstance(given, DenoiserSettings):
        table = plain(given)
    elif str(given) in PUBLISHED:
        table = plain(PUBLISHED[str(given)])
    elif Path(given).suffix == ".toml":
        where, table = given, read_toml(Path(given))
        inner = table.get("denoiser")
        table = inner if isinstance(inner, dict) else table
    else:
        raise ConfigError(
            f"{str(given)!r} is neither a published network nor a .toml file.",
            where=where,
            repair=f"Known networks: {', '.join(PUBLISHED)}.",
        )
    return build(DenoiserSettings, override(table, overrides), where=where)
