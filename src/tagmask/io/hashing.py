"""What a file is, whatever it is called: its SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

__all__ = ["sha256"]


def sha256(path: Path) -> str:
    """Hash a file, or the names and contents of a folder's files, piece by piece.

    Returns
    -------
    str
        64 hex digits.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        lines = "".join(f"{sha256(p)} {p.name}\n" for p in files)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
