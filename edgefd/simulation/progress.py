"""Output of a simulation: a progress bar during each run, and a table of all methods at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgefd.report.bytes_table import FIGURES as BYTES_FIGURES
from edgefd.report.bytes_table import bytes_rows, header
from edgefd.report.compare import HEADER, cells, compare
from edgefd.report.personal_table import FIGURES, personal_rows
from edgefd.report.personal_table import HEADER as PERSONAL_HEADER
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.notebook import NotebookBar

_FILTERING = "clients filter the proxy set"


_OPTIONAL = ("settings", "virtual s", "J")
"""columns that a table leaves out if they are empty"""


def results_table(summaries: list[dict[str, Any]]) -> Table:
    """Return a table with one row for each method.

    kept: accepted fraction, the fraction of the proxy rows that a client sends soft labels for; wrong: out-of-class
    fraction, the fraction of these rows whose class the client does not have; loss: training loss of the last round;
    up, down, once: MB; s: seconds; labels: whether the method uses labels of proxy samples.
    """
    first = summaries[0]
    title = f"{first['dataset']}, {first['scenario']}, {first['rounds']} rounds, seed {first['seed']}: final accuracy"
    samples = "whole test set" if first["evaluated_on"] == "test" else "validation part"
    caption = f"on the {samples}, after the last round; up, down, once: MB"
    table = Table(title=title, caption=caption, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("mean", "worst", "kept", "wrong", "loss", "up", "down", "once", "s", "labels"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in summaries:
        table.add_row(
            s["method"],
            _fraction(s["accuracy_mean"]),
            _fraction(s["accuracy_worst"]),
            _fraction(s["kept_fraction"]),
            _fraction(s["wrong_claims"]),
            "-" if s["training_loss"] is None else f"{s['training_loss']:.2f}",
            *(f"{s[key] / 1e6:.2f}" for key in ("bytes_up", "bytes_down", "bytes_once")),
            f"{s['seconds_total']:.0f}",
            "yes" if s["proxy_labels_used"] else "no",
        )
    return table


def comparison_tables(runs: Sequence[dict[str, Any]], over: str = "seed") -> Iterator[Table]:
    """Yield a table of accuracies for each data set and scenario; the formats csv and markdown have more columns."""
    columns = ("method", "mean", "std", "95 %", "worst", "up MB", *_OPTIONAL[1:], "runs", "settings")
    rows = [cells(group) for group in compare(runs, over)]
    return _tables(HEADER, rows, columns, "accuracy in per cent", None)


def personal_tables(runs: Sequence[dict[str, Any]], over: str = "seed") -> Iterator[Table]:
    """Yield a table of personal and general quality for each data set and scenario."""
    caption = (
        "personal: on the client's own distribution; general: on the whole test set; BAM: their geometric mean; F1: "
        "macro F1; 10 %, 50 %, 90 %: quantiles over clients of the general accuracy"
    )
    columns = ("method", *FIGURES, "runs", "settings")
    return _tables(PERSONAL_HEADER, personal_rows(runs, over), columns, "means over clients in per cent", caption)


def bytes_tables(runs: Sequence[dict[str, Any]], over: str = "seed", reach: Sequence[float] = ()) -> Iterator[Table]:
    """Yield a table of bytes until an accuracy was measured for each data set and scenario."""
    names = header(reach)
    columns = ("method", *names[names.index(BYTES_FIGURES[0]) :], "runs", "settings")
    caption = "MB: once, up and down, of all clients, until the accuracy was first measured"
    return _tables(names, bytes_rows(runs, reach, over), columns, "best accuracy in per cent, and bytes", caption)


def _tables(
    header: Sequence[str], rows: Sequence[list[str]], columns: Sequence[str], title: str, caption: str | None
) -> Iterator[Table]:
    """Yield a table with some of the columns for each data set and scenario, the first two columns of the header."""
    for (dataset, scenario), members in groupby(rows, key=lambda row: (row[0], row[1])):
        table = Table(
            title=f"{dataset}, {scenario}: {title}", caption=caption, box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False
        )
        named = [dict(zip(header, row, strict=True)) for row in members]
        shown = [c for c in columns if c not in _OPTIONAL or any(row[c] not in ("", "-") for row in named)]
        for name in shown:
            widest = max(len(row[name]) for row in named)
            table.add_column(
                name,
                justify="left" if name in ("method", "settings") else "right",
                min_width=None if name == "settings" else max(widest, len(name)),
            )
        for row in named:
            table.add_row(*(row[name] for name in shown))
        yield table


def print_data(prepared: PreparedRun, console: Console) -> None:
    """Print one line about the data of a run."""
    dataset, federation = prepared.dataset, prepared.federation
    console.print(
        f"{dataset.name} ({dataset.source}, {len(dataset.x_train)} + {len(dataset.x_test)} samples, "
        f"sha256 {dataset.sha256[:12]}), {prepared.config.partition.name}, {len(federation.clients)} clients, "
        f"{len(federation.proxy)} proxy samples",
        highlight=False,
    )
    if dataset.proxy is not None:
        console.print(f"proxy set: {dataset.proxy.source}", markup=False, highlight=False, soft_wrap=True)


def show_progress(
    prepared: PreparedRun, console: Console, rounds: Iterator[RoundMetrics], done: int = 0
) -> Iterator[RoundMetrics]:
    """Pass the rounds on, with a progress bar on a terminal or in a notebook, else with a plain line for each round.

    `done` is the number of rounds that were completed before the run was resumed.
    """
    name, total = prepared.config.method_name, prepared.config.train.rounds + 1
    if console.is_jupyter:
        yield from _in_notebook(NotebookBar(name, total, _FILTERING), rounds)
        return
    if not console.is_terminal:
        for m in rounds:
            console.print(
                f"{name} {m.round + 1}/{total} {_line(m, m.accuracy_mean)}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            yield m
        return
    columns = (TextColumn(f"{name:>12}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(_FILTERING, total=total, completed=done)
        accuracy = None
        for m in rounds:
            accuracy = m.accuracy_mean or accuracy
            progress.update(task, advance=1, description=_line(m, accuracy))
            yield m


def _in_notebook(bar: NotebookBar, rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
    accuracy = None
    try:
        for m in rounds:
            accuracy = m.accuracy_mean or accuracy
            bar.update(m.round + 1, _line(m, accuracy))
            yield m
    finally:
        bar.show()


def _line(m: RoundMetrics, accuracy: float | None) -> str:
    phase = "closing" if m.closing else f"kept {_fraction(m.kept_fraction)}"
    return f"accuracy {_fraction(accuracy)}  {phase}  up {m.bytes_up / 1e6:.2f} MB  down {m.bytes_down / 1e6:.2f} MB"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
