"""A page as a list of blocks, written as one self-contained HTML file or as Markdown. All text is data: escaped."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    level: int
    text: str


@dataclass(frozen=True)
class Text:
    text: str
    is_lead: bool = False
    """The answer: larger."""


@dataclass(frozen=True)
class Warning:
    """Something that limits what may be concluded."""

    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """``columns`` are pairs of a name and what it means; the first is the row's name. Cells are text."""

    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[str]]
    with_text: frozenset[str] = frozenset()
    """Names of columns whose cells are words and not figures: they begin at the left, and may take several lines."""


@dataclass(frozen=True)
class Picture:
    """``svg`` goes into the HTML page, the file ``png`` beside the page into Markdown."""

    png: Path
    svg: str
    description: str


@dataclass(frozen=True)
class Code:
    text: str


Block = Heading | Text | Warning | Bullets | Table | Picture | Code


@dataclass(frozen=True)
class Html:
    """A part of an HTML page as it is; whoever makes it has escaped what is not his own."""

    markup: str


_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1a1a1a; --muted: #5c5c5c; --grid: #e3e3e3; --box: #f5f6f8;
  --warn: #fff4d6; --blue: #0072b2; --orange: #d55e00; --green: #009e73; --pink: #cc79a7; --sky: #56b4e9;
  --amber: #e69f00; --black: #000000; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #ececec; --muted: #a8a8a8; --grid: #34383d;
  --box: #1f2226; --warn: #3d3215; --blue: #4aa8e0; --orange: #f08a45; --green: #2fc79b; --pink: #de9cc0;
  --sky: #86ccf5; --amber: #f2b53a; --black: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .5rem; border-top: 1px solid var(--grid); padding-top: 1.2rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, ul { margin: .5rem 0; max-width: 48rem; }
.lead { font-size: 1.12rem; }
.warning { background: var(--warn); border-radius: 6px; padding: .6rem .8rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--grid); white-space: nowrap; }
th { vertical-align: bottom; color: var(--muted); font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: var(--paper); }
td.text { text-align: left; white-space: normal; min-width: 9rem; }
th.text { text-align: left; }
dl { font-size: .85rem; color: var(--muted); margin: .3rem 0 1rem; max-width: 60rem; }
dt { font-weight: 600; float: left; clear: left; margin-right: .4rem; }
dd { margin: 0 0 .15rem; }
figure { margin: 1rem 0; overflow-x: auto; }
figure svg { width: 100%; min-width: 34rem; height: auto; display: block; }
figcaption { font-size: .85rem; color: var(--muted); max-width: 60rem; }
pre { background: var(--box); padding: .7rem .9rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
"""


def to_html(title: str, blocks: Sequence[Block | Html], *, style: str = "", script: str = "") -> str:
    """One file: no other file, nothing from the network; light or dark as the reader's system has it.

    ``script`` is the only one that the browser may run in it: the page says so by its hash, whatever else slipped in.
    """
    body = "\n".join(map(_html, blocks))
    allowed = "'none'"
    if script:
        allowed = f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        body += f"\n<script>{script}</script>"
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<style>{_STYLE}{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def to_markdown(blocks: Sequence[Block]) -> str:
    """The same page for a terminal or a repository; pictures are those beside it."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _html(block: Block | Html) -> str:
    match block:
        case Html(markup):
            return markup
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text, is_lead):
            return f'<p class="{"lead" if is_lead else "text"}">{html.escape(text)}</p>'
        case Warning(text):
            return f'<p class="warning" role="note">{html.escape(text)}</p>'
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _html_table(block)
        case Picture():
            label = html.escape(block.description)
            # The drawing has no text of others but what its writer has escaped.
            return f'<figure role="img" aria-label="{label}">{block.svg}<figcaption>{label}</figcaption></figure>'
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"


def _html_table(table: Table) -> str:
    is_text = [name in table.with_text for name, _ in table.columns]
    classes = [' class="text"' if each else "" for each in is_text]
    names = zip(classes, table.columns, strict=True)
    head = "".join(f'<th scope="col"{of_class}>{html.escape(name)}</th>' for of_class, (name, _) in names)
    rows = "\n".join(f"<tr>{''.join(map(_html_cell, row, is_text))}</tr>" for row in table.rows)
    meanings = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(meaning)}</dd>" for name, meaning in table.columns if meaning
    )
    explained = f"<dl>{meanings}</dl>" if meanings else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>{explained}'


def _html_cell(cell: str, is_text: bool) -> str:
    return f'<td class="{"text" if is_text or len(cell) > 30 else "value"}">{html.escape(cell)}</td>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Text(text, is_lead):
            return f"**{_plain(text)}**" if is_lead else _plain(text)
        case Warning(text):
            return f"> **Note.** {_plain(text)}"
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table():
            return _markdown_table(block)
        case Picture():
            return f"![{_plain(block.description.partition('. ')[0])}]({block.png.name})\n\n{_plain(block.description)}"
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())


def _markdown_table(table: Table) -> str:
    names = [_plain(name) for name, _ in table.columns]
    rules = ["---", *["---:"] * (len(names) - 1)]
    lines = [f"| {' | '.join(cells)} |" for cells in (names, rules, *([_plain(c) for c in row] for row in table.rows))]
    meanings = [f"- {_plain(name)}: {_plain(meaning)}" for name, meaning in table.columns if meaning]
    return "\n".join([*lines, *([""] if meanings else []), *meanings])


def _plain(text: str) -> str:
    """Text of others must not become a link, a table's edge or HTML."""
    text = html.escape(" ".join(text.split()), quote=False)
    for special in "\\|[]`*":
        text = text.replace(special, f"\\{special}")
    return text
