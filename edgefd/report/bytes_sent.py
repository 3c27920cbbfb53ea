"""Plots of the bytes that were sent, and of accuracy against bytes."""

from __future__ import annotations

from collections.abc import Sequence

from edgefd.report.figure import Figure, byte_text, tick_percent
from edgefd.report.html import Table
from edgefd.report.plots import Bar, bar_plot, line_plot
from edgefd.report.settings import Setting, absent_note, accuracy_by_bytes, curve, mean_of, point_text
from edgefd.report.svg import HEIGHT, WIDTH, Axis, nice


def bytes_figure(settings: Sequence[Setting]) -> Figure:
    """Plot the bytes of knowledge of all rounds, by direction."""
    ups = [mean_of(s, lambda run: sum(m.bytes_up for m in run.rounds)) for s in settings]
    downs = [mean_of(s, lambda run: sum(m.bytes_down for m in run.rounds)) for s in settings]
    shown = [(s, up.mean, down.mean) for s, up, down in zip(settings, ups, downs, strict=True) if up and down]
    groups = [(s.name, [Bar("up", 0, up), Bar("down", 1, down)]) for s, up, down in shown]
    height, body = bar_plot(groups, byte_text)
    table = Table(["", "up", "down"], [[s.name, f"{up:,.0f}", f"{down:,.0f}"] for s, up, down in shown])
    note = "Serialised knowledge of all rounds and clients: up (to the server), down (the teacher, to every client)."
    return Figure("Bytes of all rounds", note, WIDTH, height, body, table)


def once_figure(settings: Sequence[Setting]) -> Figure | None:
    """Plot the bytes that are sent before the first round; None if no run has a summary."""
    once = [(s, mean_of(s, lambda run: run.summary.bytes_once if run.summary else None)) for s in settings]
    shown = [(s, p.mean) for s, p in once if p]
    if not shown:
        return None
    height, body = bar_plot([(s.name, [Bar("once", 2, n)]) for s, n in shown], byte_text)
    table = Table(["", "once"], [[s.name, f"{n:,.0f}"] for s, n in shown])
    note = "Before the first round: contributed samples up, and the proxy set (to devices: the bundle) to every client."
    note += absent_note(settings, [s for s, _ in shown])
    return Figure("Bytes sent once", note, WIDTH, height, body, table)


def accuracy_bytes_figure(settings: Sequence[Setting]) -> Figure | None:
    """Plot mean accuracy against the bytes sent up and down until it was measured; None if nothing was sent."""
    shown = [(s, points) for s in settings if (points := accuracy_by_bytes(s))]
    if not shown:
        return None
    most = max(points[-1].x for _, points in shown)
    if not most:
        return None
    x = Axis("bytes so far, up and down", 0, nice(most), byte_text)
    body = line_plot(x, Axis("", 0, 1, tick_percent), [curve(s, points) for s, points in shown])
    table = Table(
        ["", "bytes", "accuracy"],
        [[s.name, f"{p.x:,.0f}", point_text(p)] for s, points in shown for p in points],
    )
    note = (
        "Mean accuracy over clients against the bytes that had been sent when it was measured, without the bytes that "
        "are sent once."
    )
    legend = [(s.style, f"{s.name}: {point_text(points[-1])} for {byte_text(points[-1].x)}") for s, points in shown]
    return Figure("Accuracy against bytes", note, WIDTH, HEIGHT, body, table, legend)
