"""The four kinds of plots of a report: lines, bars, heat maps and dots. Each returns the inside of an SVG."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgefd.report import svg
from edgefd.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, mark, path, text


@dataclass(frozen=True)
class Curve:
    """Points (x, y), ascending in x; `band` holds (x, low, high), and `radii` those of the marks if they differ."""

    name: str
    style: int
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    radii: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A bar, with its name on its left."""

    name: str
    style: int
    value: float


def line_plot(x: Axis, y: Axis, curves: Sequence[Curve], diagonal: bool = False) -> str:
    """Draw curves with their bands, in an SVG of WIDTH x HEIGHT; `diagonal` adds the line y = x."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [_frame(x, y)]
    if diagonal:
        parts.append(f'<path class="ideal" d="M{LEFT} {bottom}L{right} {TOP}"/>')
    for curve in curves:
        upper = [_position(x, y, px, high) for px, _, high in curve.band]
        lower = [_position(x, y, px, low) for px, low, _ in reversed(curve.band)]
        if len(curve.band) > 1:
            parts.append(f'<path class="band s{curve.style % svg.COLOURS}" d="{path(upper + lower)}Z"/>')
    parts += [_curve(x, y, curve) for curve in curves]
    return "".join(parts)


def _position(x: Axis, y: Axis, px: float, py: float) -> tuple[float, float]:
    return x.place(px, LEFT, WIDTH - RIGHT), y.place(py, HEIGHT - BOTTOM, TOP)


def _curve(x: Axis, y: Axis, curve: Curve) -> str:
    """Draw one curve with its marks. Of many points, only the last is marked."""
    positions = [_position(x, y, px, py) for px, py in curve.points]
    parts = [f'<g class="{svg.line_style(curve.style)}"><path class="curve" d="{path(positions)}"/>']
    all_marked = len(positions) <= 45
    for i, ((px, py), (cx, cy)) in enumerate(zip(curve.points, positions, strict=True)):
        if all_marked or i == len(positions) - 1:
            tooltip = f"{curve.name}: {x.show(px)}, {y.show(py)}"
            parts.append(mark(curve.style, cx, cy, curve.radii[i] if curve.radii else 2.6, tooltip))
    return "".join(parts) + "</g>"


def _frame(x: Axis, y: Axis) -> str:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in y.ticks(5):
        place = y.place(tick, bottom, TOP)
        parts.append(f'<path class="grid" d="M{LEFT} {place:.1f}H{right}"/>')
        parts.append(text(LEFT - 5, place + 4, y.show(tick), "end"))
    for tick in x.ticks(6):
        parts.append(text(x.place(tick, LEFT, right), bottom + 15, x.show(tick), "middle"))
    parts.append(text((LEFT + right) / 2, HEIGHT - 5, x.label, "middle", "axis"))
    return "".join(parts)


def bar_plot(groups: Sequence[tuple[str, Sequence[Bar]]], show: Callable[[float], str]) -> tuple[float, str]:
    """Draw horizontal bars from 0, each with its number, in named groups; return the height and the body."""
    largest = max((bar.value for _, bars in groups for bar in bars), default=0.0) or 1.0
    longest_name = max((len(bar.name) for _, bars in groups for bar in bars), default=0)
    left, room = 8 + 7 * longest_name, 76
    parts, top = [], 4.0
    for name, bars in groups:
        parts.append(text(0, top + 11, svg.shortened(name, 52), "start", "axis"))
        top += 17
        for bar in bars:
            length = (WIDTH - left - room) * bar.value / largest
            parts.append(text(left - 4, top + 10, bar.name, "end"))
            parts.append(
                f'<rect class="bar s{bar.style}" x="{left}" y="{top:g}" width="{max(length, 0.5):.1f}" height="12"/>'
            )
            parts.append(text(left + length + 4, top + 10, show(bar.value), "start"))
            top += 16
        top += 7
    return top, "".join(parts)


def heat_map(
    values: Sequence[Sequence[float | None]],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str],
    texts: Sequence[Sequence[str]] | None = None,
) -> tuple[float, str]:
    """Draw values in [0, 1] as ten shades, row by row; None stays empty. Return the height and the body.

    `texts` are written into the cells if they fit. `labels` name the columns and the rows.
    """
    left, top = 10 + 7 * max(len(r) for r in rows), 18
    width = (WIDTH - left - 2) / len(columns)
    height = min(max(220 / len(rows), 5), 20)
    parts = _cells(values, left, top, width, height)
    if texts is not None and height >= 12 and width >= 6.5 * max(len(t) for row in texts for t in row):
        for i, (row, row_texts) in enumerate(zip(values, texts, strict=True)):
            for j, (value, cell) in enumerate(zip(row, row_texts, strict=True)):
                kind = "cell on-light" if (shade(value) or 0) < 5 else "cell on-dark"
                parts.append(text(left + (j + 0.5) * width, top + (i + 0.5) * height + 3.6, cell, "middle", kind))
    for i in svg.labelled_cells(len(rows), height, 11):
        parts.append(text(left - 5, top + (i + 0.5) * height + 4, rows[i], "end"))
    for j in svg.labelled_cells(len(columns), width, 8 * max(len(c) for c in columns)):
        parts.append(text(left + (j + 0.5) * width, top - 5, columns[j], "middle"))
    bottom = top + len(rows) * height
    parts.append(text(left, bottom + 14, f"{labels[0]} →   {labels[1]} ↓", "start", "axis"))
    return bottom + 20, "".join(parts)


def _cells(values: Sequence[Sequence[float | None]], left: float, top: float, width: float, height: float) -> list[str]:
    """Draw the cells of a heat map: one path for each shade, which keeps the page small."""
    cells: dict[int | None, list[str]] = {}
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            cell = (
                f"M{left + j * width:.1f} {top + i * height:.1f}"
                f"h{width - 0.6:.1f}v{height - 0.6:.1f}h{0.6 - width:.1f}z"
            )
            cells.setdefault(shade(value), []).append(cell)
    return [
        f'<path class="{"none" if level is None else f"q{level}"}" d="{"".join(paths)}"/>'
        for level, paths in sorted(cells.items(), key=lambda item: -1 if item[0] is None else item[0])
    ]


def dot_plot(rows: Sequence[str], x: Axis, series: Sequence[tuple[str, Sequence[float | None]]]) -> tuple[float, str]:
    """Draw one line for each row (a client), with a mark for each series; return the height and the body."""
    left, right = 10 + 7 * max(len(r) for r in rows), WIDTH - RIGHT
    height = min(max(200 / len(rows), 6), 20)
    bottom = TOP + height * len(rows)
    parts = []
    for tick in x.ticks(5):
        place = x.place(tick, left, right)
        parts.append(f'<path class="grid" d="M{place:.1f} {TOP}V{bottom:.1f}"/>')
        parts.append(text(place, bottom + 14, x.show(tick), "middle"))
    for i in range(len(rows)):
        parts.append(f'<path class="grid" d="M{left} {TOP + (i + 0.5) * height:.1f}H{right}"/>')
    for style, (name, values) in enumerate(series):
        parts.append(f'<g class="s{style}">')
        for i, value in enumerate(values):
            if value is not None:
                tooltip = f"client {rows[i]}, {name}: {x.show(value)}"
                parts.append(mark(style, x.place(value, left, right), TOP + (i + 0.5) * height, 3.4, tooltip))
        parts.append("</g>")
    for i in svg.labelled_cells(len(rows), height, 11):
        parts.append(text(left - 5, TOP + (i + 0.5) * height + 4, rows[i], "end"))
    parts.append(text((left + right) / 2, bottom + 30, x.label, "middle", "axis"))
    return bottom + 36, "".join(parts)


def shade(value: float | None) -> int | None:
    """Return the shade of a value in [0, 1], from 0 to 9; None where there is no value."""
    return None if value is None or not math.isfinite(value) else min(max(int(value * 10), 0), 9)
