"""Plots of one quantity by round, with one curve for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefd.report.figure import Figure, tick_percent
from edgefd.report.html import Table
from edgefd.report.plots import line_plot
from edgefd.report.settings import Setting, Value, absent_note, by_round, curve, point_text
from edgefd.report.svg import HEIGHT, WIDTH, Axis, nice
from edgefd.runs.round_metrics import RoundMetrics


@dataclass(frozen=True)
class Quantity:
    """A quantity that is plotted by round."""

    title: str
    note: str
    value: Value
    closing: bool = True
    """whether the closing round has a value of its own"""
    top: float | None = 1.0
    """upper end of the axis; None = the smallest round number that fits"""
    zeros: bool = True
    """whether a setting with nothing but zeros is shown; a method without soft labels of proxy rows has only zeros"""


def _worst_agreement(m: RoundMetrics) -> float | None:
    return min((a for a in m.agreement_per_client or [] if a is not None), default=None)


ACCURACY = (
    Quantity(
        "Accuracy, mean over clients",
        "On the whole test set, after distillation from the teacher.",
        lambda m: m.accuracy_mean,
    ),
    Quantity(
        "Accuracy of the worst client",
        "On the whole test set, of the client with the lowest accuracy.",
        lambda m: m.accuracy_worst,
    ),
    Quantity(
        "Accuracy on clients' own data",
        "Mean over clients, each on its own held-out samples. Devices can measure no other accuracy.",
        lambda m: m.heldout_accuracy_mean,
    ),
    Quantity(
        "Personal accuracy",
        "Mean over clients, each on its own distribution: the test set reweighted by the client's class shares; for "
        "clients that are people, their held-out samples.",
        lambda m: m.personal_accuracy_mean,
    ),
    Quantity(
        "BAM, personal and general",
        "Mean over clients of the geometric mean of personal accuracy and accuracy on the whole test set.",
        lambda m: m.bam_mean,
    ),
)
TEACHER = (
    Quantity(
        "Accuracy of the teacher",
        "On the proxy rows that the teacher covers, by labels that no client sees.",
        lambda m: m.teacher_accuracy,
        closing=False,
    ),
    Quantity(
        "Agreement with the teacher",
        "Fidelity: the share of the teacher's rows to which a client, after distillation, gives the same class as the "
        "teacher. Mean over clients.",
        lambda m: m.agreement_mean,
    ),
    Quantity(
        "Agreement of the worst client",
        "Agreement with the teacher, of the client with the lowest agreement.",
        _worst_agreement,
    ),
)
ACCEPTANCE = (
    Quantity(
        "Accepted fraction",
        "Share of proxy rows for which a client sends soft labels. Mean over clients.",
        lambda m: m.kept_fraction,
        closing=False,
        zeros=False,
    ),
    Quantity(
        "Coverage of the teacher",
        "Share of proxy rows for which at least one client sent soft labels.",
        lambda m: m.teacher_coverage,
        closing=False,
        zeros=False,
    ),
    Quantity(
        "Out-of-class fraction",
        "Share of all soft labels that are for samples of a class that the sending client has never seen.",
        lambda m: m.wrong_claims,
        closing=False,
        top=None,
    ),
)
CALIBRATION = (
    Quantity(
        "ECE of the clients' models",
        "Expected calibration error on the test set: the mean distance between confidence and accuracy. Mean over "
        "clients.",
        lambda m: m.ece_mean,
        top=None,
    ),
    Quantity(
        "ECE of the teacher",
        "Expected calibration error on the proxy rows that the teacher covers.",
        lambda m: m.teacher_ece,
        closing=False,
        top=None,
    ),
)


def round_figure(quantity: Quantity, settings: Sequence[Setting]) -> Figure | None:
    """Plot a quantity by round; return None if no setting has a value."""
    points = [(s, by_round(s, quantity.value, quantity.closing)) for s in settings]
    shown = [(s, ps) for s, ps in points if ps and (quantity.zeros or any(p.mean for p in ps))]
    if not shown:
        return None
    rounds = max(int(s.runs[0].config["train"]["rounds"]) for s in settings)
    top = quantity.top or nice(max(p.high or p.mean for _, ps in shown for p in ps))
    x = Axis("round", 0, rounds, lambda r: f"{r:.0f}", whole=True)
    y = Axis("", 0, top, tick_percent)
    columns = {s.name: {p.x: p for p in ps} for s, ps in shown}
    numbers = sorted({p.x for _, ps in shown for p in ps})
    table = Table(
        ["round", *columns],
        [[f"{r:.0f}", *(point_text(column.get(r)) for column in columns.values())] for r in numbers],
    )
    return Figure(
        quantity.title,
        quantity.note + absent_note(settings, [s for s, _ in shown]),
        WIDTH,
        HEIGHT,
        line_plot(x, y, [curve(s, ps) for s, ps in shown]),
        table,
        [(s.style, f"{s.name}: {point_text(ps[-1])}") for s, ps in shown],
    )
