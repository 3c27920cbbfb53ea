"""What `edgefd simulate` shows: a progress bar while it runs, a table of all methods at the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgefd.config.schema import Config
from edgefd.report.compare import HEADER, Group, cells
from edgefd.rounds.participation import check_supported_over_flower
from edgefd.runs.execute import execute_run
from edgefd.runs.folder import run_folder
from edgefd.runs.prepare import PreparedRun, prepare
from edgefd.runs.record import check_unrecorded
from edgefd.runs.round_metrics import RoundMetrics
from edgefd.simulation.engine import open_transport, simulate
from edgefd.simulation.ray import check_ray, simulate_ray

Engine = Literal["local", "ray"]


def simulate_all(config: Config, out: Path | None, console: Console, engine: Engine = "local") -> list[dict[str, Any]]:
    """Run the config's method in `out`, then each of `also` on the same split in `out`/also/<method>; print a table."""
    if engine == "ray":
        check_supported_over_flower(config.coordinator)
        check_unrecorded(config, "with --engine ray")
        check_ray()
    todo = [prepare(config)] + [
        prepare(config.for_method(name)) for name in config.baselines
    ]  # bad input shows before work
    folder = run_folder(config, out)
    _say_what(todo[0], console)
    summaries = []
    for prepared in todo:
        name = prepared.config.method_name
        place = folder if prepared is todo[0] else run_folder(prepared.config, folder / "also" / name)
        summaries.append(_run_shown(prepared, place, console, engine))
    console.print(results_table(summaries))
    console.print(f"run folder: {folder}")
    return summaries


def results_table(summaries: list[dict[str, Any]]) -> Table:
    """Methods side by side.

    kept: share of proxy rows a client answers for; wrong: share of answers for classes the client does not have;
    labels: whether labels of proxy samples are used.
    """
    first = summaries[0]
    title = f"{first['dataset']}, {first['scenario']}, {first['rounds']} rounds, seed {first['seed']}: final accuracy"
    caption = "on the whole test set, after the last round; up, down, once: MB"
    table = Table(title=title, caption=caption, box=SIMPLE, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for name in ("mean", "worst", "kept", "wrong", "up", "down", "once", "s", "labels"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in summaries:
        table.add_row(
            s["method"],
            _fraction(s["accuracy_mean"]),
            _fraction(s["accuracy_worst"]),
            _fraction(s["kept_fraction"]),
            _fraction(s["wrong_claims"]),
            *(f"{s[key] / 1e6:.2f}" for key in ("bytes_up", "bytes_down", "bytes_once")),
            f"{s['seconds_total']:.0f}",
            "yes" if s["proxy_labels_used"] else "no",
        )
    return table


def comparison_tables(groups: Sequence[Group]) -> Iterator[Table]:
    """A table for each data set and scenario; csv and markdown have more columns."""
    shown = ("method", "mean", "std", "95 %", "worst", "up MB", "runs", "settings")
    for (dataset, scenario), members in groupby(groups, key=lambda g: (g.dataset, g.scenario)):
        table = Table(title=f"{dataset}, {scenario}: accuracy in per cent", box=SIMPLE, pad_edge=False)
        rows = [dict(zip(HEADER, cells(group), strict=True)) for group in members]
        for name in shown:
            widest = max(len(row[name]) for row in rows)
            table.add_column(
                name,
                justify="left" if name in ("method", "settings") else "right",
                min_width=None if name == "settings" else max(widest, len(name)),
            )
        for row in rows:
            table.add_row(*(row[name] for name in shown))
        yield table


def _say_what(prepared: PreparedRun, console: Console) -> None:
    dataset, federation = prepared.dataset, prepared.federation
    console.print(
        f"{dataset.name} ({dataset.source}, {len(dataset.x_train)} + {len(dataset.x_test)} samples, "
        f"sha256 {dataset.sha256[:12]}), {prepared.config.partition.name}, {len(federation.clients)} clients, "
        f"{len(federation.proxy)} proxy samples",
        highlight=False,
    )


def _run_shown(prepared: PreparedRun, folder: Path, console: Console, engine: Engine) -> dict[str, Any]:
    """Run with a live bar on a terminal, else with a plain line a round."""
    name, total = prepared.config.method_name, prepared.config.train.rounds + 1

    def bar(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
        columns = (TextColumn(f"{name:>12}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            task = progress.add_task("clients filter the proxy set", total=total)
            accuracy = None
            for m in rounds:
                accuracy = m.accuracy_mean or accuracy
                progress.update(task, advance=1, description=_line(m, accuracy))
                yield m

    def lines(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
        for m in rounds:
            print(f"{name} {m.round + 1}/{total} {_line(m, m.accuracy_mean)}", flush=True)
            yield m

    def rounds() -> Iterator[RoundMetrics]:
        config, federation = prepared.config, prepared.federation
        if engine == "ray":
            return simulate_ray(config, len(federation.clients))
        return simulate(open_transport(config, federation), folder)

    return execute_run(prepared, folder, bar if console.is_terminal else lines, rounds)


def _line(m: RoundMetrics, accuracy: float | None) -> str:
    kept = "closing" if m.closing else f"kept {_fraction(m.kept_fraction)}"
    return f"accuracy {_fraction(accuracy)}  {kept}  up {m.bytes_up / 1e6:.2f} MB  down {m.bytes_down / 1e6:.2f} MB"


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
