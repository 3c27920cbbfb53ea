"""Benchmark of a whole federated distillation round: edgefd against a naive loop and against pfl, in alternation.

Run: python -m benchmarks.rounds [turns]
Needs `pip install 'pfl[pytorch]'`, which `make bench` runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from benchmarks.engines import Engine, Naive, Ours, Pfl
from benchmarks.pairing import Ratio, ratio, take_turns
from benchmarks.workload import Case

CASES = (Case("cnn", 10, 320), Case("cnn", 100, 64), Case("mlp", 100, 64))
TWO, ONE = "edgefd, 2 workers", "edgefd, 1 process"
AGAINST = {"naive, 1 thread": TWO, "naive, 2 threads": TWO, "pfl, 1 process": ONE}


def compare(case: Case, turns: int) -> tuple[list[Ratio], dict[str, float]]:
    """Return the ratios of a case, and the median seconds per round of every engine."""
    make: dict[str, Callable[[], Engine]] = {
        TWO: lambda: Ours(case, workers=2),
        ONE: lambda: Ours(case, workers=0),
        "naive, 1 thread": lambda: Naive(case, threads=1),
        "naive, 2 threads": lambda: Naive(case, threads=2),
        "pfl, 1 process": lambda: Pfl(case),
    }
    # edgefd first: its workers must fork before torch has threads
    engines = {name: engine() for name, engine in make.items()}
    try:
        seconds = take_turns({name: engine.round for name, engine in engines.items()}, turns, warm_up=2)
    finally:
        for engine in engines.values():
            engine.close()
    ratios = [ratio(f"round, {case.name}", other, seconds[other], seconds[ours]) for other, ours in AGAINST.items()]
    return ratios, {name: float(np.median(s)) for name, s in seconds.items()}


if __name__ == "__main__":
    for case in CASES:
        ratios, medians = compare(case, int(sys.argv[1]) if sys.argv[1:] else 7)
        print(f"{case.name}: " + ", ".join(f"{name} {s:.3f} s" for name, s in medians.items()))
        for line in ratios:
            print(line)
