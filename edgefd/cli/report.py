"""Commands that read run folders: tables and report pages."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgefd.cli.common import Runs, console
from edgefd.core.errors import require


class Format(StrEnum):
    """Output format of `edgefd compare`."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    wide = "wide"
    """Markdown with one column for each scenario"""


def compare(
    runs: Runs,
    form: Annotated[
        Format,
        typer.Option("--format", help="output format; wide: Markdown with one column for each scenario"),
    ] = Format.text,
    over: Annotated[str, typer.Option(help="the setting to average over, such as data.test_people")] = "seed",
) -> None:
    """Compare runs: mean, standard deviation and 95 % interval over seeds, or over another setting.

    Example: edgefd compare runs/mini --format markdown
    """
    require("sim", "scipy")
    from edgefd.report.compare import compare as group_runs
    from edgefd.report.compare import load_runs, to_csv, to_markdown
    from edgefd.report.paper_table import to_wide
    from edgefd.simulation.progress import comparison_tables

    records = load_runs(runs)
    if form is Format.text:
        console.print(*comparison_tables(group_runs(records, over)))
    elif form is Format.wide:
        print(to_wide(records, over), end="")
    else:
        print((to_csv if form is Format.csv else to_markdown)(group_runs(records, over)), end="")


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
