"""What an earlier job left in a folder of results is removed, and nothing else."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from tagmask.data.table import Case
from tagmask.io.atomic import atomic_write, temporaries
from tagmask.segmenting.cases import clear

KILLED = ".0123456789abcdef.tmp.png"


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def manifest(out: Path, *cases: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "manifest.json").write_text(json.dumps({"inputs": {case: [] for case in cases}}))


def left(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} - {"manifest.json"}


def test_results_of_an_earlier_job_go(tmp_path: Path) -> None:
    manifest(tmp_path, "a", "../b", "..")
    for name in ("masks/a.png", "scores/a.tif", "slices.csv", "masks/mine.png", "b.png"):
        write(tmp_path / name)
    clear(tmp_path, {"x": [Case("x", "x", (tmp_path / "scores/a.tif",))]})
    assert left(tmp_path) == {"masks/mine.png", "b.png", "scores/a.tif"}, "and no input"


@pytest.mark.parametrize("name", ["n" * 251, "a\0b", "\ud800"])
def test_names_that_no_file_can_have_are_passed_over(name: str, tmp_path: Path) -> None:
    """A picture whose mask had too long a name failed; its folder can be used again all the same."""
    manifest(tmp_path, name, "a")
    write(tmp_path / "masks/a.png")
    clear(tmp_path, {})
    assert left(tmp_path) == set()


def test_another_fault_of_the_disk_is_told(tmp_path: Path) -> None:
    manifest(tmp_path, "a")
    (tmp_path / "masks/a.png").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        clear(tmp_path, {})
    assert caught.value.errno in (errno.EISDIR, errno.EPERM)


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", "{", '{"inputs": "a"}'])
def test_a_damaged_manifest_names_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    write(tmp_path / "masks/a.png")
    clear(tmp_path, {})
    assert left(tmp_path) == {"masks/a.png"}


def test_what_a_killed_job_had_not_finished_goes(tmp_path: Path) -> None:
    mine = {
        *("masks/.tmp.png", "masks/.0123456789abcde.tmp.png", "masks/.0123456789abcdeg.tmp.png"),
        *("masks/0123456789abcdef.tmp.png", "masks/.0123456789abcdef.tmp.png.bak", "other/" + KILLED),
    }
    for folder in ("masks", "scores", "uncertainty"):
        with atomic_write(tmp_path / folder / "a.nii.gz") as temporary:
            assert temporaries(temporary.parent) == [temporary]
            write(tmp_path / folder / KILLED)
    for name in mine:
        write(tmp_path / name)
    (tmp_path / "masks/.0123456789abcdef.tmp").mkdir()
    outside = write(tmp_path.parent / f"{tmp_path.name}-outside.png")
    os.symlink(outside, tmp_path / "masks/.fedcba9876543210.tmp.png")
    clear(tmp_path, {})
    assert left(tmp_path) == mine | {f"{folder}/a.nii.gz" for folder in ("masks", "scores", "uncertainty")}
    assert outside.is_file(), "a link is removed, not what it leads to"
