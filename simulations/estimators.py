"""Compare density estimators in EdgeFD's filter under strong non-IID: answers, accuracies and processor time.

Run: python simulations/estimators.py [--seeds 0 1 2] [--out estimators.md] [KEY=VALUE ...]
Each row of the table is the mean over the seeds of whole runs of simulations/quickstart.yaml, with only the estimator
and the settings KEY=VALUE changed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np

from edgefd.config.load import load_config
from edgefd.methods.edgefd import Config
from edgefd.rounds.client import client_filter
from edgefd.runs.prepare import prepare
from edgefd.runs.terms import terms_of
from edgefd.simulation.engine import open_transport, simulate

BASE = Path(__file__).parent / "quickstart.yaml"
METRICS = (
    *("out-of-class fraction", "answers per row", "teacher coverage", "teacher accuracy"),
    *("client accuracy", "worst client", "s per client"),
)
HEADER = f"| estimator | {' | '.join(METRICS)} |\n|{' --- |' * (len(METRICS) + 1)}\n"


def main() -> None:
    """Measure each estimator, and write its row as soon as it is complete."""
    estimators = get_args(get_type_hints(Config)["estimator"])
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--estimators", nargs="+", choices=estimators, default=estimators)
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--out", type=Path, default=Path("estimators.md"))
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    chosen = arguments.parse_args()
    chosen.out.write_text(HEADER)
    print(HEADER, end="", flush=True)
    for name in chosen.estimators:
        runs = np.array([measure(name, seed, chosen.overrides) for seed in chosen.seeds])
        line = f"| {name} | {' | '.join(f'{value:.3f}' for value in runs.mean(0))} |\n"
        with chosen.out.open("a") as file:
            file.write(line)
        print(line, end="", flush=True)


def measure(estimator: str, seed: int, overrides: Sequence[str]) -> list[float]:
    """Run one configuration, and return its metrics in the order of `METRICS`."""
    settings = [f"method.estimator={estimator}", f"seed={seed}", "baselines=[]", "run.evaluate_every=1000", *overrides]
    prepared = prepare(load_config(BASE, settings))
    config, federation = prepared.config, prepared.federation
    began = time.process_time()
    terms = terms_of(config, federation)
    for data in federation.clients[:3]:
        client_filter(config.method, config.method_config, data, federation.proxy, terms)
    seconds = (time.process_time() - began) / 3
    *_, last, final = simulate(open_transport(config, federation))
    metrics = asdict(last) | {k: v for k, v in asdict(final).items() if k.startswith("accuracy")}
    answers_per_row = metrics["kept_fraction"] * len(federation.clients)
    keys = ("teacher_coverage", "teacher_accuracy", "accuracy_mean", "accuracy_worst")
    return [metrics["wrong_claims"], answers_per_row, *(metrics[key] for key in keys), seconds]


if __name__ == "__main__":
    main()
