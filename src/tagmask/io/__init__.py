"""Files in and out: NIfTI, DICOM, PNG, JPEG, TIFF.

Readers trust nothing: a file is told by its content, sizes are checked before anything is allocated, and
whatever cannot be read as it is raises an error of :mod:`tagmask.errors`. Writers are atomic. Nothing is ever
unpickled.
"""

from __future__ import annotations

from tagmask.io.atomic import atomic_write, write_bytes, write_csv, write_json, write_text
from tagmask.io.commands import command_line, commands_of, note_command
from tagmask.io.folders import PathLike, case_files, each_path, stem
from tagmask.io.guards import check_grid, same_grid
from tagmask.io.hashing import sha256
from tagmask.io.lock import alone_in, refuse_foreign
from tagmask.io.outputs import write_mask, write_scores
from tagmask.io.pictures import write_png
from tagmask.io.studies import (
    Mask,
    StudyHeader,
    mask_labels,
    read_header,
    read_mask,
    read_scores,
    read_study,
)

__all__ = [
    "Mask",
    "PathLike",
    "StudyHeader",
    "alone_in",
    "atomic_write",
    "case_files",
    "check_grid",
    "command_line",
    "commands_of",
    "each_path",
    "mask_labels",
    "note_command",
    "read_header",
    "read_mask",
    "read_scores",
    "read_study",
    "refuse_foreign",
    "same_grid",
    "sha256",
    "stem",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_mask",
    "write_png",
    "write_scores",
    "write_text",
]
