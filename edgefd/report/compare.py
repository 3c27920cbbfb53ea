"""Compare runs: mean, standard deviation and 95 % interval over seeds or folds."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from edgefd.config.flat import flat_settings
from edgefd.core.errors import UserError
from edgefd.runs.read import find_run_folders, read_config, read_summary
from edgefd.runs.records import data_label


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the setting that is averaged over: the seed by default."""

    dataset: str
    scenario: str
    method: str
    settings: str
    """the settings that differ between the compared runs, with their values"""
    runs: int
    mean: float
    std: float | None
    """standard deviation over runs, with n - 1 degrees of freedom; None for one run"""
    low: float | None
    """lower end of the 95 % interval of the mean (Student's t); None for one run"""
    high: float | None
    """upper end of the 95 % interval of the mean (Student's t); None for one run"""
    worst: float
    """mean over runs of the accuracy of the worst client"""
    bytes_up: float
    bytes_down: float
    bytes_once: float
    seconds: float
    proxy_labels: bool
    raw_samples_disclosed: float
    virtual_seconds: float | None = None
    """mean duration of the runs on the virtual clock; None if one of them has none"""
    joules: float | None = None
    """mean energy of all devices; None if one of the runs has no virtual clock"""


def load_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Read the finished runs at or below `paths`: each summary, with the resolved config under `config`.

    Raises:
        UserError: if a path holds no run, or a run did not reach its end or has no test set.
    """
    return [_load(folder) for folder in find_run_folders(paths, "summary.json")]


def compare(runs: Sequence[dict[str, Any]], over: str = "seed") -> list[Group]:
    """Group the runs that differ only in `over`, best first within each data set and scenario.

    `over`: the key of the setting to average over, such as data.test_people, where every value is a fold.

    Raises:
        UserError: if there is no such setting, or a group has two runs of one value.
    """
    groups = [_group(members, varying_settings(runs, over)) for members in group_runs(runs, over)]
    return sorted(groups, key=lambda g: (g.dataset, g.scenario, -g.mean))


def group_runs(runs: Sequence[dict[str, Any]], over: str = "seed") -> list[list[dict[str, Any]]]:
    """Group runs (each with `config`, `data_sha256`, method, dataset, scenario) that share everything except `over`.

    Raises:
        UserError: as `compare`.
    """
    if not any(over in flat_settings(run["config"]) for run in runs):
        raise UserError(f"--over {over}: the runs have no such setting")
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(_identity(run, over), []).append(run)
    for members in groups.values():
        if len({json.dumps(flat_settings(run["config"]).get(over)) for run in members}) < len(members):
            first = members[0]
            raise UserError(
                f"{first['method']} on {first['dataset']}, {first['scenario']}: one {over} was run twice, which says "
                f"nothing about the spread over {over}: leave one of the two runs out"
            )
    return list(groups.values())


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None, float | None]:
    """Return mean, standard deviation and the 95 % interval of the mean.

    The interval is mean ± t s / sqrt(n), with n - 1 degrees of freedom.

    >>> mean, std, low, high = interval([0.9, 0.92, 0.94])
    >>> round(mean, 3), round(std, 3), round(low, 3), round(high, 3)
    (0.92, 0.02, 0.87, 0.97)
    """
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, None, None, None
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * std / n**0.5
    return mean, std, mean - half, mean + half


def describe_settings(config: dict[str, Any], varying: dict[str, str]) -> str:
    """Return the values of the varying settings in one run, such as "rounds=30 alpha=0.1"."""
    flat = flat_settings(config)
    return " ".join(f"{label}={flat[key]}" for key, label in varying.items() if key in flat)


def ranked_rows(
    runs: Sequence[dict[str, Any]], over: str, figures: Callable[[Sequence[dict[str, Any]]], tuple[float, list[str]]]
) -> list[list[str]]:
    """Return one row for each group of runs, under `NAMES` and the columns of `figures`.

    Args:
        runs: finished runs (`load_runs`).
        over: the key of the setting to average over.
        figures: returns the rank of a group, by which the rows of a data set and scenario descend, and its texts.

    Raises:
        UserError: as `compare`.
    """
    varying = varying_settings(runs, over)
    rows = []
    for members in group_runs(runs, over):
        first, (rank, texts) = members[0], figures(members)
        names = [first["dataset"], first["scenario"], first["method"], describe_settings(first["config"], varying)]
        rows.append((names[0], names[1], -rank, [*names, str(len(members)), *texts]))
    return [row for *_, row in sorted(rows, key=lambda each: each[:3])]


def varying_settings(runs: Sequence[dict[str, Any]], over: str = "seed") -> dict[str, str]:
    """Return the settings that differ between runs, without those that a table shows in columns of their own.

    Each key maps to its label: its last part where that is unambiguous, as with train.rounds; the full key otherwise,
    as with partition.alpha, because proxy.alpha exists too.
    """
    flat = [flat_settings(run["config"]) for run in runs]
    keys = {key for f in flat for key in f}
    last_part = Counter(key.rpartition(".")[2] for key in keys)
    candidates = sorted(keys - _NOT_RESULTS - {over, "data.name", "partition.name", "method.name"})
    labels = {k: k.rpartition(".")[2] for k in candidates if _varies(k, flat)}
    return {k: k if last_part[label] > 1 else label for k, label in labels.items()}


def _varies(key: str, flat: Sequence[dict[str, Any]]) -> bool:
    """Whether runs differ in a setting; a method's settings are compared only between runs of that method."""
    values: dict[str, set[str]] = {}
    for f in flat:
        if key in f:
            values.setdefault(f["method.name"] if key.startswith("method.") else "", set()).add(json.dumps(f[key]))
    return any(len(distinct) > 1 for distinct in values.values())


