"""Compare runs by the bytes that an accuracy took: `edgefd compare --metrics bytes --reach 0.97`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgefd.report.compare import NAMES, ranked_rows
from edgefd.report.settings import bytes_until
from edgefd.runs.read import RunRecord, read_run

FIGURES = ("best", "MB to best")


def header(reach: Sequence[float]) -> tuple[str, ...]:
    """Return the header of the table, with a column for each accuracy that is to be reached."""
    return (*NAMES, *FIGURES, *(f"MB to {100 * r:g} %" for r in reach))


def bytes_rows(runs: Sequence[dict[str, Any]], reach: Sequence[float] = (), over: str = "seed") -> list[list[str]]:
    """Return the rows of a table under `header`, best accuracy first within each data set and scenario.

    All figures are means over the runs of a row: the best mean accuracy over clients of any round, in per cent, and the
    bytes of all clients until this accuracy, or one that is to be reached, was first measured (`bytes_to`). If a run
    did not reach it, the mean is over the others, whose number stands in brackets. A dash means that none did.

    Args:
        runs: finished runs (`load_runs`).
        reach: accuracies, such as 0.97.
        over: the key of the setting to average over.

    Raises:
        UserError: as `edgefd.report.compare.compare`, or if the metrics of a run cannot be read.
    """

    def figures(members: Sequence[dict[str, Any]]) -> tuple[float, list[str]]:
        records = [read_run(Path(run["folder"])) for run in members]
        best = [max(m.accuracy_mean for m in r.rounds if m.accuracy_mean is not None) for r in records]
        mean = float(np.mean(best))
        texts = [f"{100 * mean:.1f}", _megabytes([bytes_to(r, b) for r, b in zip(records, best, strict=True)])]
        return mean, texts + [_megabytes([bytes_to(r, accuracy) for r in records]) for accuracy in reach]

    return ranked_rows(runs, over, figures)


def bytes_to(run: RunRecord, accuracy: float) -> int | None:
    """Return the bytes until a run first measured a mean accuracy; None if it never did.

    The bytes are those of all clients: once, up and down. A round is measured after its teacher was sent and distilled
    and before its reports.
    """
    once = (run.summary.bytes_once if run.summary else None) or 0
    sent = bytes_until(run)
    for m in run.rounds:
        if m.accuracy_mean is not None and m.accuracy_mean >= accuracy:
            return once + sent[m.round]
    return None


def _megabytes(found: Sequence[int | None]) -> str:
    reached = [sent for sent in found if sent is not None]
    if not reached:
        return "-"
    some = "" if len(reached) == len(found) else f" ({len(reached)} of {len(found)})"
    return f"{np.mean(reached) / 1e6:.2f}{some}"
