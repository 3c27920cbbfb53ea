"""Commands that show what the exchanged knowledge discloses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgefd.cli.common import console, require_simulation
from edgefd.core.errors import RunError


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run with run.record_knowledge=true")],
    level: Annotated[
        int | None,
        typer.Option(
            "--level",
            min=0,
            max=2,
            help="0: takes seconds; 1: adds attacks on models; 2: adds shadow federations (default: 1; 0 for a run "
            "that a coordinator recorded)",
        ),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option("--attack", metavar="NAME", help="an attack to run (default: all)")
    ] = None,
    adversary: Annotated[
        list[str] | None,
        typer.Option("--adversary", help="server, client, holder, eavesdropper or observer (default: all)"),
    ] = None,
    fail_if: Annotated[
        list[str] | None,
        typer.Option("--fail-if", metavar="LIMIT", help="exit with 1 if this holds, such as 'tpr@1%>0.05'"),
    ] = None,
    shadows: Annotated[
        int | None,
        typer.Option("--shadows", metavar="N", help="with level 2: the number of shadow federations (default: 16)"),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="replace the results of a larger audit, instead of keeping both")
    ] = False,
) -> None:
    """Measure what a recorded run disclosed, and to whom, with intervals and controls. Write the results to RUN/audit.

    Example: edgefd audit runs/first --fail-if 'presence_auc>0.9'
    """
    require_simulation()
    from edgefd.auditing.report.limits import parse_limit
    from edgefd.auditing.report.terminal import notes, progress, summary
    from edgefd.auditing.request import parse_request
    from edgefd.auditing.run_audit import audit as run_audit
    from edgefd.auditing.write import verdict_error

    limits = [parse_limit(text) for text in fail_if or []]
    request = parse_request(level, attack or [], adversary or [], limits, shadows, replace)
    with progress(console) as show:
        result = run_audit(run, request, show)
    for line in summary(result):
        console.print(line)
    for note in notes(result, run, level):
        console.print(note, soft_wrap=True)
    console.print(f"{Path(result['folder']) / 'audit.html'}", highlight=False, soft_wrap=True)
    if error := verdict_error(result):
        raise RunError(error)


def inspect(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="a report, teacher or plan (.bin), an npz, or the folder RUN/knowledge"),
    ],
) -> None:
    """List every field of a message file, exactly as it is transmitted, or the bits per row of all recorded rounds.

    Example: edgefd inspect runs/first/knowledge/rounds/0003/reports/2.bin
    """
    from edgefd.wire.describe import describe
    from edgefd.wire.describe_rounds import describe_rounds

    for line in describe_rounds(file) if file.is_dir() else describe(file):
        print(line)
