"""Compare runs as papers do: one Markdown table per data set, one row per method, one column per scenario."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edgefd.report.compare import Group, compare

_FIRST = ("strong", "weak", "iid")  # the order of papers; other scenarios follow by name


def to_wide(runs: Sequence[dict[str, Any]], over: str = "seed") -> str:
    """Return tables of finished runs (`load_runs`), first the method that is best on average over its scenarios.

    A cell is the mean over `over`, its 95 % interval in brackets, and after a semicolon the mean of the worst client,
    in per cent. Values that differ by scenario (runs, MB) are listed for each scenario, in the order of the columns.

    Raises:
        UserError: as `compare`.
    """
    names = dict.fromkeys(run["dataset"] for run in runs)
    return "\n".join(_table(name, compare([run for run in runs if run["dataset"] == name], over)) for name in names)


def _table(dataset: str, groups: Sequence[Group]) -> str:
    names = {g.scenario for g in groups}
    scenarios = [s for s in _FIRST if s in names] + sorted(names - set(_FIRST))
    rows: dict[tuple[str, str], dict[str, Group]] = {}
    for g in groups:
        rows.setdefault((g.method, g.settings), {})[g.scenario] = g
    head = (dataset, "settings", *scenarios, "runs", "up MB", "down MB", "once MB", "labels", "disclosed")
    best = sorted(rows.items(), key=lambda row: -float(np.mean([g.mean for g in row[1].values()])))
    body = [_row(method, settings, scenarios, by_scenario) for (method, settings), by_scenario in best]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body))


def _row(method: str, settings: str, scenarios: Sequence[str], by_scenario: dict[str, Group]) -> list[str]:
    groups = [by_scenario[s] for s in scenarios if s in by_scenario]
    return [
        f"`{method}`",
        settings,
        *(_accuracy(by_scenario[s]) if s in by_scenario else "" for s in scenarios),
        _each(str(g.runs) for g in groups),
        _each(f"{g.bytes_up / 1e6:.1f}" for g in groups),
        _each(f"{g.bytes_down / 1e6:.1f}" for g in groups),
        _each(f"{g.bytes_once / 1e6:.1f}" for g in groups),
        "yes" if groups[0].proxy_labels else "no",
        _each(f"{g.raw_samples_disclosed:.0f}" for g in groups),
    ]


def _accuracy(group: Group) -> str:
    inside = "" if group.low is None or group.high is None else f" [{100 * group.low:.1f}, {100 * group.high:.1f}]"
    return f"{100 * group.mean:.1f}{inside}; {100 * group.worst:.1f}"


def _each(values: Iterable[str]) -> str:
    """Return the values of the scenarios, or one value if all are equal."""
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else " / ".join(listed)
