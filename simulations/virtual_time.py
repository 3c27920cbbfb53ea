"""Synchronous, deadline, quorum and buffered rounds of one fleet of three kinds of devices, on the virtual clock.

    python simulations/virtual_time.py --out runs/virtual_time

Each kind of rounds runs on the same split with the same seeds. The table gives the virtual seconds, the bytes and the
joules until the accuracy (the mean over clients of what each has measured last) has reached each target and stays
there until the end, and the results at the end. The rounds are chosen so that all make about as many client rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

import edgefd
from edgefd.report.compare import to_markdown
from edgefd.report.settings import known_accuracies
from edgefd.runs.read import RunRecord, read_run

CLIENTS = 10
FLEET = {"pi_5": 4, "pi_4": 3, "pi_zero_2_w": 3}
PLAIN, NO_CATCH_UP = dict[str, Any](), {"catch_up": 1}
RULES: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "synchronous": ({}, PLAIN, 1.0),
    "quorum of 7, late ones used": ({"min_reports": 7, "stale_reports": "use"}, PLAIN, 1.5),
    "buffer of 5": ({"min_reports": 5, "stale_reports": "buffer"}, PLAIN, 2.0),
    "buffer of 3": ({"min_reports": 3, "stale_reports": "buffer"}, PLAIN, 3.3),
    "quorum of 7, catch_up 1": ({"min_reports": 7, "stale_reports": "use"}, NO_CATCH_UP, 2.2),
    "buffer of 5, catch_up 1": ({"min_reports": 5, "stale_reports": "buffer"}, NO_CATCH_UP, 5.5),
    "buffer of 3, catch_up 1": ({"min_reports": 3, "stale_reports": "buffer"}, NO_CATCH_UP, 6.5),
}
"""the section `coordinator`, settings of `train`, and the number of rounds relative to synchronous ones"""
HEADER = ("rounds", "target", "seeds", "virtual s", "MB", "kJ", "accuracy at the end", "virtual s at the end")


def reached(run: RunRecord, target: float) -> tuple[float, float, float] | None:
    """Return the virtual seconds, bytes and joules after which the accuracy does not fall below the target again."""
    seconds = known_accuracies(run.rounds, lambda m: m.virtual_seconds)
    totals = {
        m.round: (sent, joules)
        for m, sent, joules in zip(
            run.rounds,
            accumulate(m.bytes_up + m.bytes_down for m in run.rounds),
            accumulate(m.joules or 0.0 for m in run.rounds),
            strict=True,
        )
    }
    first = None
    for round, (time, accuracy) in sorted(seconds.items()):
        if accuracy < target:
            first = None
        elif first is None:
            first = (time, *totals[round])
    return first


def row(name: str, runs: Sequence[RunRecord], target: float) -> list[str]:
    """Return a row of the table: means over the seeds, if all have reached the target."""
    found = [reached(run, target) for run in runs]
    known = [f for f in found if f is not None]
    seconds, sent, joules = np.mean(known, 0) if len(known) == len(runs) else (np.nan,) * 3
    last = [max(known_accuracies(run.rounds, lambda m: m.virtual_seconds).items())[1] for run in runs]
    missed = f"{len(known)} of {len(runs)} seeds"
    return [
        name,
        f"{target:.0%}",
        str(len(runs)),
        missed if np.isnan(seconds) else f"{seconds:.1f}",
        "-" if np.isnan(sent) else f"{sent / 1e6:.2f}",
        "-" if np.isnan(joules) else f"{joules / 1e3:.2f}",
        f"{100 * np.mean([a for _, a in last]):.1f} %",
        f"{np.mean([s for s, _ in last]):.1f}",
    ]


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", default="mnist_mini")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--rounds", type=int, default=20, help="synchronous rounds")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--targets", type=float, nargs="+", default=[0.9, 0.95])
    args = parser.parse_args()
    rows = []
    for name, (rules, train, factor) in RULES.items():
        runs = []
        for seed in args.seeds:
            folder = args.out / f"{name.replace(' ', '_').replace(',', '')}-{seed}"
            if not (folder / "summary.json").exists():
                config = {
                    "seed": seed,
                    "data": {"name": args.data, "limit": args.limit},
                    "partition": {"name": "dirichlet", "alpha": 0.1, "n_clients": CLIENTS},
                    "proxy": {"source": "public"},
                    "model": {"name": args.model},
                    "method": {"name": "edgefd"},
                    "train": {"rounds": round(args.rounds * factor), "augment_shift": 2, **train},
                    "coordinator": rules,
                    "devices": {"fleet": FLEET},
                    "run": {"keep": "none"},
                }
                edgefd.simulate(config, out=folder)
            runs.append(read_run(folder))
        rows += [row(name, runs, target) for target in args.targets]
    print(to_markdown(HEADER, rows))


if __name__ == "__main__":
    main()
