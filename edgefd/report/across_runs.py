"""Figures that set settings side by side: by round, by confidence, by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefd.report.figure import Figure, Table, byte_text, percent, tick_percent
from edgefd.report.settings import Point, Setting, Value, accuracy_by_bytes, by_round, final, mean_of
from edgefd.report.svg import HEIGHT, WIDTH, Axis, Bar, Curve, bar_plot, line_plot, nice
from edgefd.runs.calibration import BINS, Reliability, pooled
from edgefd.runs.round_metrics import RoundMetrics


@dataclass(frozen=True)
class Quantity:
    """What is plotted by round."""

    title: str
    note: str
    value: Value
    closing: bool = True
    """whether the closing round has a value of its own"""
    top: float | None = 1.0
    """of the axis; None: what fits"""
    zeros: bool = True
    """whether a setting of nothing but zeros is shown; methods without soft labels of proxy rows have no more"""


def _worst_agreement(m: RoundMetrics) -> float | None:
    return min((a for a in m.agreement_per_client or [] if a is not None), default=None)


ACCURACY = (
    Quantity(
        "Accuracy, mean over clients",
        "On the whole test set, after learning from the teacher.",
        lambda m: m.accuracy_mean,
    ),
    Quantity("Accuracy of the worst client", "The same, of the client with the lowest.", lambda m: m.accuracy_worst),
    Quantity(
        "Accuracy on clients' own data",
        "Mean over clients, each on its own held-out samples: all that devices can measure.",
        lambda m: m.heldout_accuracy_mean,
    ),
)
TEACHER = (
    Quantity(
        "Accuracy of the teacher",
        "On the proxy rows that it knows, by labels that no client sees.",
        lambda m: m.teacher_accuracy,
        closing=False,
    ),
    Quantity(
        "Agreement with the teacher",
        "Fidelity: share of the teacher's rows where a client that has learned them says the same. Mean over clients.",
        lambda m: m.agreement_mean,
    ),
    Quantity("Agreement of the worst client", "The same, of the client with the lowest.", _worst_agreement),
)
CLAIMS = (
    Quantity(
        "Kept fraction",
        "Share of proxy rows that a client answers for. Mean over clients.",
        lambda m: m.kept_fraction,
        closing=False,
        zeros=False,
    ),
    Quantity(
        "Coverage of the teacher",
        "Share of proxy rows that anybody answered for.",
        lambda m: m.teacher_coverage,
        closing=False,
        zeros=False,
    ),
    Quantity(
        "Wrong claims",
        "Share of all answers for samples of a class that the answering client has never seen.",
        lambda m: m.wrong_claims,
        closing=False,
        top=None,
    ),
)
CALIBRATION = (
    Quantity(
        "ECE of the clients' models",
        "Expected calibration error on the test set: how far confidence is from accuracy. Mean over clients.",
        lambda m: m.ece_mean,
        top=None,
    ),
    Quantity("ECE of the teacher", "The same, on the proxy rows that it knows.", lambda m: m.teacher_ece, False, None),
)


def round_figure(quantity: Quantity, settings: Sequence[Setting]) -> Figure | None:
    """None if no setting has a value."""
    found = [(s, by_round(s, quantity.value, quantity.closing)) for s in settings]
    known = [(s, points) for s, points in found if points and (quantity.zeros or any(p.mean for p in points))]
    if not known:
        return None
    rounds = max(int(s.runs[0].config["train"]["rounds"]) for s in settings)
    top = quantity.top or nice(max(p.high or p.mean for _, points in known for p in points))
    x = Axis("round", 0, rounds, lambda r: f"{r:.0f}", whole=True)
    y = Axis("", 0, top, tick_percent)
    columns = {s.name: {p.x: p for p in points} for s, points in known}
    numbers = sorted({p.x for _, points in known for p in points})
    table = Table(
        ["round", *columns],
        [[f"{r:.0f}", *(said(column.get(r)) for column in columns.values())] for r in numbers],
    )
    return Figure(
        quantity.title,
        quantity.note + _absent(settings, known),
        WIDTH,
        HEIGHT,
        line_plot(x, y, [_curve(s, points) for s, points in known]),
        table,
        [(s.style, f"{s.name}: {said(points[-1])}") for s, points in known],
    )


def said(p: Point | None) -> str:
    """93.4 % (92.1 to 94.7)."""
    if p is None or p.low is None or p.high is None:
        return percent(p.mean if p else None)
    return f"{percent(p.mean)} ({100 * p.low:.1f} to {100 * p.high:.1f})"


def bytes_figure(settings: Sequence[Setting]) -> Figure:
    """Bytes of knowledge in all rounds, by direction."""
    ups = [mean_of(s, lambda run: sum(m.bytes_up for m in run.rounds)) for s in settings]
    downs = [mean_of(s, lambda run: sum(m.bytes_down for m in run.rounds)) for s in settings]
    known = [(s, up.mean, down.mean) for s, up, down in zip(settings, ups, downs, strict=True) if up and down]
    groups = [(s.name, [Bar("up", 0, up), Bar("down", 1, down)]) for s, up, down in known]
    height, body = bar_plot(groups, byte_text)
    table = Table(["", "up", "down"], [[s.name, f"{up:,.0f}", f"{down:,.0f}"] for s, up, down in known])
    note = "Serialised knowledge of all rounds and clients: up, to the server; down, the teacher to every client."
    return Figure("Bytes of all rounds", note, WIDTH, height, body, table)


def once_figure(settings: Sequence[Setting]) -> Figure | None:
    """Bytes of raw samples before the first round; None if no summary tells."""
    once = [(s, mean_of(s, lambda run: run.summary.bytes_once if run.summary else None)) for s in settings]
    known = [(s, p.mean) for s, p in once if p]
    if not known:
        return None
    height, body = bar_plot([(s.name, [Bar("once", 2, n)]) for s, n in known], byte_text)
    table = Table(["", "once"], [[s.name, f"{n:,.0f}"] for s, n in known])
    note = "Raw samples, before the first round: contributions up, and the proxy set down to every client."
    return Figure("Bytes sent once", note + _absent(settings, known), WIDTH, height, body, table)


def accuracy_bytes_figure(settings: Sequence[Setting]) -> Figure | None:
    """Mean accuracy against bytes up and down so far."""
    known = [(s, points) for s in settings if (points := accuracy_by_bytes(s))]
    if not known:
        return None
    most = max(points[-1].x for _, points in known)
    if not most:
        return None
    x = Axis("bytes so far, up and down", 0, nice(most), byte_text)
    curves = [_curve(s, points) for s, points in known]
    table = Table(["", "bytes", "accuracy"], [[s.name, f"{p.x:,.0f}", said(p)] for s, points in known for p in points])
    note = "Mean accuracy over clients, against what had travelled when it was measured, without what is sent once."
    body = line_plot(x, Axis("", 0, 1, tick_percent), curves)
    legend = [(s.style, f"{s.name}: {said(points[-1])} for {byte_text(points[-1].x)}") for s, points in known]
    return Figure("Accuracy against bytes", note, WIDTH, HEIGHT, body, table, legend)


def reliability_figure(settings: Sequence[Setting], whose: str) -> Figure | None:
    """Accuracy by confidence at the end, of "clients" (all rows of all pooled) or of the "teacher"."""
    known = [(s, bins) for s in settings if (bins := _bins(s, whose))]
    if not known:
        return None
    x, y = Axis("confidence", 0, 1, tick_percent), Axis("", 0, 1, tick_percent)
    where = {
        "clients": ("Reliability of the clients' models", "on the test set, all clients together"),
        "teacher": ("Reliability of the teacher", "on the proxy rows that it knows"),
    }
    title, rows = where[whose]
    note = (
        f"Accuracy by confidence at the end, {rows}. On the dashed line a model is as often right as it says; "
        "below, it is too sure. Large marks hold many rows."
    )
    error = CALIBRATION[0 if whose == "clients" else 1].value
    legend = [(s.style, f"{s.name}: ECE {said(final(s, error))}, {sum(bins.count):,} rows") for s, bins in known]
    table = Table(
        ["", "rows", "mean confidence", "accuracy"],
        [
            [s.name, f"{n:,}", percent(confidence / n), percent(right / n)]
            for s, bins in known
            for n, confidence, right in zip(bins.count, bins.confidence, bins.correct, strict=True)
            if n
        ],
    )
    body = line_plot(x, y, [_reliability_curve(s, bins) for s, bins in known], diagonal=True)
    return Figure(title, note + _absent(settings, known), WIDTH, HEIGHT, body, table, legend)


def _bins(setting: Setting, whose: str) -> Reliability | None:
    """None unless all its runs have some."""
    found = []
    for run in setting.runs:
        if run.evaluation is None:
            return None
        parts = run.evaluation.clients if whose == "clients" else [run.evaluation.teacher]
        found.append([part for part in parts if part is not None])
    return pooled(part for parts in found for part in parts) if all(found) else None


def _reliability_curve(setting: Setting, bins: Reliability) -> Curve:
    total = sum(bins.count)
    filled = [i for i in range(BINS) if bins.count[i]]
    points = tuple((bins.confidence[i] / bins.count[i], bins.correct[i] / bins.count[i]) for i in filled)
    radii = tuple(1.5 + 6 * (bins.count[i] / total) ** 0.5 for i in filled)
    return Curve(setting.name, setting.style, points, radii=radii)


def _curve(setting: Setting, points: Sequence[Point]) -> Curve:
    band = tuple((p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None)
    return Curve(setting.name, setting.style, tuple((p.x, p.mean) for p in points), band)


def _absent(settings: Sequence[Setting], known: Sequence[tuple[Setting, object]]) -> str:
    there = {s.name for s, _ in known}
    names = [s.name for s in settings if s.name not in there]
    return f" Nothing to show for {', '.join(names)}." if names else ""
