"""Plots within one run: its clients by round and by class."""

from __future__ import annotations

from collections.abc import Sequence

from edgefd.report.figure import Figure, percent, tick_percent
from edgefd.report.html import Table
from edgefd.report.plots import dot_plot, heat_map
from edgefd.report.svg import WIDTH, Axis
from edgefd.runs.calibration import ece
from edgefd.runs.personal_metrics import bam
from edgefd.runs.read import RunRecord

SHARES = ("0 %", "100 %")


def figures_within_run(run: RunRecord) -> list[Figure]:
    """Return the plots for which the run recorded the numbers."""
    draw = (accuracy_figure, personal_figure, class_figure, data_figure, acceptance_figure, calibration_figure)
    return [figure for figure in (each(run) for each in draw) if figure is not None]


def accuracy_figure(run: RunRecord) -> Figure | None:
    """Plot the accuracy of each client by evaluated round."""
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


def personal_figure(run: RunRecord) -> Figure | None:
    """Plot the accuracy of each client on its own distribution and on the whole test set, at the end."""
    last = run.rounds[-1]
    personal, general = last.personal_accuracy_per_client, last.accuracy_per_client
    if personal is None or general is None:
        return None
    pairs = zip(personal, general, strict=True)
    both = [None if p is None or g is None else bam(p, g) for p, g in pairs]
    clients = [str(c) for c in range(len(personal))]
    note = (
        "At the end. Personal: on the client's own distribution of classes; for clients that are people, on their "
        "held-out samples. General: on the whole test set. BAM: the geometric mean of both."
    )
    return _by_client(
        "Personal and general accuracy by client",
        note,
        clients,
        [("personal", personal), ("general", general), ("BAM", both)],
    )


def class_figure(run: RunRecord) -> Figure | None:
    """Plot the accuracy of each client on each class, at the end."""
    evaluation = run.evaluation
    if evaluation is None or (totals := evaluation.test_by_class) is None:
        return None
    if all(row is None for row in evaluation.correct_by_class):
        return None
    values = [
        [None if row is None or not n else row[c] / n for c, n in enumerate(totals)]
        for row in evaluation.correct_by_class
    ]
    clients, classes = [str(c) for c in range(len(values))], [str(c) for c in range(len(totals))]
    texts = [["" if v is None else f"{100 * v:.0f}" for v in row] for row in values]
    height, body = heat_map(values, clients, classes, ("class", "client"), texts)
    rows = [[c, *(percent(v) for v in row)] for c, row in zip(clients, values, strict=True)]
    rows.append(["test samples", *(f"{n:,}" for n in totals)])
    table = Table(["client", *_class_titles(run, len(totals))], rows)
    note = "At the end, in per cent of the test samples of each class."
    return Figure("Accuracy by client and class", note, WIDTH, height, body, table, shades=SHARES)


def _class_titles(run: RunRecord, n: int) -> list[str]:
    """Return titles of columns for classes: their numbers, with their labels in the source if these differ."""
    names = None if run.partition is None else run.partition.label_names
    return [f"class {c}" if names is None or len(names) != n else f"class {c}: {names[c]}" for c in range(n)]


def data_figure(run: RunRecord) -> Figure | None:
    """Plot the samples of each class that each client received from the partition."""
    if run.partition is None or (clients := run.partition.clients) is None:
        return None
    counts = [client.samples_by_class for client in clients]
    most = max((n for row in counts for n in row), default=0) or 1
    values = [[n / most if n else None for n in row] for row in counts]
    names, classes = [str(client.client) for client in clients], [str(c) for c in range(len(counts[0]))]
    texts = [["" if not n else str(n) for n in row] for row in counts]
    height, body = heat_map(values, names, classes, ("class", "client"), texts)
    table = Table(
        ["client", *_class_titles(run, len(classes)), "to train on", "held out", "contributed"],
        [
            [name, *(f"{n:,}" for n in (*c.samples_by_class, c.train, c.heldout, c.contributed))]
            for name, c in zip(names, clients, strict=True)
        ],
    )
    note = "Samples that each client received, including contributed and held-out ones. Empty frames: none."
    return Figure("Private data by client and class", note, WIDTH, height, body, table, shades=("1", f"{most:,}"))


def acceptance_figure(run: RunRecord) -> Figure | None:
    """Plot the accepted and the out-of-class fraction of each client in the last round with reports."""
    if not run.answered or not any(run.answered[-1].kept_per_client):
        return None
    last = run.answered[-1]
    clients = [str(c) for c in range(len(last.kept_per_client))]
    not_measured: list[float | None] = [None] * len(clients)
    series: list[tuple[str, Sequence[float | None]]] = [("accepted", last.kept_per_client)]
    if last.wrong_claims_per_client is not None:
        series.append(("out of class", last.wrong_claims_per_client))
        series.append(("out of class by weight", last.wrong_weight_per_client or not_measured))
    note = (
        f"In round {last.round}. Accepted: share of proxy rows for which the client sends soft labels. Out of class: "
        "share of these soft labels that are for samples of a class that the client has never seen; by weight: the "
        "share of the client's weights on such samples."
    )
    return _by_client("Acceptance by client", note, clients, series)


def calibration_figure(run: RunRecord) -> Figure | None:
    """Plot the calibration error of each client's model and its agreement with the teacher, at the end."""
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
    note = "At the end: expected calibration error and accuracy on the test set, agreement on the teacher's rows."
    return _by_client("Calibration and agreement by client", note, clients, series)


def _by_client(
    title: str, note: str, clients: Sequence[str], series: Sequence[tuple[str, Sequence[float | None]]]
) -> Figure:
    """Plot named shares of each client as dots."""
    height, body = dot_plot(clients, Axis("share", 0, 1, tick_percent), series)
    table = Table(
        ["client", *(name for name, _ in series)],
        [[c, *(percent(values[i]) for _, values in series)] for i, c in enumerate(clients)],
    )
    legend = [(style, name) for style, (name, _) in enumerate(series)]
    return Figure(title, note, WIDTH, height, body, table, legend, dots=True)
