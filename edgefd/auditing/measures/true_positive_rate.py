"""The true-positive rate at a stated false-positive rate: its estimate, its interval, and the whole ROC curve.

All non-members set the threshold. Its true false-positive rate is then a random number, so the interval covers both
the draw of the members and the draw of the threshold. Where scores are equal, the adversary accuses a random part of
them, which is a straight line between two corners of the ROC curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgefd.auditing.measures.statistics import Interval, Scores
from edgefd.core.arrays import Float64, Int64

_DRAWS = 1000
"""number of drawn thresholds; more change an end of an interval by less than a tenth of its length"""
_LEAST_ACCUSED = 1
"""smallest number of non-members at a threshold"""


@dataclass(frozen=True)
class Rate:
    """The true-positive rate at a false-positive rate, or the reason why it is not known."""

    fpr: float
    tpr: Interval | None
    reason: str = ""


def tpr_at(inside: Scores, outside: Scores, fpr: float, rng: np.random.Generator, significance: float = 0.05) -> Rate:
    """Return the true-positive rate at a false-positive rate, with its interval.

    The threshold is the k-th highest of n `outside`, with k = floor(fpr (n + 1)). Its false-positive rate is on average
    k / (n + 1), whatever the distribution of scores. See `tpr_interval` for the interval.
    """
    needed = math.ceil(_LEAST_ACCUSED / fpr - 1e-9) - 1
    if len(outside) < needed:
        return Rate(fpr, None, f"needs {needed} non-members, there are {len(outside)}")
    value = found_at(inside, outside, fpr)
    low, high = tpr_interval(inside, outside, fpr, rng, significance)
    return Rate(fpr, Interval(value, min(value, low), max(value, high)))


def found_at(inside: Scores, outside: Scores, fpr: float) -> float:
    """Return the share of `inside` at or above the threshold of a false-positive rate; of equal scores, only a part.

    >>> found_at(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]), 0.2)
    0.5
    """
    k = _accused(fpr, len(outside))
    if k > len(outside):
        return 1.0
    if k == 0:
        return float((inside > outside.max()).mean())
    threshold = np.partition(outside, len(outside) - k)[len(outside) - k]
    above, equal = int((outside > threshold).sum()), int((outside == threshold).sum())
    return float((inside > threshold).mean() + (k - above) / equal * (inside == threshold).mean())


def _accused(fpr: float, n: int) -> int:
    return math.floor(fpr * (n + 1) + 1e-9)


def tpr_interval(
    inside: Scores, outside: Scores, fpr: float, rng: np.random.Generator, significance: float = 0.05
) -> tuple[float, float]:
    """Return the interval of the true-positive rate at a false-positive rate.

    The false-positive rates of the sorted `outside` are sorted uniform numbers, whatever the distribution. So the
    number of `outside` above the true threshold is drawn from Bin(n, fpr), and the place of the threshold between its
    two neighbours likewise. For each draw, c of N `inside` are above it, and the rate is drawn from Beta(c, N - c + 1)
    for the lower end and Beta(c + 1, N - c) for the upper one, as in Clopper-Pearson. The interval lies between their
    quantiles.
    """
    low, high = _drawn_rates(_without_ties(inside, outside, rng), np.array([fpr]), rng)
    return float(np.quantile(low, significance / 2)), float(np.quantile(high, 1 - significance / 2))


def curve(inside: Scores, outside: Scores, fprs: Float64, rng: np.random.Generator) -> dict[str, list[float]]:
    """Return the ROC curve at some false-positive rates, with the 95 % interval of each: `fpr`, `tpr`, `low`, `high`.

    A point of the curve is the same as `tpr_at` gives for its rate.
    """
    tpr = np.array([found_at(inside, outside, float(f)) for f in fprs])
    low, high = _drawn_rates(_without_ties(inside, outside, rng), fprs, rng)
    ends = np.minimum(np.quantile(low, 0.025, axis=0), tpr), np.maximum(np.quantile(high, 0.975, axis=0), tpr)
    return {"fpr": fprs.tolist(), "tpr": tpr.tolist(), "low": ends[0].tolist(), "high": ends[1].tolist()}


def _without_ties(inside: Scores, outside: Scores, rng: np.random.Generator) -> tuple[Int64, int]:
    """Order all scores, equal ones at random; return the number of `inside` above each of the sorted `outside`.

    The number is preceded by 0 (above the highest score) and followed by all N; the second result is N.
    """
    scores = np.concatenate([inside, outside])
    is_inside = (np.lexsort((rng.random(len(scores)), -scores))) < len(inside)
    above = np.cumsum(is_inside)[~is_inside]
    return np.concatenate([[0], above, [len(inside)]]), len(inside)


def _drawn_rates(above: tuple[Int64, int], fprs: Float64, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """Draw the lower and the upper rate of each false-positive rate, float64 [draws, len(fprs)]."""
    counts, total = above
    n, shape = len(counts) - 2, (_DRAWS, len(fprs))
    higher = rng.binomial(n, fprs, shape)
    left = fprs * (1 - np.where(higher > 0, rng.random(shape) ** (1 / np.maximum(higher, 1)), 0))
    right = (1 - fprs) * (1 - np.where(higher < n, rng.random(shape) ** (1 / np.maximum(n - higher, 1)), 0))
    place = left / np.maximum(left + right, 1e-300)
    found = counts[higher] + place * (counts[higher + 1] - counts[higher])
    low = np.where(found > 0, rng.beta(np.maximum(found, 1e-9), total - found + 1), 0.0)
    high = np.where(found < total, rng.beta(found + 1, np.maximum(total - found, 1e-9)), 1.0)
    return low, high
