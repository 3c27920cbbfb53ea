"""Reliability curves: accuracy by confidence at the end of a run, of the clients' models or of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from edgefd.report.by_round import CALIBRATION
from edgefd.report.figure import Figure, percent, tick_percent
from edgefd.report.html import Table
from edgefd.report.plots import Curve, line_plot
from edgefd.report.settings import Setting, absent_note, final, point_text
from edgefd.report.svg import HEIGHT, WIDTH, Axis
from edgefd.runs.calibration import BINS, Reliability, pooled

Model = Literal["clients", "teacher"]

_TITLES = {"clients": "Reliability of the clients' models", "teacher": "Reliability of the teacher"}
_ROWS = {"clients": "on the test set, all clients together", "teacher": "on the proxy rows that the teacher covers"}


def reliability_figure(settings: Sequence[Setting], model: Model) -> Figure | None:
    """Plot accuracy by confidence, of all clients' rows pooled or of the teacher; None if no setting has bins."""
    shown = [(s, bins) for s in settings if (bins := _bins(s, model))]
    if not shown:
        return None
    x, y = Axis("confidence", 0, 1, tick_percent), Axis("", 0, 1, tick_percent)
    note = (
        f"Accuracy by confidence at the end, {_ROWS[model]}. On the dashed line, accuracy equals confidence; below it, "
        "the model is overconfident. Large marks hold many rows."
    )
    error = CALIBRATION[0 if model == "clients" else 1].value
    legend = [(s.style, f"{s.name}: ECE {point_text(final(s, error))}, {sum(bins.count):,} rows") for s, bins in shown]
    table = Table(
        ["", "rows", "mean confidence", "accuracy"],
        [
            [s.name, f"{n:,}", percent(confidence / n), percent(correct / n)]
            for s, bins in shown
            for n, confidence, correct in zip(bins.count, bins.confidence, bins.correct, strict=True)
            if n
        ],
    )
    body = line_plot(x, y, [_curve(s, bins) for s, bins in shown], diagonal=True)
    note += absent_note(settings, [s for s, _ in shown])
    return Figure(_TITLES[model], note, WIDTH, HEIGHT, body, table, legend)


def _bins(setting: Setting, model: Model) -> Reliability | None:
    """Pool the bins of all runs of a setting; None unless each of them has some."""
    by_run = []
    for run in setting.runs:
        if run.evaluation is None:
            return None
        parts = run.evaluation.clients if model == "clients" else [run.evaluation.teacher]
        by_run.append([part for part in parts if part is not None])
    return pooled(part for parts in by_run for part in parts) if all(by_run) else None


def _curve(setting: Setting, bins: Reliability) -> Curve:
    total = sum(bins.count)
    filled = [i for i in range(BINS) if bins.count[i]]
    points = tuple((bins.confidence[i] / bins.count[i], bins.correct[i] / bins.count[i]) for i in filled)
    radii = tuple(1.5 + 6 * (bins.count[i] / total) ** 0.5 for i in filled)
    return Curve(setting.name, setting.style, points, radii=radii)