_NOT_RESULTS = {  # settings that do not change the results
    *("baselines", "run.workers", "run.evaluate_every", "run.checkpoint_every"),
    *("run.keep", "run.trackers", "run.callbacks"),
}

NAMES = ("data set", "scenario", "method", "settings", "runs")
"""first columns of every table of groups of runs"""
HEADER = (
    *(*NAMES, "mean", "std", "95 %", "worst"),
    *("up MB", "down MB", "once MB", "s", "labels", "disclosed", "virtual s", "J"),
)


def cells(group: Group) -> list[str]:
    """Return a group as the cells of a table row under `HEADER`, with accuracies in per cent."""
    bounds = "-" if group.low is None or group.high is None else f"{100 * group.low:.2f}..{100 * group.high:.2f}"
    return [
        group.dataset,
        group.scenario,
        group.method,
        group.settings,
        str(group.runs),
        f"{100 * group.mean:.2f}",
        "-" if group.std is None else f"{100 * group.std:.2f}",
        bounds,
        f"{100 * group.worst:.2f}",
        f"{group.bytes_up / 1e6:.2f}",
        f"{group.bytes_down / 1e6:.2f}",
        f"{group.bytes_once / 1e6:.2f}",
        f"{group.seconds:.0f}",
        "yes" if group.proxy_labels else "no",
        f"{group.raw_samples_disclosed:.0f}",
        "-" if group.virtual_seconds is None else f"{group.virtual_seconds:.1f}",
        "-" if group.joules is None else f"{group.joules:.1f}",
    ]


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ["---"] * len(header), *rows))


def to_csv(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the rows as comma-separated values with a header."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(header)
    writer.writerows(rows)
    return out.getvalue()


def _load(folder: Path) -> dict[str, Any]:
    config, summary = read_config(folder), read_summary(folder)
    if not summary.complete:
        raise UserError(f"run {folder} did not reach its end: run it again, or leave it out")
    if None in (summary.accuracy_mean, summary.accuracy_worst, summary.bytes_once, summary.data_sha256):
        raise UserError(f"run {folder} is of real devices, which have no common test set to compare on: leave it out")
    label = data_label(summary.dataset, summary.evaluated_on)
    return vars(summary) | {"folder": str(folder), "config": config, "dataset": label}


def _identity(run: dict[str, Any], over: str) -> str:
    """Return the common properties of a group's runs: all settings that change results except `over`, and the data.

    The data are left out where `over` is a setting that selects them.
    """
    config = {k: v for k, v in flat_settings(run["config"]).items() if k not in _NOT_RESULTS | {over}}
    return json.dumps([config, None if over.startswith("data.") else run["data_sha256"]], sort_keys=True)


def _group(members: list[dict[str, Any]], varying: dict[str, str]) -> Group:
    first = members[0]
    mean, std, low, high = interval([run["accuracy_mean"] for run in members])

    def average(key: str) -> float:
        return float(np.mean([run[key] for run in members]))

    def average_if_known(key: str) -> float | None:
        return None if any(run.get(key) is None for run in members) else average(key)

    return Group(
        dataset=first["dataset"],
        scenario=first["scenario"],
        method=first["method"],
        settings=describe_settings(first["config"], varying),
        runs=len(members),
        mean=mean,
        std=std,
        low=low,
        high=high,
        worst=average("accuracy_worst"),
        seconds=average("seconds_total"),
        proxy_labels=first["proxy_labels_used"],
        virtual_seconds=average_if_known("virtual_seconds"),
        joules=average_if_known("joules"),
        **{name: average(name) for name in ("bytes_up", "bytes_down", "bytes_once", "raw_samples_disclosed")},
    )
