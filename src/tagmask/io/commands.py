"""commands.txt: the commands that made a folder, so that whoever finds it can make it again."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

from tagmask.io.atomic import write_text

__all__ = ["COMMANDS", "command_line", "commands_of", "note_command"]

COMMANDS = "commands.txt"


def command_line(argv: Sequence[str] | None = None) -> str:
    """Write a command, by default that of this process, as one would type it.

    Examples
    --------
    >>> command_line(["/opt/bin/tagmask", "train", "my run.toml"])
    "tagmask train 'my run.toml'"
    """
    program, *rest = sys.argv if argv is None else argv
    if PurePath(program).name in ("tagmask", "__main__.py"):
        program = "tagmask"
    return shlex.join([program, *rest])


def commands_of(folder: Path) -> list[str]:
    """Read the commands that made a folder, in their order; none where it does not say. Damaged letters are marked."""
    path = folder / COMMANDS
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def note_command(folder: Path, before: Iterable[str] = ()) -> None:
    """Write into FOLDER/commands.txt that this process works on it, each command once.

    Parameters
    ----------
    before
        The commands that made what it works from.
    """
    lines = dict.fromkeys([*before, *commands_of(folder), command_line()])
    write_text(folder / COMMANDS, "\n".join(lines) + "\n")
