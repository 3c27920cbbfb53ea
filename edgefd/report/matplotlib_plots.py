"""Plots of runs as matplotlib figures, for notebooks and papers. The report page has plots of its own, without it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from edgefd.core.errors import UserError, hint, require
from edgefd.report.read import read_runs
from edgefd.report.settings import Point, Setting, accuracy_by_bytes, by_round, mean_of, settings_in
from edgefd.runs.read import RunRecord
from edgefd.runs.round_metrics import RoundMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PlotKind = Literal["accuracy", "clients", "bytes"]
_COLUMNS = 3
"""axes in a row of a plot of clients"""


def plot_runs(paths: Sequence[Path], kind: PlotKind = "accuracy") -> Figure:
    """Return a plot of the runs at or below `paths`: `accuracy`, `clients` or `bytes`.

    Runs that differ only in the seed are one curve: their mean, with its 95 % interval.

    Raises:
        UserError: if the runs cannot be read or compared, if they have no such measurement, or without matplotlib.
    """
    if kind not in get_args(PlotKind):
        raise UserError(f"unknown plot {kind!r}: {hint(str(kind), get_args(PlotKind))}")
    require("plot", "matplotlib")
    settings = settings_in(read_runs(paths))
    return {"accuracy": _accuracy, "clients": _clients, "bytes": _bytes}[kind](settings)


def _accuracy(settings: Sequence[Setting]) -> Figure:
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    label = _accuracy_name(settings)
    for setting in settings:
        _draw(axes, setting, by_round(setting, _accuracy_of), 1.0)
    axes.set(xlabel="round", ylabel=label)
    _whole_rounds(axes)
    axes.legend()
    return figure


def _clients(settings: Sequence[Setting]) -> Figure:
    """Plot each client of the first run of each setting, and their mean."""
    shown = [s for s in settings if any(m.accuracy_per_client for m in s.runs[0].rounds)]
    if not shown:
        raise UserError("these runs have no accuracy of single clients, as those of devices: use kind='accuracy'")
    columns = min(len(shown), _COLUMNS)
    rows = -(-len(shown) // columns)
    figure = _figure(1 + 3.4 * columns, 0.6 + 3.0 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, setting in zip(grid, shown, strict=False):
        run = setting.runs[0]
        rounds = [(m.round, m.accuracy_per_client) for m in run.rounds if m.accuracy_per_client is not None]
        for client in range(len(rounds[0][1])):
            points = [(r, values[client]) for r, values in rounds if values[client] is not None]
            axes.plot(*zip(*points, strict=True), color=f"C{setting.style}", alpha=0.35, linewidth=0.9)
        means = [(m.round, m.accuracy_mean) for m in run.rounds if m.accuracy_mean is not None]
        axes.plot(*zip(*means, strict=True), color=f"C{setting.style}", linewidth=2.2)
        axes.set(title=_plain(setting.name), xlabel="round")
        _whole_rounds(axes)
    figure.supylabel("accuracy of each client, and their mean")
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    return figure


def _bytes(settings: Sequence[Setting]) -> Figure:
    """Plot the bytes of all rounds by direction, and the accuracy against the bytes sent until then."""
    figure = _figure(10.0, 4.2)
    bars, curves = figure.subplots(1, 2)
    names = [_plain(s.name) for s in settings]
    left = [0.0] * len(settings)
    for direction, grey in (("up", "0.35"), ("down", "0.7")):
        points = [mean_of(s, partial(_total, direction=direction)) for s in settings]
        sizes = [p.mean / 1e6 if p else 0.0 for p in points]
        bars.barh(names, sizes, left=left, label=direction, color=grey)
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    bars.invert_yaxis()
    bars.set(xlabel="MB of all rounds and clients")
    bars.legend()
    for setting in settings:
        _draw(curves, setting, accuracy_by_bytes(setting), 1e-6)
    curves.set(xlabel="MB sent so far, up and down", ylabel="accuracy, mean over clients")
    curves.legend()
    return figure


def _whole_rounds(axes: Axes) -> None:
    """Label the x axis with whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _total(run: RunRecord, direction: str) -> int:
    return sum(getattr(m, f"bytes_{direction}") for m in run.rounds)


def _draw(axes: Axes, setting: Setting, points: Sequence[Point], unit: float) -> None:
    """Draw the curve of a setting, with the band of its intervals; x is in `unit`."""
    colour, xs = f"C{setting.style}", [unit * p.x for p in points]
    axes.plot(xs, [p.mean for p in points], color=colour, marker="o", markersize=3, label=_plain(setting.name))
    band = [(unit * p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    if band:
        x, low, high = zip(*band, strict=True)
        axes.fill_between(x, np.clip(low, 0, 1), np.clip(high, 0, 1), color=colour, alpha=0.2, linewidth=0)


def _accuracy_of(metrics: RoundMetrics) -> float | None:
    """Return the accuracy on the test set, or, for devices, on the clients' own held-out data."""
    return metrics.heldout_accuracy_mean if metrics.accuracy_mean is None else metrics.accuracy_mean


def _accuracy_name(settings: Sequence[Setting]) -> str:
    simulated = {run.simulated for s in settings for run in s.runs}
    if len(simulated) > 1:
        raise UserError("some of these runs are of devices, whose accuracy is not on the test set: plot them alone")
    return "accuracy, mean over clients" if simulated == {True} else "accuracy on clients' own held-out data"


def _plain(name: str) -> str:
    """Return a name in which matplotlib finds no formula."""
    return name.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure that a notebook shows; it is not registered with pyplot, so nobody needs to close it."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            data = io.BytesIO()
            self.savefig(data, format="png")
            return data.getvalue()

    return NotebookFigure(figsize=(width, height), layout="constrained")
