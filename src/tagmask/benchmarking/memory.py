"""The largest memory that a piece of work took, and how that was found out."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["PeakMemory"]

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class PeakMemory:
    """Largest resident memory of this process, and of its tensors on a GPU, from here on.

    Parameters
    ----------
    device
        Where the work is done.

    Examples
    --------
    >>> peak = PeakMemory("cpu")
    >>> peak.record()["peak_memory_bytes"] > 1_000_000
    True
    """

    def __init__(self, device: str) -> None:
        self.device, self.cuda, self.since_here = device, device.startswith("cuda"), True
        try:
            _CLEAR.write_text("5")  # sets VmHWM back to what is resident now
        except OSError:
            self.since_here = False
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(device)

    def record(self) -> dict[str, Any]:
        """Give bytes, of the GPU too where one was used, and how they were measured."""
        how = "during the cell (VmHWM)" if self.since_here else "since it began (ru_maxrss)"
        found: dict[str, Any] = {
            "peak_memory_bytes": self._resident(),
            "memory_measured": f"largest resident memory of the process {how}",
        }
        if self.cuda:
            found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return found

    def _resident(self) -> int:
        if self.since_here:
            line = next(n for n in _STATUS.read_text().splitlines() if n.startswith("VmHWM"))
            return int(line.split()[1]) * 1024
        # kilobytes on Linux, bytes on macOS
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
