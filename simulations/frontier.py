"""Privacy, accuracy and bytes of recorded runs, side by side: what each defence costs and what it buys.

    edgefd sweep simulations/sweeps/defences.yaml --out runs/defences
    python simulations/frontier.py runs/defences/*

A run that was not audited yet is audited at level 1. Its row of the Markdown table has the server's strongest attack in
the last round (by AUC, with its 95 % interval; below 0.5, the attack is turned round, as its user would), and of all
attacks in all recorded rounds the largest lower bound of epsilon: by the adversaries that the claim covers, or, without
a claim, by any. Each bound holds at 95 %; the largest of many is no bound at 95 %, but if even that is above what is
claimed, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefd.audit.report.findings import DELTA
from edgefd.audit.run_audit import AuditRequest, audit
from edgefd.config.load import load_config
from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError
from edgefd.defences.apply import covered

HEAD = ("method", "what defends it", "accuracy", "kB up", "AUC", "TPR at 1 % FPR", "ε claimed", "ε measured ≥")


@dataclass(frozen=True)
class Point:
    """A run on the frontier."""

    cells: tuple[str, ...]
    accuracy: float
    broken: bool
    """whether more was measured than is claimed"""


def main() -> int:
    """Audit what was not audited yet, print the table, most accurate first."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of recorded runs")
    points = []
    for folder in arguments.parse_args().runs:
        if not (folder / "audit" / "audit.json").is_file():
            print(f"auditing {folder}", file=sys.stderr)
            audit(folder, AuditRequest(), _unseen)
        points.append(point(folder))
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}")
    for p in sorted(points, key=lambda p: -p.accuracy):
        print(f"| {' | '.join(p.cells)} |")
    broken = [p.cells[1] for p in points if p.broken]
    if broken:
        print(f"more was measured than is claimed: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def point(folder: Path) -> Point:
    """The row of an audited run."""
    config = load_config(folder / "config.yaml")
    summary, found = (_read(folder / name) for name in ("summary.json", "audit/audit.json"))
    if not found["valid"]:
        raise UserError(f"{folder}: its audit is not valid: {'; '.join(found['failed_controls'])}")
    attacks = found["membership"]
    last = max(a["round"] for a in attacks if a["adversary"] == "server" and a["round"] is not None)
    mine = [a for a in attacks if a["adversary"] == "server" and a["round"] == last]
    best = max(mine, key=lambda a: abs(a["auc"]["value"] - 0.5))
    claimed = summary["epsilon_claimed"]
    against = covered(config.defence) or ("server", "client", "holder")
    measured = max(a["epsilon"]["clopper_pearson"] for a in attacks if a["adversary"] in against)
    if claimed is not None and summary["delta_claimed"] != DELTA:
        raise UserError(f"{folder}: claims delta {summary['delta_claimed']:g}, audits measure at {DELTA:g}")
    area, name, rate = best["auc"], best["attack"], best["tpr"]["1%"]["tpr"]
    if area["value"] < 0.5:  # what it calls a member it holds for none: its rates were not measured the other way
        area = {"value": 1 - area["value"], "low": 1 - area["high"], "high": 1 - area["low"]}
        name, rate = f"{name}, turned round", None
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
    """What sets the run's privacy apart: proxy set, codec, voters, steps, the filter, defence with its settings."""
    usual = vars(type(config.method_config)())
    chosen = [f"{k}={v}" for k, v in vars(config.method_config).items() if v != usual[k]]
    defence = vars(config.defence)
    settings = " ".join(f"{k}={v}" for k, v in defence.items() if k not in ("name", "delta", "clip"))
    parts = [
        "contributed rows" if config.proxy.source == "contributed" else "",
        config.codec.name if config.codec.name != "float16" else "",
        f"min_voters={config.aggregator.min_voters}" if config.aggregator.min_voters > 1 else "",
        f"local_steps={config.train.local_steps}" if config.train.local_steps else "",
        *chosen,
        "" if defence["name"] == "none" else f"{defence['name']} {settings}".strip(),
    ]
    return ", ".join(part for part in parts if part) or "nothing"


def _read(path: Path) -> dict[str, Any]:
    out: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return out


def _unseen(steps: int) -> Callable[[str], None]:
    return lambda _: None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, RunError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
