"""One file that says what the evaluations say, escapes what it is given, and asks nobody for anything."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tagmask.errors import InputError
from tagmask.jobs.report import report
from tagmask.reporting.evaluation import read_evaluation
from tagmask.reporting.pictures import side_by_side
from tagmask.scoring.panel_slices import Kind, PanelSlice
from tagmask.scoring.panels import Panel, write_panels
from tagmask.scoring.score_histogram import ScoreHistogram

HOSTILE = "<script>alert(1)</script>\"'&é"
Make = Callable[..., Path]


def number(value: float | None, n: int = 2) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return {"value": value, "low": low, "high": high, "n": n, "excluded": 1, "penalised": 0}


def row(
    key: str, title: str, reads: str, positives: float, mixed: float, ap: float | None = None
) -> dict[str, Any]:
    def cells(dice: float) -> dict[str, Any]:
        numbers = {"dice": number(dice), "hd95": number(4.25), "auprc": number(ap)}
        return {"image": numbers, "patient": {"dice": number(dice)}, "pooled": {"auprc": number(ap)}}

    return {
        "row": key,
        "title": title,
        "reads": reads,
        "chosen": None,
        "positives": cells(positives),
        "mixed": cells(mixed),
    }


def write_lines(path: Path, lines: list[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def slices(count: int, names: list[str]) -> list[dict[str, object]]:
    return [
        {
            "row": r,
            "case": names[n % len(names)] if n < len(names) else f"case{n}",
            "slice": n % 5,
            "patient": n // 3,
            "positive": n % 2,
            "pixels": 900,
            "truth_pixels": 10 * n * (n % 2),
            "mask_pixels": 7 * n,
            "dice": n / count,
            "iou": 0.1,
            "hd95": "" if n % 3 else 2.5,
            "ap": 0.5,
        }
        for r in ("method", "all_empty")
        for n in range(count)
    ]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an evaluation with its segmentation; every text that a person chooses is hostile."""

    def evaluation(
        name: str = "eval",
        *,
        count: int = 12,
        cases: int = 4,
        side: int = 32,
        title: str = "CDM",
        kinds: tuple[Kind, ...] = ("best", "median", "worst", "negative"),
    ) -> Path:
        folder, results, run = tmp_path / name, tmp_path / f"{name}-seg", tmp_path / f"{name}-run"
        for path in (folder, results, run):
            path.mkdir()
        rng = np.random.default_rng(0)
        chosen = [PanelSlice(kinds[n % len(kinds)], f"{HOSTILE}{n}", n, 0.5, 9, 8) for n in range(cases)]
        truth = np.zeros((side, side), bool)
        truth[3:9, 4:9] = True
        write_panels(
            folder / "panels.npz",
            [
                Panel(
                    c,
                    rng.integers(0, 255, (side, side, 3), np.uint8),
                    truth,
                    ~truth,
                    rng.normal(size=(side, side)).astype(np.float32),
                )
                for c in chosen
            ],
        )
        write_lines(folder / "per_slice.csv", slices(count, [HOSTILE, "plain"]))
        curve = [
            {"row": "method", "subset": "positives", "recall": x, "precision": 1 - x} for x in (0, 0.5, 1)
        ]
        write_lines(folder / "pr_curve.csv", curve)  # type: ignore[arg-type]
        histogram = ScoreHistogram()
        histogram.add(rng.normal(size=500), rng.random(500) < 0.2)
        histogram.write(folder / "histogram.csv")
        write_lines(results / "slices.csv", [{"case": f"{HOSTILE}0", "slice": 7, "threshold": 0.125}])
        manifest = {
            "created": "2026-01-02T03:04:05+00:00",
            "method": "cdm",
            "seed": 3,
            "run": str(run),
            "commands": ["tagmask prepare t.csv -o p", "tagmask train 'a b.toml'"],
            "seconds": 61.0,
            "settings": {"method": {"tau": 0.95, HOSTILE: HOSTILE}, "mask": {"intensity": 2.0}},
            "weights": {"denoiser": "abc123"},
            "cases": [{"case": HOSTILE, "error": HOSTILE, "seconds": 0.5}],
            "environment": {"versions": {"torch": "9.8.7"}, "command": ["/bin/tagmask", "segment", HOSTILE]},
        }
        (results / "manifest.json").write_text(json.dumps(manifest))
        summary = {
            "format": "tagmask-evaluation",
            "version": 1,
            "results": str(results),
            "truth": HOSTILE,
            "patients": 5,
            "settings": {"empty_hd": "exclude", "min_area_frac": 0.05},
            "cases": {
                "matched": 9,
                "missing": [HOSTILE],
                "extra": [],
                "failed": [{"case": "c", "problem": HOSTILE}],
            },
            "slices": {"evaluated": 12, "positives": 6},
            "warnings": {"tag0_with_mask": 3},
            "notes": [HOSTILE],
            "hd95": {"unit": "mm", "empty": "exclude"},
            "rows": [
                row("method", title, "tags", 0.612, 0.3, 0.777),
                row("all_empty", "all-empty", "nothing", 0, 0.5),
                row("all_foreground_told", "all-foreground, told the tags", "tags of these slices", 0, 0.6),
                row("intensity_val", HOSTILE, "val masks", 0.7, 0.4),
            ],
            "image_level": {
                "against": "tags",
                "n": 12,
                "positives": 6,
                "method": {"auc": 0.91, "score": "classifier"},
                "position": {"auc": 0.87, "fit": "nothing"},
                "detection": [{"row": "method", "sensitivity": 1.0, "false_positive_rate": 0.25}],
            },
        }
        (folder / "summary.json").write_text(json.dumps(summary))
        return folder

    return evaluation


