"""Compare runs by personal and general quality: `edgefd compare --metrics personal`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgefd.report.compare import NAMES, ranked_rows
from edgefd.runs.personal_metrics import QUANTILES

FIGURES = ("personal", "general", "BAM", "F1", *(f"{100 * q:.0f} %" for q in QUANTILES))
HEADER = (*NAMES, *FIGURES)


def personal_rows(runs: Sequence[dict[str, Any]], over: str = "seed") -> list[list[str]]:
    """Return the rows of a table under `HEADER`, in per cent, best BAM first within each data set and scenario.

    All figures are means over the runs of a row. The quantiles are over clients, of the accuracy on the whole test set.
    A dash stands for a figure that a run of an older edgefd does not have.

    Args:
        runs: finished runs (`load_runs`).
        over: the key of the setting to average over.

    Raises:
        UserError: as `edgefd.report.compare.compare`.
    """

    def texts(members: Sequence[dict[str, Any]]) -> tuple[float, list[str]]:
        figures = _figures(members)
        return figures[2] or 0.0, ["-" if value is None else f"{100 * value:.1f}" for value in figures]

    return ranked_rows(runs, over, texts)


def _figures(members: Sequence[dict[str, Any]]) -> list[float | None]:
    """Return the means over runs in the order of `FIGURES`."""
    keys = ("personal_accuracy_mean", "accuracy_mean", "bam_mean", "macro_f1_mean")
    figures = [_mean([run.get(key) for run in members]) for key in keys]
    of_clients = [run.get("accuracy_quantiles") or [None] * len(QUANTILES) for run in members]
    return figures + [_mean([values[i] for values in of_clients]) for i in range(len(QUANTILES))]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
