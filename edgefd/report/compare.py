"""Runs side by side: mean, standard deviation and 95 % interval over seeds, or over folds."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from edgefd.core.errors import UserError


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but what is averaged over: the seed, unless asked otherwise."""

    dataset: str
    scenario: str
    method: str
    settings: str
    """settings that differ between the runs that are compared"""
    runs: int
    mean: float
    std: float | None
    """over runs, with n - 1; None for one run"""
    low: float | None
    high: float | None
    """95 % interval of the mean, Student's t; None for one run"""
    worst: float
    """mean over runs of the worst client"""
    bytes_up: float
    bytes_down: float
    bytes_once: float
    seconds: float
    proxy_labels: bool
    raw_samples_disclosed: float


def load_runs(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The finished runs at or below those folders: their summaries with their resolved configs as `config`.

    Raises:
        UserError: if a path is no folder of runs, or a run did not reach its end.
    """
    folders = sorted({p.parent for path in paths for p in path.rglob("summary.json")})
    for path in paths:
        if not any(path in (f, *f.parents) for f in folders):
            raise UserError(f"{path} holds no run (no summary.json at or below it)")
    return [_load(folder) for folder in folders]


def compare(runs: Sequence[dict[str, Any]], over: str = "seed") -> list[Group]:
    """Groups of runs that differ in nothing but `over`, best first within each data set and scenario.

    `over`: the key of a setting to average over, such as data.test_people, where every value is a fold.

    Raises:
        UserError: if there is no such setting, or a group has two runs of one value.
    """
    found = [_group(members, varying_settings(runs, over)) for members in grouped(runs, over)]
    return sorted(found, key=lambda g: (g.dataset, g.scenario, -g.mean))


def grouped(runs: Sequence[dict[str, Any]], over: str = "seed") -> list[list[dict[str, Any]]]:
    """Runs (each with its `config`, `data_sha256`, method, dataset, scenario) by what they share: all but `over`.

    Raises:
        UserError: as `compare`.
    """
    if not any(over in _flat(one["config"]) for one in runs):
        raise UserError(f"--over {over}: the runs have no such setting")
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in runs:
        groups.setdefault(_identity(one, over), []).append(one)
    for members in groups.values():
        if len({json.dumps(_flat(m["config"]).get(over)) for m in members}) < len(members):
            first = members[0]
            raise UserError(
                f"{first['method']} on {first['dataset']}, {first['scenario']}: one {over} was run twice, which tells "
                "nothing of the spread; leave one of the runs out"
            )
    return list(groups.values())


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None, float | None]:
    """Mean, standard deviation, and the 95 % interval of the mean: mean ± t s / sqrt(n), with n - 1 degrees of freedom.

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


def settings_of(config: dict[str, Any], varying: dict[str, str]) -> str:
    """What a run has of the settings that vary, such as "rounds=30 alpha=0.1"."""
    flat = _flat(config)
    return " ".join(f"{label}={flat[key]}" for key, label in varying.items() if key in flat)


def varying_settings(runs: Sequence[dict[str, Any]], over: str = "seed") -> dict[str, str]:
    """Settings that are not the same in all runs, but for those that a table shows in columns of their own.

    Each with what it is called: its last part, where that says which setting is meant, as with train.rounds but not
    with partition.alpha, since there is a proxy.alpha.
    """
    flat = [_flat(one["config"]) for one in runs]
    keys = {key for f in flat for key in f}
    last = Counter(key.rpartition(".")[2] for key in keys)
    shown = sorted(keys - _NOT_RESULTS - {over, "data.name", "partition.name", "method.name"})
    varying = [k for k in shown if _varies(k, flat)]
    return {k: k if last[k.rpartition(".")[2]] > 1 else k.rpartition(".")[2] for k in varying}


def _varies(key: str, flat: Sequence[dict[str, Any]]) -> bool:
    """Whether runs differ in that setting; those of a method are its own, whatever another calls by the same name."""
    values: dict[str, set[str]] = {}
    for f in flat:
        if key in f:
            values.setdefault(f["method.name"] if key.startswith("method.") else "", set()).add(json.dumps(f[key]))
    return any(len(found) > 1 for found in values.values())


_NOT_RESULTS = {"baselines", "run.workers", "run.evaluate_every"}

HEADER = (
    *("data set", "scenario", "method", "settings", "runs", "mean", "std", "95 %", "worst"),
    *("up MB", "down MB", "once MB", "s", "labels", "disclosed"),
)


def cells(group: Group) -> list[str]:
    """A group as strings, under `HEADER`. Accuracies in per cent."""
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
    ]


def to_markdown(groups: Sequence[Group]) -> str:
    """A Markdown table."""
    rows = [HEADER, ["---"] * len(HEADER), *(cells(g) for g in groups)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def to_csv(groups: Sequence[Group]) -> str:
    """Comma-separated values, with a header."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(HEADER)
    writer.writerows(cells(g) for g in groups)
    return out.getvalue()


def _load(folder: Path) -> dict[str, Any]:
    try:
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        summary["config"] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"cannot read run {folder}: {error}") from error
    if not summary.get("complete"):
        raise UserError(f"run {folder} did not reach its end: run it again, or leave it out")
    if summary["accuracy_mean"] is None:
        raise UserError(f"run {folder} is of devices, which have no test set to be compared on: leave it out")
    return summary


def _identity(one: dict[str, Any], over: str) -> str:
    """What the runs of a group share: everything that changes results, but `over`, and the data if that chooses it."""
    config = {k: v for k, v in _flat(one["config"]).items() if k not in _NOT_RESULTS | {over}}
    return json.dumps([config, None if over.startswith("data.") else one["data_sha256"]], sort_keys=True)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Keys such as train.rounds. Of a fleet of several models, model.name is such as "cnn+mlp"."""
    out: dict[str, Any] = {}
    for section, value in config.items():
        several = section == "model" and isinstance(value, list)
        plain = {k: _joined([one[k] for one in value]) for k in value[0]} if several else value
        out |= {f"{section}.{k}": v for k, v in plain.items()} if isinstance(plain, dict) else {section: plain}
    return out


def _joined(values: list[Any]) -> Any:
    return values[0] if all(v == values[0] for v in values) else "+".join(str(v) for v in values)


def _group(members: list[dict[str, Any]], varying: dict[str, str]) -> Group:
    first = members[0]
    mean, std, low, high = interval([m["accuracy_mean"] for m in members])

    def average(key: str) -> float:
        return float(np.mean([m[key] for m in members]))

    return Group(
        dataset=first["dataset"],
        scenario=first["scenario"],
        method=first["method"],
        settings=settings_of(first["config"], varying),
        runs=len(members),
        mean=mean,
        std=std,
        low=low,
        high=high,
        worst=average("accuracy_worst"),
        bytes_up=average("bytes_up"),
        bytes_down=average("bytes_down"),
        bytes_once=average("bytes_once"),
        seconds=average("seconds_total"),
        proxy_labels=first["proxy_labels_used"],
        raw_samples_disclosed=average("raw_samples_disclosed"),
    )
