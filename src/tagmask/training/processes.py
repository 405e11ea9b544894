"""The processes that train together."""

from __future__ import annotations

import logging

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from tagmask.errors import ConfigError
from tagmask.machine import bf16_is_fast, device_of
from tagmask.train_settings import TrainSettings

__all__ = ["processes"]

log = logging.getLogger(__name__)


def processes(settings: TrainSettings, device: str = "auto") -> Accelerator:
    """Join the processes that train together, at the settings' precision.

    Parameters
    ----------
    device
        "auto" or "cpu".

    Raises
    ------
    ConfigError
        fp16 without a GPU.
    """
    cpu, before = device == "cpu", PartialState._shared_state
    # Singletons, which would remember the precision of the network before, and its device.
    wanted = cpu or device_of("auto") == "cpu"
    moved = bool(before) and before["num_processes"] == 1 and (before["device"].type == "cpu") != wanted
    AcceleratorState._reset_state(reset_partial_state=moved)
    precision = "no" if settings.precision == "fp32" else settings.precision
    if precision == "fp16" and (cpu or not torch.cuda.is_available()):
        why = "the CPU is to be used" if cpu else "there is no GPU here"
        raise ConfigError(f'precision = "fp16", but {why}.', where="[train]", repair='Use "bf16" or "fp32".')
    accelerator = Accelerator(mixed_precision=precision, cpu=cpu)
    if precision == "bf16" and accelerator.device.type == "cpu" and not bf16_is_fast():
        log.warning('This CPU emulates bf16, so that precision = "fp32" trains faster here.')
    return accelerator
