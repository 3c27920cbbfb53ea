"""Measure how often the intervals of `edgefd audit` contain the truth, on scores whose truth is known.

    python simulations/audit_coverage.py > coverage.md

Each row of the Markdown table is an interval on one population of scores; each cell is the share of the repetitions in
which it contains the truth, for n members and n non-members (n pairs, n records). The intervals claim 95 %. The exit
code is 1 if a share is below 0.93. It takes about five minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from edgefd.auditing.measures import statistics
from edgefd.auditing.measures.true_positive_rate import tpr_at
from edgefd.core.arrays import Float64

SIZES = (10, 40, 200, 540, 1766)
RATES = (0.1, 0.01, 0.001)
LEAST = 0.93

Pair = tuple[Float64, Float64]


@dataclass(frozen=True)
class Population:
    """Scores of members and non-members with a known area under the ROC curve, and known rates."""

    name: str
    draw: Callable[[np.random.Generator, int], Pair]
    auc: float
    tpr: Callable[[float], float]
    """true-positive rate at a false-positive rate"""
    paired: bool = False


def shifted(shift: float) -> Population:
    """Return normal scores; those of members are higher by `shift`."""
    return Population(
        f"normal scores, AUC {norm.cdf(shift / 2**0.5):.3f}",
        lambda r, n: (r.normal(shift, 1, n), r.normal(0, 1, n)),
        float(norm.cdf(shift / 2**0.5)),
        lambda f: float(norm.sf(norm.isf(f) - shift)),
    )


def some_certain(share: float) -> Population:
    """Return scores that give a share of the members away with certainty, and say nothing of the others."""
    return Population(
        f"{share:.0%} of the members are certain",
        lambda r, n: (np.where(r.random(n) < share, 99.0, r.normal(0, 1, n)), r.normal(0, 1, n)),
        0.5 + share / 2,
        lambda f: share + (1 - share) * f,
    )


def zero_one(p: float, q: float) -> Population:
    """Return scores of 0 and 1, such as those of `label_only`: p of the members have 1, q of the non-members."""
    return Population(
        f"scores of 0 and 1, AUC {0.5 + (p - q) / 2:.4f}",
        lambda r, n: ((r.random(n) < p).astype(float), (r.random(n) < q).astype(float)),
        0.5 + (p - q) / 2,
        lambda f: f * p / q if f < q else p + (f - q) / (1 - q) * (1 - p),
    )


def rejected(p: float, q: float, shift: float) -> Population:
    """Return normal scores; a filter rejects p of the members and q of the non-members, which have the lowest score."""

    def draw(r: np.random.Generator, n: int) -> Pair:
        return (
            np.where(r.random(n) < p, -99.0, r.normal(shift, 1, n)),
            np.where(r.random(n) < q, -99.0, r.normal(0, 1, n)),
        )

    both = (1 - p) * (1 - q)
    return Population(
        "a filter rejects 10 % and 30 %",
        draw,
        float(both * norm.cdf(shift / 2**0.5) + (1 - p) * q + p * q / 2),
        lambda f: float((1 - p) * norm.sf(norm.isf(f / (1 - q)) - shift)),
    )


def pairs(shift: float) -> Population:
    """Return pairs: each record has a score as a member and one as a non-member, with a part in common."""

    def draw(r: np.random.Generator, n: int) -> Pair:
        common = r.normal(0, 1, n)
        return common + r.normal(shift, 1, n), common + r.normal(0, 1, n)

    return Population(
        f"canary pairs, AUC {norm.cdf(shift / 2):.3f}",
        draw,
        float(norm.cdf(shift / 2)),
        lambda f: float(norm.sf(norm.isf(f) - shift / 2**0.5)),
        paired=True,
    )


def mask_pairs(p: float, q: float) -> Population:
    """Return pairs of 0 and 1, such as those of `mask`: a member is accepted wherever the non-member is."""

    def draw(r: np.random.Generator, n: int) -> Pair:
        u = r.random(n)
        return (u < p).astype(float), (u < q).astype(float)

    plain = zero_one(p, q)
    return Population(f"canary pairs of 0 and 1, AUC {plain.auc:.4f}", draw, plain.auc, plain.tpr, paired=True)


POPULATIONS = (
    *(shifted(shift) for shift in (0.0, 1.0, 2.0, 3.3, 5.0)),
    some_certain(0.03),
    zero_one(0.9, 0.8),
    zero_one(0.015, 1e-12),
    rejected(0.1, 0.3, 0.7),
    pairs(0.0),
    pairs(1.0),
    mask_pairs(0.9, 0.7),
    mask_pairs(0.02, 0.005),
)

Covered = Callable[[np.random.Generator, int], bool | None]
"""(rng, n) -> whether an interval of n members and n non-members contains the truth; None = it is not given"""


def of_auc(population: Population) -> Covered:
    """Return the test of the area's interval."""

    def covered(r: np.random.Generator, n: int) -> bool:
        area = statistics.auc(*population.draw(r, n), paired=population.paired)
        return area.low <= population.auc <= area.high

    return covered