class Page(HTMLParser):
    """What a browser would see: elements, their attributes, and text."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.found if name == tag]

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def bare(folder: Path, panels: bool = False) -> Path:
    """Take away the charts, and the panels: for tests that do not look at them."""
    for name in ("histogram.csv", "pr_curve.csv", "per_slice.csv", *(() if panels else ("panels.npz",))):
        (folder / name).unlink()
    return folder


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_says_what_the_evaluation_says(make: Make, tmp_path: Path) -> None:
    path = report([make()], out=tmp_path / "report.html")
    words = read(path).words
    assert path == tmp_path / "report.html"
    for text in (
        "Research use only. Not a medical device.",
        "CDM",
        "0.612",
        "[0.512, 0.712]",
        "0.777",
        "HD95 (mm)",
        "4.2",
        "1 excluded",
        "val masks",
        "nothing",
        "“exclude”",
        "2026-01-02T03:04:05+00:00",
        "torch 9.8.7",
        "(seed 3)",
        "0.91",
        "position of the slice alone",
        "0.87",
        "tag0 with mask: 3",
        "segment.method.tau",
        "0.95",
        "abc123",
        "mask.intensity = 2",
        "even odds before the picture is looked at",
        "tagmask prepare t.csv -o p",
        "tagmask train 'a b.toml'",
        "tagmask segment",
        f"tagmask report {tmp_path / 'eval'} -o",
        "threshold 0.125",
        "How to read this",
        "less than 5 %",
        "all-empty, reaches 0.00: the method is above it.",
        "reaches 0.70: the method does not beat it.",
        "an always empty mask has 0.50 there, and the tags alone, with whole images for masks, 0.60.",
    ):
        assert text in words, text


def test_hostile_text_stays_text(make: Make, tmp_path: Path) -> None:
    page = read(report([make(title=HOSTILE)], out=tmp_path / "report.html"))
    assert len(page.all("script")) == 1 and not page.open
    assert page.words.count("<script>alert(1)</script>") > 10
    assert not [k for _, attributes in page.found for k in attributes if k.startswith("on")]
    assert any(HOSTILE in image["alt"] for image in page.all("img"))


def test_nothing_is_loaded_from_anywhere(make: Make, tmp_path: Path) -> None:
    text = report([make()], out=tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    for name, attributes in page.found:
        assert name not in ("link", "iframe", "object", "embed", "base", "form", "a")
        for key in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(key, "data:image/png;base64,").startswith("data:image/png;base64,")
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    assert "default-src 'none'" in page.all("meta")[1]["content"]


def test_every_picture_has_words_and_every_column_a_name(make: Make, tmp_path: Path) -> None:
    page = read(report([make()], out=tmp_path / "report.html"))
    pictures = page.all("img")
    # Four panels of four pictures and a scale, and three charts. The scale's ends are written beside it.
    assert len(pictures) == 4 * 5 + 3
    assert sum(not image["alt"] for image in pictures) == 4
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    assert any(t.get("class") == "named sortable" for t in page.all("table"))


def test_several_side_by_side(make: Make, tmp_path: Path) -> None:
    a, b, c = make("one"), make("two", title="CG-CDM"), make("three")
    words = read(report([a, b, c], out=tmp_path / "r.html")).words
    assert "Side by side" in words and "CDM (one)" in words and "CDM (three)" in words and "CG-CDM" in words
    table = words.partition("Side by side")[2].partition("Method")[0]
    assert table.count("all-empty") == 1 and table.count("0.612") == 3


def test_the_same_slices_by_every_method(make: Make, tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("best", "shared")
    a, b = make("one", kinds=kinds, side=256), make("two", title="CG-CDM", kinds=kinds, side=256)
    path = report([a, b], out=tmp_path / "r.html")
    page = read(path)
    of_b = [i["alt"] for i in page.all("img") if "CG-CDM: the " in (i.get("alt") or "")]
    # Two slices of each, small to large as the evaluations have them: a mask with its Dice and a score map.
    assert [alt.removeprefix(HOSTILE) for alt in of_b] == [
        "1, slice 1, CG-CDM: the mask, Dice 0.50", "1, slice 1, CG-CDM: the score map",
        "3, slice 3, CG-CDM: the mask, Dice 0.50", "3, slice 3, CG-CDM: the score map",
    ]  # fmt: skip
    assert page.words.count("The same slices by every method") == 1
    text = path.read_text(encoding="utf-8")
    together = text.partition("The same slices")[2].partition("<section>")[0]
    assert together.count("<figure>") == 2
    one = side_by_side(["A", "B"], [read_evaluation(a), read_evaluation(b)], 400_000)
    assert len(one) <= 400_000 + 2_000 < len(together), "where room is short, every other pixel is shown"
    alone = read(report([a], out=tmp_path / "alone.html")).words
    assert "The same slices" not in alone


def test_different_truths_are_pointed_out(make: Make, tmp_path: Path) -> None:
    a, b = bare(make("one")), bare(make("two"))
    assert "different truths" not in read(report([a, b], out=tmp_path / "same.html")).words
    content = json.loads((b / "summary.json").read_text())
    (b / "summary.json").write_text(json.dumps({**content, "truth": "another"}))
    assert "different truths" in read(report([a, b], out=tmp_path / "other.html")).words


def test_size_is_bounded(make: Make, tmp_path: Path) -> None:
    # Noise in colour at full size is the worst a picture can be.
    large = make("large", count=10_000, cases=4, side=256)
    path = report([large], out=tmp_path / "report.html")
    assert 1e6 < path.stat().st_size < 10e6
    figures = path.read_text(encoding="utf-8").split("<figure>")[1:]
    assert len(figures) == 4 + 3 and max(map(len, figures[:3])) <= 8_000_000 // 12 + 200
    words = read(path).words
    assert "The 2,000 cases with the lowest Dice of 10,000;" in words
    many = [bare(make(f"e{n}", cases=16, side=8), panels=True) for n in range(5)]
    assert len(read(report(many, out=tmp_path / "many.html")).all("figure")) == 5 * 8


def test_an_evaluation_of_bare_masks(make: Make, tmp_path: Path) -> None:
    folder = bare(make())
    content = json.loads((folder / "summary.json").read_text())
    content = {k: content[k] for k in ("format", "version", "rows")}
    content["rows"][0]["positives"]["image"]["dice"] = number(None)
    (folder / "summary.json").write_text(json.dumps(content))
    words = read(report([folder], out=tmp_path / "r.html")).words
    assert "The evaluation kept no pictures." in words and "mean Dice of –" in words
    assert "None: every case was segmented and evaluated." in words


def test_out_may_be_a_folder(make: Make, tmp_path: Path) -> None:
    folder = bare(make())
    assert report([folder], out=tmp_path / "new") == tmp_path / "new" / "report.html"
    assert report([folder], out=folder) == folder / "report.html"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "{",
        '{"format": "tagmask-evaluation", "version": 2, "rows": []}',
        '{"format": "tagmask-evaluation", "version": 1, "rows": []}',
    ],
)
def test_what_is_no_evaluation_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(InputError, match="tagmask evaluate"):
        report([tmp_path], out=tmp_path / "r.html")
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"Evaluate again") as caught:
        report([tmp_path], out=tmp_path / "r.html")
    assert "summary.json" in str(caught.value) and not (tmp_path / "r.html").exists()
    with pytest.raises(InputError, match="nothing to report"):
        report([], out=tmp_path / "r.html")


def test_damaged_tables_are_refused(make: Make, tmp_path: Path) -> None:
    folder = make()
    for name, content in (
        ("histogram.csv", "low,high,background,truth\n0,1,,3\n"),
        ("per_slice.csv", b"row\n\xff\xfe"),
    ):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InputError, match=name):
            report([folder], out=tmp_path / "r.html")
        (folder / name).write_bytes(before)
