"""Compare privacy, accuracy and bytes of recorded runs: the costs and benefits of each defence.

    edgefd sweep simulations/sweeps/defences.yaml --out runs/defences
    python simulations/frontier.py runs/defences/*

A run without an audit is audited at level 1. Its row of the Markdown table shows the server's strongest attack in the
last round (by AUC, with its 95 % interval; an attack with an AUC below 0.5 is inverted, as an adversary would do). The
row also shows the largest lower bound of epsilon of all attacks in all recorded rounds: by the adversaries that the
claim covers, or, without a claim, by any adversary. Each bound holds at 95 %. The largest of many bounds is no bound at
95 %; if it is above the claimed epsilon, the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from edgefd.auditing.report.findings import DELTA
from edgefd.auditing.request import AuditRequest
from edgefd.auditing.run_audit import audit
from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.defences.apply import covered
from edgefd.runs.read import read_json

HEAD = ("method", "defence and settings", "accuracy", "kB up", "AUC", "TPR at 1 % FPR", "ε claimed", "ε measured ≥")


@dataclass(frozen=True)
class Point:
    """A row of the frontier."""

    cells: tuple[str, ...]
    accuracy: float
    broken: bool
    """whether the measured epsilon is above the claimed one"""


def main() -> int:
    """Audit the runs without an audit, then print the table, the most accurate run first."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of recorded runs")
    points = []
    for folder in arguments.parse_args().runs:
        if not (folder / "audit" / "audit.json").is_file():
            print(f"auditing {folder}", file=sys.stderr)
            audit(folder, AuditRequest(), lambda _: lambda _: None)
        points.append(point(folder))
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for p in sorted(points, key=lambda p: -p.accuracy):
        print(f"| {' | '.join(p.cells)} |")
    broken = [p.cells[1] for p in points if p.broken]
    if broken:
        print(f"the measured epsilon is above the claimed one: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def point(folder: Path) -> Point:
    """Return the row of an audited run."""
    config = load_config(folder / "config.yaml")
    summary, result = (read_json(folder / name) for name in ("summary.json", "audit/audit.json"))
    if not result["valid"]:
        raise UserError(f"{folder}: its audit is not valid: {'; '.join(result['failed_controls'])}")
    attacks = result["membership"]
    last = max(a["round"] for a in attacks if a["adversary"] == "server" and a["round"] is not None)
    of_server = [a for a in attacks if a["adversary"] == "server" and a["round"] == last]
    best = max(of_server, key=lambda a: abs(a["auc"]["value"] - 0.5))
    claimed = summary["epsilon_claimed"]
    adversaries = covered(config.defence) or ("server", "client", "holder")
    measured = max(a["epsilon"]["clopper_pearson"] for a in attacks if a["adversary"] in adversaries)
    if claimed is not None and summary["delta_claimed"] != DELTA:
        claimed_delta = summary["delta_claimed"]
        raise UserError(f"{folder}: the claim is for delta {claimed_delta:g}, but audits measure at {DELTA:g}")
    area, name, rate = best["auc"], best["attack"], best["tpr"]["1%"]["tpr"]
    if area["value"] < 0.5:  # members score lower than non-members; the rates of the inverted attack were not measured
        area = {"value": 1 - area["value"], "low": 1 - area["high"], "high": 1 - area["low"]}
        name, rate = f"{name}, inverted", None
    cells = (
        config.method_name,
        described(config),
        f"{summary['accuracy_mean']:.3f}",
        f"{summary['bytes_up'] / 1000:,.0f}",
        f"{area['value']:.3f} [{area['low']:.3f}, {area['high']:.3f}] {name}",
        "not known" if rate is None else f"{rate['value']:.3f}",
        "none" if claimed is None else f"{claimed:g}",
        f"{measured:.2f}",
    )
    return Point(cells, summary["accuracy_mean"], claimed is not None and measured > claimed)


def described(config: Config) -> str:
    """Describe what affects the run's privacy: proxy set, codec, voters, steps, filter, defence with its settings."""
    defaults = vars(type(config.method_config)())
    changed = [f"{k}={v}" for k, v in vars(config.method_config).items() if v != defaults[k]]
    defence = vars(config.defence)
    settings = " ".join(f"{k}={v}" for k, v in defence.items() if k not in ("name", "delta", "clip") and v is not None)
    parts = [
        "contributed rows" if config.proxy.source == "contributed" else "",
        config.codec.name if config.codec.name != "auto" else "",
        f"min_voters={config.aggregator.min_voters}" if config.aggregator.min_voters > 1 else "",
        f"local_steps={config.train.local_steps}" if config.train.local_steps else "",
        *changed,
        "" if defence["name"] == "none" else f"{defence['name']} {settings}".strip(),
    ]
    return ", ".join(part for part in parts if part) or "nothing"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
