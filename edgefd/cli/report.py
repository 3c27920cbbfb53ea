"""Commands that read run folders: tables and report pages."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgefd.cli.common import Runs, console
from edgefd.core.errors import UserError, require


class Format(StrEnum):
    """Output format of `edgefd compare`."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    wide = "wide"
    """Markdown with one column for each scenario"""


class Metrics(StrEnum):
    """Figures that `edgefd compare` and `edgefd sweep` show."""

    accuracy = "accuracy"
    personal = "personal"
    bytes = "bytes"


MetricsChoice = Annotated[
    Metrics,
    typer.Option(
        "--metrics",
        help="accuracy: on the whole test set; personal: each client on its own distribution and on the whole test "
        "set, their geometric mean, macro F1, and quantiles over clients; bytes: sent until an accuracy was measured",
    ),
]


def compare(
    runs: Runs,
    form: Annotated[
        Format,
        typer.Option("--format", help="output format; wide: Markdown with one column for each scenario"),
    ] = Format.text,
    over: Annotated[str, typer.Option(help="the setting to average over, such as data.test_people")] = "seed",
    metrics: MetricsChoice = Metrics.accuracy,
    reach: Annotated[
        list[float] | None,
        typer.Option(help="with --metrics bytes: an accuracy to be reached, such as 0.97; can be given several times"),
    ] = None,
) -> None:
    """Compare runs: mean, standard deviation and 95 % interval over seeds, or over another setting.

    Example: edgefd compare runs/mini --format markdown
    """
    require("sim", "scipy")
    from edgefd.report.bytes_table import bytes_rows, header
    from edgefd.report.compare import HEADER, cells, load_runs, to_csv, to_markdown
    from edgefd.report.compare import compare as group_runs
    from edgefd.report.paper_table import to_wide
    from edgefd.report.personal_table import HEADER as PERSONAL_HEADER
    from edgefd.report.personal_table import personal_rows

    if form is Format.wide and metrics is not Metrics.accuracy:
        raise UserError(f"--format wide shows accuracies only: remove --metrics {metrics}, or use another format")
    if reach and metrics is not Metrics.bytes:
        raise UserError(f"--reach is for --metrics bytes, not for {metrics}: add it, or remove --reach")
    if any(not 0 < accuracy <= 1 for accuracy in reach or []):
        raise UserError("--reach must be an accuracy above 0 and up to 1, such as 0.97")
    records = load_runs(runs)
    if form is Format.text:
        print_comparison(records, metrics, over, reach or ())
        return
    if form is Format.wide:
        print(to_wide(records, over), end="")
        return
    if metrics is Metrics.personal:
        table: tuple[Sequence[str], list[list[str]]] = (PERSONAL_HEADER, personal_rows(records, over))
    elif metrics is Metrics.bytes:
        table = (header(reach or ()), bytes_rows(records, reach or (), over))
    else:
        table = (HEADER, [cells(group) for group in group_runs(records, over)])
    print((to_csv if form is Format.csv else to_markdown)(*table), end="")


def print_comparison(
    records: Sequence[dict[str, Any]], metrics: Metrics, over: str = "seed", reach: Sequence[float] = ()
) -> None:
    """Print tables of finished runs."""
    from edgefd.simulation.progress import bytes_tables, comparison_tables, personal_tables

    if metrics is Metrics.bytes:
        console.print(*bytes_tables(records, over, reach))
        return
    tables = personal_tables if metrics is Metrics.personal else comparison_tables
    console.print(*tables(records, over))


def report(
    runs: Runs,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="the page to write (default: report.html, in RUN if there is one RUN, else in the working directory)",
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about runs: accuracy, acceptance, calibration, bytes, by round and by client.

    Example: edgefd report runs/first --out report.html
    """
    require("sim", "scipy")
    from edgefd.report.command import write_report

    console.print(f"report: {write_report(runs, out)}", highlight=False, markup=False, soft_wrap=True)
