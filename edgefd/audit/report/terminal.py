"""What `edgefd audit` shows on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from edgefd.audit.report.verdict import records, verdicts

Tick = Callable[[str], None]


@contextmanager
def progress(console: Console) -> Iterator[Callable[[int], Tick]]:
    """A bar on a terminal, else a line a step."""
    if not console.is_terminal:
        yield _lines
        return
    with Progress(console=console) as bar:

        def show(n: int) -> Tick:
            task = bar.add_task("audit", total=n)
            return lambda what: bar.update(task, advance=1, description=what)

        yield show


def _lines(n: int) -> Tick:
    began = time.perf_counter()
    return lambda what: print(f"audit: {what} ({time.perf_counter() - began:.0f} s)", flush=True)


def summary(result: Mapping[str, Any]) -> Iterator[Table | str]:
    """The verdicts, then the best attacks of each adversary."""
    for who, text in verdicts(result).items():
        yield f"[bold]{who}[/bold]: {text}"
    found = sorted(records(result), key=lambda f: -f["auc"]["value"])
    if not found:
        return
    table = Table(title="membership, the ten best attacks", box=SIMPLE, pad_edge=False)
    for name in ("who", "attack", "round", "AUC", "95 %", "TPR @ 1 %"):
        table.add_column(name, justify="left" if name in ("who", "attack") else "right", no_wrap=True)
    for f in found[:10]:
        a, rate = f["auc"], f["tpr"]["1%"]["tpr"]
        table.add_row(
            f["adversary"],
            f["attack"],
            "-" if f["round"] is None else str(f["round"]),
            f"{a['value']:.3f}",
            f"{a['low']:.3f}..{a['high']:.3f}",
            f"{rate['value']:.3f}" if rate else "-",
        )
    yield table
