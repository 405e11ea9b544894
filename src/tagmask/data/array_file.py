"""A .npy file that is written row by row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["ArrayFile"]


class ArrayFile:
    """A .npy file that grows by rows, so that nothing but the rows at hand is in memory.

    Parameters
    ----------
    path
        A new file.
    dtype
        Of the rows.
    """

    def __init__(self, path: Path, dtype: Any) -> None:
        self._file = path.open("xb")
        self._dtype = np.dtype(dtype)
        self._tail: tuple[int, ...] = ()
        self.rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, ...), all of one shape."""
        if not self.rows:
            self._tail = rows.shape[1:]
            self._header()
        if rows.shape[1:] != self._tail:
            raise ValueError(f"Expected rows of shape {self._tail}, got {rows.shape[1:]}.")
        self._file.write(np.ascontiguousarray(rows, dtype=self._dtype).data)
        self.rows += len(rows)

    def close(self) -> None:
        """Write the number of rows into the header and flush to the disk."""
        if self._file.closed:
            return
        with self._file:
            self._file.seek(0)
            self._header()
            self._file.flush()
            os.fsync(self._file.fileno())

    def _header(self) -> None:
        # NumPy leaves room for the first axis to grow, so the header keeps its length.
        descr = np.lib.format.dtype_to_descr(self._dtype)
        fields = {"descr": descr, "fortran_order": False, "shape": (self.rows, *self._tail)}
        np.lib.format.write_array_header_1_0(self._file, fields)
