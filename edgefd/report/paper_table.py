"""Runs as papers set them side by side: a Markdown table for each data set, a row a method, a column a scenario."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from edgefd.report.compare import Group, compare

_FIRST = ("strong", "weak", "iid")  # as papers order them; other scenarios follow by name


def to_wide(runs: Sequence[dict[str, Any]], over: str = "seed") -> str:
    """Tables of finished runs (`load_runs`), the method that is best on average over its scenarios first.

    A cell is the mean over `over`, its 95 % interval in brackets, and after a semicolon the mean of the worst client,
    in per cent. What differs by scenario (runs, MB) is given for each, in the order of the columns.

    Raises:
        UserError: as `compare`.
    """
    names = dict.fromkeys(one["dataset"] for one in runs)
    return "\n".join(_table(name, compare([r for r in runs if r["dataset"] == name], over)) for name in names)


def _table(dataset: str, groups: Sequence[Group]) -> str:
    names = {g.scenario for g in groups}
    scenarios = [s for s in _FIRST if s in names] + sorted(names - set(_FIRST))
    rows: dict[tuple[str, str], dict[str, Group]] = {}
    for g in groups:
        rows.setdefault((g.method, g.settings), {})[g.scenario] = g
    head = (dataset, "settings", *scenarios, "runs", "up MB", "down MB", "once MB", "labels", "disclosed")
    best = sorted(rows.items(), key=lambda row: -float(np.mean([g.mean for g in row[1].values()])))
    body = [_row(method, settings, scenarios, found) for (method, settings), found in best]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *body))


def _row(method: str, settings: str, scenarios: Sequence[str], found: dict[str, Group]) -> list[str]:
    there = [found[s] for s in scenarios if s in found]
    return [
        f"`{method}`",
        settings,
        *(_accuracy(found[s]) if s in found else "" for s in scenarios),
        _each(str(g.runs) for g in there),
        _each(f"{g.bytes_up / 1e6:.1f}" for g in there),
        _each(f"{g.bytes_down / 1e6:.1f}" for g in there),
        _each(f"{g.bytes_once / 1e6:.1f}" for g in there),
        "yes" if there[0].proxy_labels else "no",
        _each(f"{g.raw_samples_disclosed:.0f}" for g in there),
    ]


def _accuracy(group: Group) -> str:
    inside = "" if group.low is None or group.high is None else f" [{100 * group.low:.1f}, {100 * group.high:.1f}]"
    return f"{100 * group.mean:.1f}{inside}; {100 * group.worst:.1f}"


def _each(values: Iterable[str]) -> str:
    """Values of the scenarios, once if they are all alike."""
    listed = list(values)
    return listed[0] if len(set(listed)) == 1 else " / ".join(listed)
