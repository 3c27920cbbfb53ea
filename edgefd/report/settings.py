"""Runs that differ in nothing but the seed, as one setting, and what is measured of it by round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgefd.report.compare import grouped, interval, settings_of, varying_settings
from edgefd.report.read import RunRecord
from edgefd.runs.round_metrics import RoundMetrics


@dataclass(frozen=True, eq=False)
class Setting:
    """Runs that are averaged. `style` is its colour, mark and dash in every plot."""

    name: str
    scenario: str
    style: int
    runs: tuple[RunRecord, ...]
    """ascending by seed"""


@dataclass(frozen=True)
class Point:
    """Mean over the runs of a setting, with its 95 % interval if there are several runs."""

    x: float
    mean: float
    low: float | None = None
    high: float | None = None


Value = Callable[[RoundMetrics], float | None]


def settings_in(runs: Sequence[RunRecord]) -> list[Setting]:
    """The settings, best final accuracy first within each scenario. An unfinished run is never averaged with others.

    Raises:
        UserError: if two finished runs of one setting have the same seed.
    """
    by_id = {id(run): run for run in runs}
    varying = varying_settings([_row(run) for run in runs])
    done = [_row(run) for run in runs if run.complete]
    groups = [[by_id[m["id"]] for m in members] for members in (grouped(done) if done else [])]
    groups += [[run] for run in runs if not run.complete]
    found = []
    for members in groups:
        members.sort(key=lambda run: int(run.config["seed"]))
        label = f"{members[0].method} {settings_of(members[0].config, varying)}".strip()
        found.append(Setting(label + _unfinished(members[0]), members[0].scenario, 0, tuple(members)))
    found.sort(key=lambda s: (s.scenario, -(end.mean if (end := final(s)) else -1.0), s.name))
    styles = {name: i for i, name in enumerate(dict.fromkeys(s.name for s in found))}
    return [replace(s, style=styles[s.name]) for s in found]


def _row(run: RunRecord) -> dict[str, Any]:
    """As `edgefd.report.compare` takes runs."""
    return {
        "config": run.config,
        "data_sha256": run.summary.data_sha256 if run.summary else None,
        "method": run.method,
        "dataset": run.dataset,
        "scenario": run.scenario,
        "id": id(run),
    }


def _unfinished(run: RunRecord) -> str:
    return "" if run.complete else f" (unfinished, seed {run.config['seed']})"


def by_round(setting: Setting, value: Value, closing: bool = True) -> list[Point]:
    """Of every round in which all its runs have the value; without the closing one if that says nothing new."""
    columns = [
        {
            m.round: v
            for m in run.rounds
            if (closing or not m.closing) and (v := value(m)) is not None and math.isfinite(v)
        }
        for run in setting.runs
    ]
    shared = set.intersection(*(set(c) for c in columns))
    return [point(round, [c[round] for c in columns]) for round in sorted(shared)]


def point(x: float, values: Sequence[float]) -> Point:
    """Mean and interval of one value a run."""
    mean, _, low, high = interval(values)
    return Point(x, mean, low, high)


def final(setting: Setting, value: Value = lambda m: m.accuracy_mean) -> Point | None:
    """The value in the last round that has it."""
    points = by_round(setting, value)
    return points[-1] if points else None


def accuracy_by_bytes(setting: Setting) -> list[Point]:
    """Accuracy when it was measured, against what had travelled until then: down of that round, and all before it."""
    travelled = [_travelled(run) for run in setting.runs]
    found = []
    for p in by_round(setting, lambda m: m.accuracy_mean):
        x, _, _, _ = interval([t[int(p.x)] for t in travelled])
        found.append(Point(x, p.mean, p.low, p.high))
    return found


def _travelled(run: RunRecord) -> dict[int, int]:
    total, found = 0, {}
    for m in run.rounds:
        found[m.round] = total + m.bytes_down
        total += m.bytes_down + m.bytes_up
    return found


def mean_of(setting: Setting, value: Callable[[RunRecord], float | None]) -> Point | None:
    """Over the runs of a setting, if all have the value."""
    values = [v for run in setting.runs if (v := value(run)) is not None]
    return point(0, values) if len(values) == len(setting.runs) else None
