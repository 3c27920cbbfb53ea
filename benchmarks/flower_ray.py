"""Benchmark of a whole round: edgefd's engine with two workers against the same workload as a Flower app on Ray.

Run: python -m benchmarks.flower_ray [turns]

Each turn is a new Flower run, followed by the same number of edgefd's rounds in a new process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np

from benchmarks.pairing import Ratio, ratio
from benchmarks.workload import Case

CASES = (Case("cnn", 10, 320), Case("mlp", 100, 64))
ROUNDS, WARM_UP = 8, 3
_QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def compare(case: Case, turns: int = 3) -> Ratio:
    """Return the ratio of a round of Flower on Ray to a round of edgefd."""
    seconds: dict[str, list[float]] = {"edgefd": [], "Flower on Ray": []}
    for _ in range(turns):
        seconds["Flower on Ray"].append(_warm_round_seconds("from benchmarks.flower_peer import main", case))
        seconds["edgefd"].append(_warm_round_seconds("from benchmarks.flower_ray import ours as main", case))
    medians = ", ".join(f"{engine} {np.median(s):.3f} s" for engine, s in seconds.items())
    print(f"{case.name}: {medians}", flush=True)
    return ratio(f"round, {case.name}", "Flower on Ray", seconds["Flower on Ray"], seconds["edgefd"])


def ours(model: str, clients: int, rows: int, rounds: int) -> None:
    """Print a JSON list of the seconds of edgefd's rounds."""
    from benchmarks.engines import Ours, round_seconds

    print(json.dumps(round_seconds(Ours(Case(model, clients, rows), workers=2), rounds)))


def _warm_round_seconds(importing: str, case: Case) -> float:
    """Return the median seconds of a round after the warm-up rounds."""
    call = f"main({case.model!r}, {case.clients}, {case.rows}, {ROUNDS})"
    done = subprocess.run(
        [sys.executable, "-c", f"{importing}; {call}"],
        env=os.environ | _QUIET,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return float(np.median(json.loads(done.stdout.splitlines()[-1])[WARM_UP:]))


if __name__ == "__main__":
    for benchmark_case in CASES:
        print(compare(benchmark_case, int(sys.argv[1]) if sys.argv[1:] else 3))
