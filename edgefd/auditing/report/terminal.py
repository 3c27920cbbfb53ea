"""The output of `edgefd audit` on a terminal: progress, verdicts and a table of the best attacks."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from edgefd.auditing.progress import OnStep
from edgefd.auditing.report.formats import interval_text
from edgefd.auditing.report.verdict import WHO, results_on_records, verdicts
from edgefd.core.text import escaped
from edgefd.simulation.notebook import NotebookBar


@contextmanager
def progress(console: Console) -> Iterator[Callable[[int], OnStep]]:
    """Show a progress bar on a terminal or in a notebook, and one line per step elsewhere."""
    if console.is_jupyter:
        yield _notebook_bar
        return
    if not console.is_terminal:
        yield _print_lines
        return
    with Progress(console=console) as bar:

        def start(n: int) -> OnStep:
            task = bar.add_task("audit", total=n)
            return lambda step: bar.update(task, advance=1, description=step)

        yield start


def _notebook_bar(n: int) -> OnStep:
    bar, done = NotebookBar("audit", n, "begins"), itertools.count(1)

    def step(description: str) -> None:
        bar.update(next(done), description)
        bar.show()

    return step


def _print_lines(n: int) -> OnStep:
    began = time.perf_counter()
    return lambda step: print(f"audit: {step} ({time.perf_counter() - began:.0f} s)", flush=True)


def notes(result: Mapping[str, Any], run: Path, level: int | None) -> Iterator[str]:
    """Yield what the user did not ask for: a lower level, or another folder of the results."""
    if result["deployed"] and level is None:
        yield "level 0: this run was recorded by a coordinator, which has no private records and no models to attack"
    if Path(result["folder"]) != run / "audit":
        yield f"{run / 'audit'} holds the results of a larger audit, which are kept (--replace replaces them)"


def summary(result: Mapping[str, Any]) -> Iterator[Table | Text]:
    """Yield the verdicts, then a table of the best attacks."""
    for adversary, findings in verdicts(result).items():
        yield Text.assemble((adversary, "bold"), f": {WHO[adversary]},")
        for finding in findings:
            yield Text.assemble(("  ! " if finding.leak else "  - "), escaped(str(finding)))
    best = sorted(results_on_records(result), key=lambda r: -r["auc"]["value"])[:10]
    if not best:
        return
    table = Table(title="membership, the ten best attacks, with 95 % intervals", box=SIMPLE, pad_edge=False)
    for name in ("who", "attack", "round", "AUC", "TPR @ 1 %"):
        table.add_column(name, justify="left" if name in ("who", "attack") else "right", no_wrap=True)
    for r in best:
        rate = r["tpr"]["1%"]["tpr"]
        table.add_row(
            r["adversary"],
            r["attack"],
            "-" if r["round"] is None else str(r["round"]),
            interval_text(r["auc"]),
            interval_text(rate) if rate else "-",
        )
    yield table
