"""One static page that shows everything: tables that can be sorted, figures as inline SVG, and where scores are from.

The page asks nothing of a network and forbids itself to (its content security policy); its one script is the few lines
that sort tables, and without it all is there. Colours follow the reader's choice of dark or light. Every figure has its
words (``alt``) and its numbers as a table under it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from diffembed.report.charts import Chart, slug
from diffembed.report.style import FAINT, GRID, INK, PAPER
from diffembed.report.tables import Cell, Score, Table

_THEME = {INK: "var(--ink)", FAINT: "var(--faint)", GRID: "var(--grid)", PAPER: "var(--paper)"}

_STYLE = """
:root { color-scheme: light dark; --paper: #fefefe; --ink: #1b1b1f; --faint: #6b6b73; --grid: #d9d9de; --soft: #f2f2f5;
  --link: #0b5fa5; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181c; --ink: #e8e8ec; --faint: #a3a3ad; --grid: #3a3b42; --soft: #222329; --link: #7cc0f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid var(--grid); padding-bottom: .2rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
.notes { background: var(--soft); border-left: .25rem solid var(--faint); padding: .6rem 1rem .6rem 2rem; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; }
th, td { padding: .25rem .7rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--grid); }
td, th[scope=row] { overflow-wrap: anywhere; min-width: 4rem; max-width: 28rem; }
.n { text-align: right; white-space: nowrap; }
th[scope=row] { font-weight: 400; min-width: 8rem; }
tfoot td, tfoot th { border-top: 2px solid var(--faint); }
th button { all: unset; cursor: pointer; font-weight: 600; }
:focus-visible, th button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
figure { margin: 1.4rem 0; }
figure svg { width: 100%; height: auto; max-width: 48rem; display: block; }
figcaption, .note { color: var(--faint); font-size: .9rem; }
summary { cursor: pointer; color: var(--faint); font-size: .9rem; }
@media print { nav { display: none; } body { max-width: none; } }
"""

# The rows of a table by one column: numbers by size, the largest first, else by name; what is unknown comes last.
_SCRIPT = """
document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (!button) return;
  const head = button.parentElement, body = head.closest("table").tBodies[0], at = head.cellIndex;
  const numeric = head.classList.contains("n"), before = head.getAttribute("aria-sort");
  const down = before ? before === "ascending" : numeric;
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const value = (row) => row.cells[at].dataset.v ?? row.cells[at].textContent;
  const unknown = (row) => value(row) === "";
  const order = (a, b) => numeric ? value(a) - value(b) : value(a).localeCompare(value(b), undefined, {numeric: true});
  const rows = [...body.rows].sort((a, b) => unknown(a) - unknown(b) || (down ? -order(a, b) : order(a, b)));
  body.append(...rows);
});
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """A section of the page; each chart with its SVG."""

    title: str
    tables: tuple[Table, ...]
    charts: tuple[tuple[Chart, str], ...]


def page(
    title: str,
    summary: str,
    notes: Sequence[str],
    sections: Sequence[Shown],
    appendix: Sequence[Table],
    *,
    figures: str = "",
) -> str:
    """The page as HTML; ``figures`` is the folder, beside the page, that holds the figures as files."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    anchors = [f"s{number}-{slug(section.title)}" for number, section in enumerate(sections)]
    links = [(anchor, section.title) for anchor, section in zip(anchors, sections, strict=True)]
    links.append(("rest", "What the scores rest on"))
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(summary)}</p>"]
    if notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in notes)
        body.append(f'<section aria-label="Notes"><ul class="notes">{items}</ul></section>')
    listed = "".join(f'<li><a href="#{escape(anchor)}">{escape(name)}</a></li>' for anchor, name in links)
    body.append(f'<nav aria-label="Sections"><ul>{listed}</ul></nav>')
    number = 0
    for anchor, section in zip(anchors, sections, strict=True):
        parts = [f'<h2 id="{escape(anchor)}">{escape(section.title)}</h2>']
        parts += [_table(table) for table in section.tables[:1]]
        for chart, svg in section.charts:
            number += 1
            parts.append(_figure(chart, svg, f"f{number}", figures))
        parts += [_folded(table.title, _table(table)) for table in section.tables[1:]]
        body.append(f"<section>{''.join(parts)}</section>")
    rest = "".join(_folded(table.title, _table(table)) for table in appendix)
    body.append(f'<section><h2 id="rest">What the scores rest on</h2>{rest}</section>')
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + f"\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def inline_svg(svg: str, prefix: str, alt: str) -> str:
    """An SVG file as a part of a page: without prologue, with ids of its own, in the page's colours, with its words.

    >>> inline_svg('<?xml version="1.0"?><svg viewBox="0 0 1 1" width="9pt"><g id="a" style="fill: #1b1b1f"/></svg>',
    ...     "f1", "A dot.")
    '<svg viewBox="0 0 1 1" role="img" aria-label="A dot."><g id="f1-a" style="fill: var(--ink)"/></svg>'
    """
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(width|height|version|xmlns(:\w+)?)="[^"]*"', "", head)
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", rest)
    rest = re.sub(r'\b(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}-\1"', rest)
    for colour, name in _THEME.items():
        rest = rest.replace(colour, name)
    return f'{head} role="img" aria-label="{escape(alt)}">{rest}'


def _figure(chart: Chart, svg: str, prefix: str, figures: str) -> str:
    files = ""
    if figures:
        link = '<a href="{folder}/{name}.{kind}">{label}</a>'
        made = [link.format(folder=figures, name=escape(chart.name), kind=k, label=k.upper()) for k in ("svg", "png")]
        files = f" ({', '.join(made)})"
    caption = f"<figcaption>{escape(chart.caption)}{files}</figcaption>"
    numbers = _folded("The figure as a table", _table(chart.table()))
    return f"<figure>{inline_svg(svg, prefix, f'{chart.title}. {chart.alt}')}{caption}</figure>{numbers}"


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def _table(whole: Table) -> str:
    table = whole.shown()
    numeric = table.numeric or [False] * len(table.head)
    head = "".join(
        f'<th scope="col"{_class(number)}><button type="button">{escape(name) or "&#160;"}</button></th>'
        for name, number in zip(table.head, numeric, strict=True)
    )
    rows = [_row(row, texts, numeric) for row, texts in zip(table.rows, table.texts(), strict=True)]
    cut = len(rows) - table.foot
    foot = f"<tfoot>{''.join(rows[cut:])}</tfoot>" if table.foot else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    # A region that scrolls must be reachable by keyboard.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(table.title)}"><table>'
        f"<caption>{escape(table.title)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows[:cut])}</tbody>{foot}</table></div>{note}"
    )


def _row(row: Sequence[Cell], texts: Sequence[str], numeric: Sequence[bool]) -> str:
    cells = []
    for at, (cell, text, number) in enumerate(zip(row, texts, numeric, strict=True)):
        shown = f"<strong>{escape(text)}</strong>" if isinstance(cell, Score) and cell.best else escape(text)
        value = f' data-v="{_value(cell)}"' if number else ""
        cells.append(f'<th scope="row">{shown}</th>' if at == 0 else f"<td{_class(number)}{value}>{shown}</td>")
    return f"<tr>{''.join(cells)}</tr>"


def _value(cell: Cell) -> str:
    """What a number is sorted by; nothing where it is unknown."""
    return "" if cell is None else repr(cell.value if isinstance(cell, Score) else cell)


def _class(number: bool) -> str:
    return ' class="n"' if number else ""
