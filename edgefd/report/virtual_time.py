"""Plots of accuracy against the virtual seconds and the joules of the devices of a simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgefd.report.figure import Figure, tick_percent
from edgefd.report.html import Table
from edgefd.report.plots import line_plot
from edgefd.report.settings import Setting, Value, absent_note, accuracy_by_total, curve, point_text
from edgefd.report.svg import HEIGHT, WIDTH, Axis, nice

_NOTE = (
    "Mean over clients of the accuracy that each has measured last on the whole test set, at the end of a round, on "
    "the virtual clock of the section devices."
)


def virtual_figures(settings: Sequence[Setting]) -> list[Figure | None]:
    """Return the plots against virtual seconds and against joules; None if no run has a virtual clock."""
    return [
        _against(settings, "Accuracy against virtual time", "seconds", lambda m: m.virtual_seconds, second_text),
        _against(settings, "Accuracy against energy", "joules of all devices", lambda m: m.joules, joule_text),
    ]


def second_text(seconds: float) -> str:
    """Format a duration, such as 90 s or 2 h."""
    return f"{seconds / 3600:.3g} h" if seconds >= 7200 else f"{seconds:.3g} s"


def joule_text(joules: float) -> str:
    """Format an energy, such as 90 J or 2 kJ."""
    return f"{joules / 1000:.3g} kJ" if joules >= 1000 else f"{joules:.3g} J"


def _against(
    settings: Sequence[Setting], title: str, name: str, value: Value, text: Callable[[float], str]
) -> Figure | None:
    shown = [(s, points) for s in settings if (points := accuracy_by_total(s, value))]
    if not shown:
        return None
    most = max(points[-1].x for _, points in shown)
    body = line_plot(
        Axis(name, 0, nice(most), text), Axis("", 0, 1, tick_percent), [curve(s, points) for s, points in shown]
    )
    table = Table(
        ["", name, "accuracy"], [[s.name, f"{p.x:,.1f}", point_text(p)] for s, points in shown for p in points]
    )
    legend = [(s.style, f"{s.name}: {point_text(points[-1])} after {text(points[-1].x)}") for s, points in shown]
    note = _NOTE + absent_note(settings, [s for s, _ in shown])
    return Figure(title, note, WIDTH, HEIGHT, body, table, legend)
