"""The page that a report is: markup that escapes by itself, style, script: one file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence

__all__ = ["Html", "join", "page", "picture", "table", "tag"]


class Html(str):
    """Text that is markup already; everything else is escaped."""


def tag(name: str, *children: object, **attributes: object) -> Html:
    """Give an element; text and attributes are escaped, `class_` is class, `data_x` data-x, None left out.

    Examples
    --------
    >>> tag("p", "1 < 2", class_="note")
    '<p class="note">1 &lt; 2</p>'
    """
    pairs = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{pairs}>" + ("" if name in ("img", "meta", "br") else f"{join(children)}</{name}>"))


def join(children: Iterable[object]) -> Html:
    """Put pieces together, escaping what is not markup."""
    return Html("".join(c if isinstance(c, Html) else html.escape(str(c)) for c in children))


def picture(png: bytes, alt: str, class_: str | None = None) -> Html:
    """Give an image that carries its own data."""
    data = base64.b64encode(png).decode("ascii")
    return tag("img", src=f"data:image/png;base64,{data}", alt=alt, class_=class_)


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    caption: str,
    sortable: bool = False,
    marked: Sequence[int] = (),
    class_: str = "",
    tall: bool = False,
) -> Html:
    """Give a table that scrolls by itself on a narrow screen.

    Parameters
    ----------
    head
        Names of the columns.
    rows
        Cells; a tuple (text, value) sorts by value. The first cell of a row is its heading.
    caption
        What the table shows.
    sortable
        Whether a click on a column's name sorts by it.
    marked
        Numbers of the rows to point out.
    class_
        Of the table: "named" has text in the second column, "left" in all.
    tall
        Whether it scrolls within a part of the window.
    """
    names = [tag("button", name, type="button") if sortable else name for name in head]
    lines = []
    for n, row in enumerate(rows):
        pairs = [cell if isinstance(cell, tuple) else (cell, None) for cell in row]
        first = tag("th", pairs[0][0], scope="row", data_v=pairs[0][1])
        others = [tag("td", text, data_v=value) for text, value in pairs[1:]]
        lines.append(tag("tr", first, *others, class_="marked" if n in marked else None))
    body = tag("thead", tag("tr", *(tag("th", name, scope="col") for name in names)))
    classes = f"{class_} sortable".strip() if sortable else class_ or None
    inner = tag("table", tag("caption", caption), body, tag("tbody", *lines), class_=classes)
    return tag(
        "div",
        inner,
        class_="scroll tall" if tall else "scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )


def page(title: str, body: Html) -> str:
    """Give the whole file.

    Its policy forbids to load anything and to run any script but the one below, so that a name that
    got past the escaping could still do nothing.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )
    head = join(
        [
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
            tag("title", title),
            Html(f"<style>{_STYLE}</style>"),
        ]
    )
    script = Html(f"<script>{_SCRIPT}</script>")
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}{script}</body></html>\n'


_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, k) => head.firstChild.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = row => { const cell = row.cells[k]; return cell.dataset.v ?? cell.textContent; };
    const empty = v => v === "\\u2013";
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (empty(x) || empty(y)) return empty(x) - empty(y);
      const d = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y;
      return up ? d : -d;
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  }));
}
"""

_STYLE = """
:root { color-scheme: light; --ink: #1f2430; --quiet: #545d6b; --line: #d7dbe2; --soft: #f4f6f9;
  --blue: #24458f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 0 1.25rem 3rem; max-width: 76rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1.6rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; padding-top: .7rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
p { margin: .5rem 0; max-width: 62rem; } p.notice { max-width: none; }
ul { margin: .4rem 0; padding-left: 1.3rem; max-width: 62rem; }
li { margin: .2rem 0; overflow-wrap: anywhere; }
.lead { font-size: 1.08rem; } .quiet, small { color: var(--quiet); } small { font-size: .8rem; }
.notice { border: 1px solid #b45309; border-left-width: 6px; background: #fff8eb; padding: .5rem .9rem;
  font-weight: 600; margin: .9rem 0; }
.verdict { border-left: 6px solid var(--blue); background: var(--soft); padding: .6rem .9rem;
  margin: 1rem 0; }
.verdict p { margin: .2rem 0; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .8rem 0; }
dl.facts dt { color: var(--quiet); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow: auto; margin: .6rem 0 1rem; } .tall { max-height: 34rem; }
.scroll:focus-visible, button:focus-visible, summary:focus-visible { outline: 3px solid #2563eb;
  outline-offset: 2px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; min-width: 40%; }
caption { text-align: left; font-weight: 600; padding: .2rem 0 .4rem; }
th, td { padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 9rem; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th { font-weight: 500; } tr.marked { background: #eaf1ff; } tr.marked th { font-weight: 700; }
td small { display: block; line-height: 1.25; }
table.named tr > :nth-child(2) { text-align: left; }
table.left td, table.left th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.sortable thead th { white-space: normal; }
.sortable tbody th { min-width: 15rem; }
.sortable thead th { position: sticky; top: 0; background: #fff; }
.sortable button { font: inherit; font-weight: 600; border: 0; background: none; padding: 0;
  color: var(--blue);
  cursor: pointer; text-align: inherit; text-decoration: underline dotted; text-underline-offset: 3px; }
[aria-sort=ascending] button::after { content: " \\25B2"; }
[aria-sort=descending] button::after { content: " \\25BC"; }
.stamp { display: inline-block; font-size: .75rem; padding: 0 .45rem; border: 1px solid var(--line);
  border-radius: .7rem; color: var(--quiet); background: #fff; white-space: normal; }
.stamp.masks { color: #8a2c0d; border-color: #c2510c; background: #fff3ea; }
figure { margin: .8rem 0 1.4rem; break-inside: avoid; }
figcaption { font-size: .9rem; margin-bottom: .35rem; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .6rem;
  max-width: 62rem; }
.tile { font-size: .78rem; color: var(--quiet); min-width: 0; }
.tiles.methods { grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); }
.methods .tile > img { margin-bottom: .25rem; }
.tile > img { display: block; width: 100%; height: auto; background: #000; image-rendering: pixelated; }
.tile .none { aspect-ratio: 1; display: grid; place-items: center; background: var(--soft); }
.bar { position: relative; margin-top: .3rem; padding-bottom: .2rem; }
.bar img { display: block; width: 100%; height: .55rem; }
.bar i { position: absolute; top: -.15rem; width: 2px; height: .85rem; margin-left: -1px; background: #fff;
  outline: 1px solid #000; }
.ends { display: flex; justify-content: space-between; gap: .5rem; }
.key { display: inline-block; width: .85em; height: .85em; border: 2px solid; vertical-align: -.08em;
  margin-right: .3em; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
  gap: .5rem 1.5rem; }
.charts img { width: 100%; height: auto; } .charts h3 { margin: .6rem 0 0; }
pre { background: var(--soft); padding: .7rem .9rem; overflow: auto; font-size: .84rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; font-weight: 600; color: var(--blue); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .6rem; color: var(--quiet);
  font-size: .85rem; }
@media (max-width: 40rem) { body { padding: 0 .8rem 2rem; } .tiles { grid-template-columns: 1fr 1fr; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; } .scroll, .tall { overflow: visible;
  max-height: none; }
  h2, h3, figcaption { break-after: avoid; } tr, figure, .verdict { break-inside: avoid; }
  .tiles, .tiles.methods { grid-template-columns: repeat(4, 1fr); } .charts { grid-template-columns: 1fr 1fr; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .sortable thead th { position: static; }
}
"""
