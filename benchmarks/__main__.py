"""All ratios, in under ten minutes: prints the table and writes benchmarks/out/bench.json."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import density, flower_ray, rounds
from benchmarks.pairing import Ratio

OUT = Path(__file__).parent / "out" / "bench.json"


def main() -> None:
    """Whole rounds, then the filter."""
    found: list[Ratio] = []
    for case in rounds.CASES:
        ratios, medians = rounds.compare(case, turns=7)
        found += ratios
        print(f"{case.name}: " + ", ".join(f"{name} {s:.3f} s" for name, s in medians.items()), flush=True)
    found += [flower_ray.compare(case) for case in flower_ray.CASES]
    for n in (1000, 2000, 4000):
        found += density.compare(n)
    for k in (10, 50):
        found += density.against_sklearn(4000, k)
    for r in found:
        print(f"{r.case:55} {r.against:18} {r.ratio:7.2f}  [{r.low:.2f}, {r.high:.2f}]")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([r.to_dict() for r in found], indent=2) + "\n")
    print(f"written: {OUT}")


if __name__ == "__main__":
    main()
