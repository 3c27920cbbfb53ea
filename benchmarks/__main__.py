"""Measure all ratios in under ten minutes, print the table and write benchmarks/out/bench.json.

The whole rounds use mnist_mini, which is part of edgefd. The filter needs MNIST: without it, its ratios are left out,
and the first line says how to download it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from benchmarks import density, flower_ray, rounds
from benchmarks.pairing import Ratio

OUT = Path(__file__).parent / "out" / "bench.json"


def main() -> None:
    """Measure whole rounds, then the filter if MNIST is available."""
    results: list[Ratio] = []
    if problem := density.missing_data():
        print(f"skipping the filter: {problem}", flush=True)
    for case in rounds.CASES:
        ratios, medians = rounds.compare(case, turns=7)
        results += ratios
        print(f"{case.name}: " + ", ".join(f"{name} {s:.3f} s" for name, s in medians.items()), flush=True)
    results += [flower_ray.compare(case) for case in flower_ray.CASES]
    if not problem:
        for n in (1000, 2000, 4000):
            results += density.compare(n)
        for k in (10, 50):
            results += density.against_sklearn(4000, k)
    for r in results:
        print(r)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
