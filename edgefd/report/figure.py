"""A figure of the report: a plot with its caption, a note, a legend, and a table of the numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefd.report.html import Table, escape, table_html
from edgefd.report.svg import legend_sample, svg


@dataclass(frozen=True)
class Figure:
    """A plot and what belongs to it.

    `body` is the inside of an SVG of width x height, `note` explains the plot, and `legend` holds (style, text).
    """

    title: str
    note: str
    width: float
    height: float
    body: str
    table: Table
    legend: Sequence[tuple[int, str]] = ()
    shades: tuple[str, str] | None = None
    """for a heat map: what its lightest and its darkest shade stand for"""
    dots: bool = False
    """whether no lines join the marks"""


def percent(share: float | None) -> str:
    """Format a share as per cent; "-" where it is None.

    >>> percent(0.9341), percent(None)
    ('93.4 %', '-')
    """
    return "-" if share is None else f"{100 * share:.1f} %"


def tick_percent(share: float) -> str:
    """Format a share for an axis: 0.25 becomes 25 %."""
    return f"{100 * share:.3g} %"


def byte_text(n: float) -> str:
    """Format a number of bytes with three digits and a unit.

    >>> byte_text(0), byte_text(1234567), byte_text(99)
    ('0 B', '1.23 MB', '99 B')
    """
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if n >= 10**power:
            return f"{n / 10**power:.3g} {unit}"
    return f"{n:.0f} B"


def figure_html(figure: Figure, key: str) -> str:
    """Render a figure as HTML; `key` is unique on the page."""
    description = f"{figure.note} {'; '.join(text for _, text in figure.legend)}".strip()
    return (
        f"<figure><figcaption>{escape(figure.title)}</figcaption>"
        f"{svg(key, figure.title, description, figure.width, figure.height, figure.body)}"
        f"{_legend(figure)}"
        f'<p class="note">{escape(figure.note)}</p>'
        f"<details><summary>The numbers</summary>{table_html(figure.table, figure.title)}</details></figure>"
    )


def _legend(figure: Figure) -> str:
    items = "".join(
        f"<li>{legend_sample(style, not figure.dots)} <span>{escape(text)}</span></li>" for style, text in figure.legend
    )
    if figure.shades:
        cells = "".join(f'<rect class="q{i}" x="{i * 12}" width="12" height="12"/>' for i in range(10))
        bar = f'<svg class="shades" viewBox="0 0 120 12" aria-hidden="true">{cells}</svg>'
        items += f"<li>{escape(figure.shades[0])} {bar} {escape(figure.shades[1])}</li>"
    return f'<ul class="legend">{items}</ul>' if items else ""
