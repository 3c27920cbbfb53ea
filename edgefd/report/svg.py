"""SVG parts of all plots: the frame, axes, text, paths and marks.

Text stays text, and colours come from the style sheet of the page, so that one plot fits light, dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from edgefd.report.html import escape

WIDTH, HEIGHT = 360, 232
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 8, 36
COLOURS = 6  # number of colours in style.css, and of shapes of marks
DASHES = 4


@dataclass(frozen=True)
class Axis:
    """A linear axis: its label, its range, and the format of its numbers."""

    label: str
    low: float
    high: float
    show: Callable[[float], str]
    whole: bool = False
    """whether ticks are whole numbers"""

    def place(self, value: float, first: float, last: float) -> float:
        """Return the position of a value between the coordinates `first` and `last`; never outside."""
        share = (value - self.low) / ((self.high - self.low) or 1)
        return first + min(max(share, 0.0), 1.0) * (last - first)

    def ticks(self, most: int) -> list[float]:
        """Return at most `most` + 1 round numbers."""
        step = nice((self.high - self.low) / most or 1)
        if self.whole:
            step = max(1.0, step)
        return [self.low + i * step for i in range(int((self.high - self.low) / step + 1e-9) + 1)]


def nice(number: float) -> float:
    """Round up to the next of 1, 2, 2.5, 5 times a power of ten.

    >>> [nice(x) for x in (0.03, 0.21, 3, 7)]
    [0.05, 0.25, 5.0, 10.0]
    """
    if not number > 0 or not math.isfinite(number):
        return 1.0
    power = 10.0 ** math.floor(math.log10(number))
    return float(next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= number * 0.9999))


def svg(key: str, title: str, description: str, width: float, height: float, body: str) -> str:
    """Frame a plot, with a title and a description for screen readers; `key` is unique on the page."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>{body}</svg>'
    )


def text(x: float, y: float, content: str, anchor: str, kind: str = "", rotate: int = 0) -> str:
    """Draw text at (x, y); `anchor` is start, middle or end, `kind` a class, `rotate` an angle in degrees."""
    named = f' class="{kind}"' if kind else ""
    turned = f' transform="rotate({rotate} {x:.1f} {y:.1f})"' if rotate else ""
    return f'<text{named} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}>{escape(content)}</text>'


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the data of a path through points, in which repeated points are left out."""
    unique = [point for point, _ in groupby((f"{x:.1f} {y:.1f}" for x, y in points))]
    return "M" + "L".join(unique) if unique else ""


def mark(style: int, x: float, y: float, r: float, tooltip: str = "") -> str:
    """Draw a mark around (x, y): circle, square, triangle, diamond, triangle upside down or cross."""
    title = f"<title>{escape(tooltip)}</title>" if tooltip else ""
    if style % COLOURS == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}">{title}</circle>'
    t = 0.45 * r
    shapes = (
        [(-r, -r), (r, -r), (r, r), (-r, r)],
        [(0, -1.3 * r), (1.2 * r, r), (-1.2 * r, r)],
        [(0, -1.4 * r), (1.4 * r, 0), (0, 1.4 * r), (-1.4 * r, 0)],
        [(0, 1.3 * r), (1.2 * r, -r), (-1.2 * r, -r)],
        [(-t, -r), (t, -r), (t, -t), (r, -t), (r, t), (t, t), (t, r), (-t, r), (-t, t), (-r, t), (-r, -t), (-t, -t)],
    )
    corners = [(x + dx, y + dy) for dx, dy in shapes[style % COLOURS - 1]]
    return f'<path class="mark" d="{path(corners)}Z">{title}</path>'


def line_style(style: int) -> str:
    """Return the classes of a curve: its colour and its dashes."""
    return f"s{style % COLOURS} d{(style + style // COLOURS) % DASHES}"


def legend_sample(style: int, line: bool = True) -> str:
    """Draw the line and mark of a curve for a legend, or its mark alone."""
    curve = '<path class="curve" d="M0 6H30"/>' if line else ""
    return (
        f'<svg class="sample {line_style(style)}" viewBox="0 0 30 12" aria-hidden="true">'
        f"{curve}{mark(style, 15, 6, 3)}</svg>"
    )


def shortened(content: str, most: int) -> str:
    """Shorten a text of more than `most` characters, with an ellipsis at its end."""
    return content if len(content) <= most else content[: most - 1] + "…"


def labelled_cells(n: int, size: float, needed: float) -> list[int]:
    """Return which of n cells of a `size` get a label that needs the room `needed`."""
    step = max(1, math.ceil(needed / size))
    if step > 1:
        step = int(max(1.0, nice(step)))
    return list(range(0, n, step))
