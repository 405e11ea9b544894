from __future__ import annotations

from pathlib import Path

from tagmask.data.table import read_table
from tagmask.data.texts import text_doubts


def doubts(folder: Path, texts: dict[str, list[str]], header: str = "id,image,label,text") -> list[str]:
    """Write a table for each split and give what is doubted."""
    for split, said in texts.items():
        lines = [f"{split}{i},{split}{i}.png,1,{text}" for i, text in enumerate(said)]
        (folder / split).mkdir(parents=True, exist_ok=True)
        (folder / split / "labels.csv").write_text("\n".join([header, *lines]) + "\n")
    return [problem.what for problem in text_doubts(read_table(folder))]


def test_texts_that_are_as_they_should_be(tmp_path: Path) -> None:
    assert doubts(tmp_path, {"train": ["one", "two", ""], "val": ["one"], "test": ["", "three"]}) == []


def test_no_text_at_all_is_no_matter_unless_there_is_a_column(tmp_path: Path) -> None:
    empty = {"train": ["", ""], "val": [""]}
    assert doubts(tmp_path / "a", empty) == ["The column text is empty in all rows."]
    assert doubts(tmp_path / "b", empty, "id,image,label,other") == []


def test_one_text_for_all(tmp_path: Path) -> None:
    (found,) = doubts(tmp_path / "a", {"train": ["so", "so", ""], "val": ["so"]})
    assert found == "All pictures that have a text have the same ('so')."
    assert doubts(tmp_path / "b", {"train": ["alone"]}) == []


def test_a_split_without(tmp_path: Path) -> None:
    (found,) = doubts(tmp_path, {"train": ["one", "two"], "val": ["one"], "test": ["", ""]})
    assert found == "The split test has no texts, but others have."
