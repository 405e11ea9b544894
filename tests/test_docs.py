"""The pages: every link leads somewhere, every experiment that is named is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_EXPERIMENT = re.compile(r"\bexperiments/[\w./-]+\.toml")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchor(heading: str) -> str:
    """Name a heading as the pages' hosts do: words in lower case, joined by dashes."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in _LINK.findall(text):
        if link.startswith(("http", "mailto:")):
            continue
        target, _, part = link.partition("#")
        file = page if not target else (page.parent / target).resolve()
        assert file.exists(), f"{link} leads nowhere"
        if part and file.suffix == ".md":
            headings = _HEADING.findall(file.read_text(encoding="utf-8"))
            assert part in {anchor(heading) for heading in headings}, f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_experiments_that_are_named_are_there(page: Path) -> None:
    for name in _EXPERIMENT.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), f"{name} is not there"
