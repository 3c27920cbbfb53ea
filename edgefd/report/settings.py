"""Settings (runs that differ only in the seed), and the mean and interval of each measurement over their runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgefd.report.compare import describe_settings, group_runs, interval, varying_settings
from edgefd.report.figure import percent
from edgefd.report.plots import Curve
from edgefd.runs.read import RunRecord
from edgefd.runs.round_metrics import RoundMetrics


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that are averaged. `style` is the colour, mark and dash of the setting in every plot."""

    name: str
    scenario: str
    style: int
    runs: tuple[RunRecord, ...]
    """the runs, ascending by seed"""


@dataclass(frozen=True)
class Point:
    """The mean over the runs of a setting, with its 95 % interval if there are several runs."""

    x: float
    mean: float
    low: float | None = None
    high: float | None = None


Value = Callable[[RoundMetrics], float | None]


def settings_in(runs: Sequence[RunRecord]) -> list[Setting]:
    """Group runs into settings, best final accuracy first within each scenario.

    An unfinished run is a setting of its own: it is never averaged with others.

    Raises:
        UserError: if two finished runs of one setting have the same seed.
    """
    by_id = {id(run): run for run in runs}
    varying = varying_settings([_row(run) for run in runs])
    finished = [_row(run) for run in runs if run.complete]
    groups = [[by_id[row["id"]] for row in members] for members in (group_runs(finished) if finished else [])]
    groups += [[run] for run in runs if not run.complete]
    settings = []
    for members in groups:
        members.sort(key=lambda run: int(run.config["seed"]))
        first = members[0]
        label = f"{first.method} {describe_settings(first.config, varying)}".strip()
        label += "" if first.complete else f" (unfinished, seed {first.config['seed']})"
        settings.append(Setting(label, first.scenario, 0, tuple(members)))
    settings.sort(key=lambda s: (s.scenario, -(end.mean if (end := final(s)) else -1.0), s.name))
    styles = {name: i for i, name in enumerate(dict.fromkeys(s.name for s in settings))}
    return [replace(s, style=styles[s.name]) for s in settings]


def _row(run: RunRecord) -> dict[str, Any]:
    """Return a run in the form that `edgefd.report.compare` takes."""
    return {
        "config": run.config,
        "data_sha256": run.summary.data_sha256 if run.summary else None,
        "method": run.method,
        "dataset": run.dataset,
        "scenario": run.scenario,
        "id": id(run),
    }


def by_round(setting: Setting, value: Value, closing: bool = True) -> list[Point]:
    """Return the mean value of each round in which all runs of the setting have one; `closing`: the last round too."""
    columns = []
    for run in setting.runs:
        values = {m.round: v for m in run.rounds if (closing or not m.closing) and (v := value(m)) is not None}
        columns.append({round: v for round, v in values.items() if math.isfinite(v)})
    shared = set.intersection(*(set(c) for c in columns))
    return [point(round, [c[round] for c in columns]) for round in sorted(shared)]


def point(x: float, values: Sequence[float]) -> Point:
    """Return the mean and the interval of one value for each run."""
    mean, _, low, high = interval(values)
    return Point(x, mean, low, high)


def point_text(p: Point | None) -> str:
    """Format a point with its interval, such as 93.4 % (92.1 to 94.7)."""
    if p is None or p.low is None or p.high is None:
        return percent(p.mean if p else None)
    return f"{percent(p.mean)} ({100 * p.low:.1f} to {100 * p.high:.1f})"


def final(setting: Setting, value: Value = lambda m: m.accuracy_mean) -> Point | None:
    """Return the value in the last round that has it."""
    points = by_round(setting, value)
    return points[-1] if points else None


def accuracy_by_bytes(setting: Setting) -> list[Point]:
    """Return accuracy against the bytes sent when it was measured: down of that round, and all of the rounds before."""
    sent = [bytes_until(run) for run in setting.runs]
    points = []
    for p in by_round(setting, lambda m: m.accuracy_mean):
        x, _, _, _ = interval([by_number[int(p.x)] for by_number in sent])
        points.append(Point(x, p.mean, p.low, p.high))
    return points


def bytes_until(run: RunRecord) -> dict[int, int]:
    """Return the bytes up and down until the accuracy of each round was measured, by its number."""
    total, by_number = 0, {}
    for m in run.rounds:
        by_number[m.round] = total + m.bytes_down
        total += m.bytes_down + m.bytes_up
    return by_number


def accuracy_by_total(setting: Setting, value: Value) -> list[Point]:
    """Return the accuracy after each round against the sum of a value of all rounds so far.

    Not all clients report in every round, so the accuracy is the mean over clients of the one that each has measured
    last. There is no point before all clients have measured one, and none if a round has no value.

    Args:
        setting: the runs that are averaged.
        value: the value of a round, such as its virtual seconds.
    """
    runs = [known_accuracies(run.rounds, value) for run in setting.runs]
    points = []
    for round in sorted(set.intersection(*(set(run) for run in runs))):
        x, _, _, _ = interval([run[round][0] for run in runs])
        points.append(point(x, [run[round][1] for run in runs]))
    return points


def known_accuracies(rounds: Sequence[RoundMetrics], value: Value) -> dict[int, tuple[float, float]]:
    """Return the sum of a value so far and the last measured accuracies' mean over clients, by round."""
    total, known, by_number = 0.0, dict[int, float](), {}
    for m in rounds:
        if (added := value(m)) is None:
            return {}
        total += added
        known |= {client: a for client, a in enumerate(m.accuracy_per_client or ()) if a is not None}
        if len(known) == len(m.kept_per_client) and m.accuracy_per_client is not None:
            by_number[m.round] = (total, sum(known.values()) / len(known))
    return by_number


def mean_of(setting: Setting, value: Callable[[RunRecord], float | None]) -> Point | None:
    """Return the mean of a value over the runs of a setting; None unless all have it."""
    values = [v for run in setting.runs if (v := value(run)) is not None]
    return point(0, values) if len(values) == len(setting.runs) else None


def curve(setting: Setting, points: Sequence[Point]) -> Curve:
    """Return the curve of a setting through points, with the band of their intervals."""
    band = tuple((p.x, p.low, p.high) for p in points if p.low is not None and p.high is not None)
    return Curve(setting.name, setting.style, tuple((p.x, p.mean) for p in points), band)


def absent_note(settings: Sequence[Setting], shown: Sequence[Setting]) -> str:
    """Return a sentence that names the settings without a value; empty if all are shown."""
    names_shown = {s.name for s in shown}
    absent = [s.name for s in settings if s.name not in names_shown]
    return f" Nothing to show for {', '.join(absent)}." if absent else ""
