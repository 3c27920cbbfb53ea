"""Figures of one run: its clients, round by round and class by class."""

from __future__ import annotations

from collections.abc import Sequence

from edgefd.report.figure import Figure, Table, percent, tick_percent
from edgefd.report.read import RunRecord
from edgefd.report.svg import WIDTH, Axis, dot_plot, heat_map
from edgefd.runs.calibration import ece

SHARES = ("0 %", "100 %")


def inside_figures(run: RunRecord) -> list[Figure]:
    """Those for which the run has the numbers."""
    found = [accuracy_figure(run), class_figure(run), data_figure(run), claims_figure(run), calibration_figure(run)]
    return [figure for figure in found if figure is not None]


def accuracy_figure(run: RunRecord) -> Figure | None:
    """Accuracy of each client by evaluated round."""
    rounds = [(m.round, m.accuracy_per_client) for m in run.rounds if m.accuracy_per_client is not None]
    if not rounds:
        return None
    clients = [str(c) for c in range(len(rounds[0][1]))]
    names = [str(r) for r, _ in rounds]
    values = [[accuracies[c] for _, accuracies in rounds] for c in range(len(clients))]
    height, body = heat_map(values, clients, names, ("round", "client"))
    table = Table(
        ["round", *(f"client {c}" for c in clients)],
        [[name, *(percent(a) for a in accuracies)] for name, (_, accuracies) in zip(names, rounds, strict=True)],
    )
    note = "On the whole test set. Empty frames: not measured in that round."
    return Figure("Accuracy by client and round", note, WIDTH, height, body, table, shades=SHARES)


def class_figure(run: RunRecord) -> Figure | None:
    """Accuracy of each client on each class, at the end."""
    found = run.evaluation
    if found is None or all(row is None for row in found.correct_by_class):
        return None
    totals = found.test_by_class
    values = [
        [None if row is None or not n else row[c] / n for c, n in enumerate(totals)] for row in found.correct_by_class
    ]
    clients, classes = [str(c) for c in range(len(values))], [str(c) for c in range(len(totals))]
    texts = [["" if v is None else f"{100 * v:.0f}" for v in row] for row in values]
    height, body = heat_map(values, clients, classes, ("class", "client"), texts)
    rows = [[c, *(percent(v) for v in row)] for c, row in zip(clients, values, strict=True)]
    rows.append(["test samples", *(f"{n:,}" for n in totals)])
    table = Table(["client", *(f"class {c}" for c in classes)], rows)
    note = "At the end, in per cent of the test samples of each class."
    return Figure("Accuracy by client and class", note, WIDTH, height, body, table, shades=SHARES)


def data_figure(run: RunRecord) -> Figure | None:
    """Samples of each class that each client was dealt."""
    if run.partition is None:
        return None
    holdings = run.partition.clients
    counts = [h.samples_by_class for h in holdings]
    most = max((n for row in counts for n in row), default=0) or 1
    values = [[n / most if n else None for n in row] for row in counts]
    clients, classes = [str(h.client) for h in holdings], [str(c) for c in range(len(counts[0]))]
    texts = [["" if not n else str(n) for n in row] for row in counts]
    height, body = heat_map(values, clients, classes, ("class", "client"), texts)
    table = Table(
        ["client", *(f"class {c}" for c in classes), "to train on", "held out", "contributed"],
        [
            [c, *(f"{n:,}" for n in h.samples_by_class), f"{h.train:,}", f"{h.heldout:,}", f"{h.contributed:,}"]
            for c, h in zip(clients, holdings, strict=True)
        ],
    )
    note = "Samples that each client was dealt, contributed and held-out ones included. Empty frames: none."
    return Figure("Private data by client and class", note, WIDTH, height, body, table, shades=("1", f"{most:,}"))


def claims_figure(run: RunRecord) -> Figure | None:
    """Kept fraction and wrong claims of each client in the last round that was answered."""
    if not run.answered or not any(run.answered[-1].kept_per_client):
        return None
    last = run.answered[-1]
    clients = [str(c) for c in range(len(last.kept_per_client))]
    nothing: list[float | None] = [None] * len(clients)
    series: list[tuple[str, Sequence[float | None]]] = [("kept", last.kept_per_client)]
    if last.wrong_claims_per_client is not None:
        series.append(("wrong", last.wrong_claims_per_client))
        series.append(("wrong by weight", last.wrong_weight_per_client or nothing))
    height, body = dot_plot(clients, Axis("share", 0, 1, tick_percent), series)
    table = Table(
        ["client", *(name for name, _ in series)],
        [[c, *(percent(values[i]) for _, values in series)] for i, c in enumerate(clients)],
    )
    note = (
        f"In round {last.round}. Kept: share of proxy rows that the client answers for. Wrong: share of its answers "
        "for samples of a class that it has never seen; by weight: the share of its weights that lies on them."
    )
    legend = [(style, name) for style, (name, _) in enumerate(series)]
    return Figure("Claims by client", note, WIDTH, height, body, table, legend, dots=True)


def calibration_figure(run: RunRecord) -> Figure | None:
    """ECE of each client's model and its agreement with the teacher, at the end."""
    last = run.rounds[-1]
    errors = [None if bins is None else ece(bins) for bins in run.evaluation.clients] if run.evaluation else []
    if all(e is None for e in errors):
        return None
    clients = [str(c) for c in range(len(errors))]
    series: list[tuple[str, Sequence[float | None]]] = [("calibration error", errors)]
    if last.agreement_per_client is not None:
        series.append(("agreement with the teacher", last.agreement_per_client))
    if last.accuracy_per_client is not None:
        series.append(("accuracy", last.accuracy_per_client))
    height, body = dot_plot(clients, Axis("share", 0, 1, tick_percent), series)
    table = Table(
        ["client", *(name for name, _ in series)],
        [[c, *(percent(values[i]) for _, values in series)] for i, c in enumerate(clients)],
    )
    note = "At the end: expected calibration error and accuracy on the test set, agreement on the teacher's rows."
    legend = [(style, name) for style, (name, _) in enumerate(series)]
    return Figure("Calibration and agreement by client", note, WIDTH, height, body, table, legend, dots=True)
