"""Ablation of the settings of EdgeFD's filter under strong non-IID. The defaults are based on it.

Run: python simulations/filter_ablation.py [--limit 12000] [--rounds 10] [--out ablation.md]
Needs mnist and fashion_mnist. Each row of the table is a whole run on a class-balanced part of the training set.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from edgefd.config.load import parse_config
from edgefd.runs.prepare import prepare
from edgefd.simulation.engine import open_transport, simulate

SETTINGS = ("data", "contributed rows", "reference", "weighting", "k", "quantile")
METRICS = ("out-of-class fraction", "answers per row", "teacher coverage", "teacher accuracy", "client accuracy")
HEADER = f"| {' | '.join(SETTINGS + METRICS)} |\n|{' --- |' * len(SETTINGS + METRICS)}\n"


def main() -> None:
    """Run all combinations of the settings, and write each row as soon as it is complete."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--limit", type=int, default=12_000, help="number of training samples")
    arguments.add_argument("--rounds", type=int, default=10)
    arguments.add_argument("--data", nargs="+", default=["mnist", "fashion_mnist"])
    arguments.add_argument(
        "--contributed",
        nargs="+",
        choices=["accepted", "judged"],
        default=["judged", "accepted"],
        help="contributed rows: always accepted (accepted), or judged like all other rows (judged)",
    )
    arguments.add_argument("--weighting", nargs="+", choices=["hard", "soft"], default=["hard", "soft"])
    arguments.add_argument("--k", nargs="+", type=int, default=[10, 50])
    arguments.add_argument("--quantile", nargs="+", type=float, default=[0.5, 0.8, 0.95])
    arguments.add_argument("--out", type=Path, default=Path("ablation.md"))
    chosen = arguments.parse_args()
    chosen.out.write_text(HEADER)
    print(HEADER, end="")
    combinations = itertools.product(chosen.contributed, ["none", "proxy"], chosen.weighting, chosen.k, chosen.quantile)
    for data, values in itertools.product(chosen.data, combinations):
        method = dict(
            zip(("accept_contributed", "reference", "weighting", "n_clusters", "quantile"), values, strict=True)
        )
        method["accept_contributed"] = method["accept_contributed"] == "accepted"
        line = row(data, method, chosen.limit, chosen.rounds)
        with chosen.out.open("a") as file:
            file.write(line)
        print(line, end="", flush=True)


def row(data: str, method: dict[str, object], limit: int, rounds: int) -> str:
    """Run one configuration, and return its row of the table."""
    config = parse_config(
        {
            "data": {"name": data, "limit": limit},
            "method": {"name": "edgefd", **method},
            "train": {"rounds": rounds, "augment_shift": 2},
            "run": {"evaluate_every": rounds + 1},
        }
    )
    prepared = prepare(config)
    metrics = list(simulate(open_transport(config, prepared.federation)))
    last, final = metrics[-2], metrics[-1]
    cells = [data, "accepted" if method["accept_contributed"] else "judged", *list(method.values())[1:]]
    filter_metrics = [last.wrong_claims, last.kept_fraction * 10, last.teacher_coverage, last.teacher_accuracy]
    values = [f"{v:.3f}" if v is not None else "-" for v in (*filter_metrics, final.accuracy_mean)]
    return f"| {' | '.join(map(str, cells))} | {' | '.join(values)} |\n"


if __name__ == "__main__":
    main()