def of_tpr(population: Population, fpr: float) -> Covered:
    """Return the test of the interval of the true-positive rate; it also holds for the band of the ROC curve."""

    def covered(r: np.random.Generator, n: int) -> bool | None:
        rate = tpr_at(*population.draw(r, n), fpr, r).tpr
        return None if rate is None else rate.low <= population.tpr(fpr) <= rate.high

    return covered


def of_epsilon(epsilon: float, delta: float) -> Covered:
    """Return the test of the one-run bound, on n members and n non-members of randomised response."""
    p = float(np.exp(epsilon) / (1 + np.exp(epsilon)))

    def covered(r: np.random.Generator, n: int) -> bool:
        inside, outside = zero_one(p, 1 - p).draw(r, n)
        return statistics.epsilon_split(statistics.epsilon_one_run, inside, outside, delta, r) <= epsilon

    return covered


def of_share(p: float) -> Covered:
    """Return the test of the Clopper-Pearson interval, which the fidelity of extracted models has."""

    def covered(r: np.random.Generator, n: int) -> bool:
        low, high = statistics.clopper_pearson(int(r.binomial(n, p)), n)
        return low <= p <= high

    return covered


def of_mean(r: np.random.Generator, n: int) -> bool:
    """Test the interval of a mean, which differences of SSIM have."""
    mean = statistics.mean_interval(r.normal(0.01, 0.05, n))
    return mean.low <= 0.01 <= mean.high


def intervals() -> Iterator[tuple[str, Covered]]:
    """Yield the name and the test of every interval that an audit prints."""
    for population in POPULATIONS:
        yield f"AUC: {population.name}", of_auc(population)
    for fpr in RATES:
        for population in POPULATIONS:
            yield f"TPR at {fpr:.1%} FPR: {population.name}", of_tpr(population, fpr)
    for epsilon in (0.5, 2.0):
        yield f"one-run bound of ε: randomised response, ε = {epsilon:g}", of_epsilon(epsilon, 1e-5)
    for p in (0.3, 0.95):
        yield f"share (fidelity): {p:g}", of_share(p)
    yield "mean (difference of SSIM): normal", of_mean


def main() -> int:
    """Print the table; return 1 if an interval contains the truth too rarely."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--only", default="", help="the beginning of the rows' names")
    options = parser.parse_args()
    print(f"| interval | {' | '.join(f'n = {n}' for n in SIZES)} |\n| --- |{' --- |' * len(SIZES)}")
    lowest = 1.0
    for name, covered in intervals():
        if not name.startswith(options.only):
            continue
        cells = []
        for n in SIZES:
            results = [covered(np.random.default_rng([n, i]), n) for i in range(options.repetitions)]
            known = [result for result in results if result is not None]
            cells.append(f"{np.mean(known):.3f}" if known else "-")
            lowest = min(lowest, float(np.mean(known)) if known else 1.0)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"lowest: {lowest:.3f}", file=sys.stderr)
    return int(lowest < LEAST)


if __name__ == "__main__":
    sys.exit(main())
