"""commands.txt is read whatever became of it."""

from __future__ import annotations

from pathlib import Path

from tagmask.io import commands_of, note_command
from tagmask.io.commands import COMMANDS


def test_a_damaged_letter_hides_no_command(tmp_path: Path) -> None:
    (tmp_path / COMMANDS).write_bytes(b"tagmask prepare caf\xe9\ntagmask train a.toml\n")
    assert commands_of(tmp_path) == ["tagmask prepare caf\ufffd", "tagmask train a.toml"]
    note_command(tmp_path)
    assert commands_of(tmp_path)[:2] == ["tagmask prepare caf\ufffd", "tagmask train a.toml"]
    assert commands_of(tmp_path / "nowhere") == []
