"""HTML parts of the report and of the audit page: escaping, tables, and the self-contained document around them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgefd.core.text import escaped

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Table:
    """Rows of text; the first cell of each row is the name of the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    text_columns: Sequence[int] = ()
    """columns of running text, which are aligned to the left; numbers are aligned to the right"""


def escape(value: object) -> str:
    """Return the text of a value, escaped for HTML text and for quoted attributes, without control characters."""
    return html.escape(escaped(str(value)))


def table_html(table: Table, caption: str) -> str:
    """Render a table as HTML, in a box with the accessible name `caption` that scrolls sideways."""
    kinds = [' class="text"' if i in table.text_columns else "" for i in range(len(table.header))]
    head = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for cell, kind in zip(table.header, kinds, strict=True))
    rows = "".join(f"<tr>{_row(row, kinds)}</tr>" for row in table.rows)
    return (
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(cells: Sequence[object], kinds: Sequence[str]) -> str:
    first, *rest = cells
    return f'<th scope="row"{kinds[0]}>{escape(first)}</th>' + "".join(
        f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(rest, kinds[1:], strict=True)
    )


def opening(kind: str) -> str:
    """Return the first characters of a document, which tell what kind of page it is."""
    return f"<!doctype html><!-- {kind} -->"


def document(kind: str, title: str, body: str, style_sheet: str) -> str:
    """Render a whole page that needs no other file: its content-security policy forbids to load anything.

    `kind` is written into the opening comment. `style_sheet` is the name of a .css file of this package.
    """
    style = files("edgefd.report").joinpath(style_sheet).read_text(encoding="utf-8")
    return (
        f'{opening(kind)}<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{body}</body></html>\n"
    )
