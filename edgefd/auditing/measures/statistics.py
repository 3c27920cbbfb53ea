"""Statistics of attacks: how well, and how certainly, two arrays of scores separate members from non-members.

Throughout, a higher score means a likelier member; `inside` float [n] are scores of
members, `outside` float [m] of non-members. Intervals are two-sided, bounds one-sided, both at 1 - `significance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float64

Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval."""

    value: float
    low: float
    high: float


def auc(inside: Scores, outside: Scores, significance: float = 0.05, paired: bool = False) -> Interval:
    """Return the area under the ROC curve, P(inside > outside) + P(equal) / 2, with an adjusted DeLong interval.

    DeLong: var = var(V) / n + var(W) / m, with V_i the share of `outside` below inside_i, W_j that of `inside` above
    outside_j, where ties count a half (E. DeLong et al., Biometrics 44, 1988). That interval is much too short near AUC
    1 and where most scores are equal. So it is computed with one more score above all others and one below all others
    in each group. For scores of 0 and 1, these are the one success and one failure that Agresti and Caffo add to each
    group (The American Statistician 54, 2000). The value itself is not changed.

    With `paired`, inside_i and outside_i are scores of one record: var = var(V + W) / n. The added scores are then four
    pairs of weight 1/2, as Agresti and Min add them (Biometrics 61, 2005). `simulations/audit_coverage.py` measures how
    often these intervals contain the truth.

    Raises:
        ValueError: if `paired` scores are not of one length.

    >>> auc(np.array([3.0, 4.0]), np.array([1.0, 3.0])).value
    0.875
    """
    from scipy.stats import norm

    if paired and len(inside) != len(outside):
        raise ValueError(f"{len(inside)} and {len(outside)} scores are not pairs")
    value = float(_placements(inside, outside).mean())
    inside, outside = (np.append(scores, [np.inf, -np.inf]) for scores in (inside, outside))
    v, w = _placements(inside, outside), 1 - _placements(outside, inside)
    centre = float(v.mean())
    variance = _paired_variance(v, w) if paired else float(v.var(ddof=1) / len(v) + w.var(ddof=1) / len(w))
    half = float(norm.ppf(1 - significance / 2)) * math.sqrt(variance)
    return Interval(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)))


def _paired_variance(v: Float64, w: Float64) -> float:
    """Return the variance of the area for pairs; the last two of `v` and of `w` are the added scores."""
    sums = np.concatenate([v[:-2] + w[:-2], (v[-2:, None] + w[-2:]).ravel()])
    weights = np.append(np.ones(len(v) - 2), np.full(4, 0.5))
    return float(weights @ (sums - 2 * v.mean()) ** 2) / (len(v) - 1) / len(v)


def _placements(a: Scores, b: Scores) -> Float64:
    """Return for each of `a` the share of `b` that is smaller, where ties count a half."""
    ordered = np.sort(b)
    below, upto = np.searchsorted(ordered, a, "left"), np.searchsorted(ordered, a, "right")
    return (below + upto) / (2 * len(b))


def roc(inside: Scores, outside: Scores) -> tuple[Float64, Float64]:
    """Return the corners of the ROC curve from (0, 0) to (1, 1).

    They are the shares of `outside` and of `inside` at or above each threshold.
    """
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    fpr = [0.0, *(1 - np.searchsorted(np.sort(outside), thresholds) / len(outside))]
    tpr = [0.0, *(1 - np.searchsorted(np.sort(inside), thresholds) / len(inside))]
    return np.array(fpr), np.array(tpr)


def mean_interval(values: Scores, significance: float = 0.05) -> Interval:
    """Return the mean of two or more values, with the interval of Student's t.

    >>> mean = mean_interval(np.array([1.0, 2.0, 3.0]))
    >>> round(mean.low, 3), mean.value, round(mean.high, 3)
    (-0.484, 2.0, 4.484)
    """
    from scipy.stats import t

    mean = float(values.mean(dtype=np.float64))
    error = float(values.std(ddof=1, dtype=np.float64)) / math.sqrt(len(values))
    half = error * float(t.ppf(1 - significance / 2, len(values) - 1))
    return Interval(mean, mean - half, mean + half)


def clopper_pearson(successes: int, trials: int, significance: float = 0.05) -> tuple[float, float]:
    """Return the exact two-sided interval of a probability.

    >>> [round(x, 4) for x in clopper_pearson(0, 100)]
    [0.0, 0.0362]
    """
    return lower_bound(successes, trials, significance / 2), upper_bound(successes, trials, significance / 2)


def upper_bound(successes: int, trials: int, significance: float) -> float:
    """Return the exact one-sided upper bound of a probability: p with P(Bin(trials, p) <= successes) = significance."""
    from scipy.stats import beta

    return 1.0 if successes == trials else float(beta.ppf(1 - significance, successes + 1, trials - successes))


def lower_bound(successes: int, trials: int, significance: float) -> float:
    """Return the exact one-sided lower bound of a probability."""
    return 1 - upper_bound(trials - successes, trials, significance)


def advantage(inside: Scores, outside: Scores) -> float:
    """Return the largest TPR - FPR of any threshold.

    The threshold is chosen on the scores on which it is measured, so the value is never below 0.
    """
    fpr, tpr = roc(inside, outside)
    return float((tpr - fpr).max())


@dataclass(frozen=True)
class Guesses:
    """Counts at a threshold: of `n_in` members and `n_out` non-members, `tp` and `fp` are classified as members."""

    tp: int
    n_in: int
    fp: int
    n_out: int


def guesses(inside: Scores, outside: Scores, threshold: float) -> Guesses:
    """Count the guesses at a threshold: a score that reaches it is classified as a member."""
    return Guesses(int((inside >= threshold).sum()), len(inside), int((outside >= threshold).sum()), len(outside))


Bound = Callable[[Guesses, float, float], float]
"""(guesses, delta, significance) → the lower bound of epsilon"""


def epsilon_clopper_pearson(g: Guesses, delta: float, significance: float) -> float:
    """Return ln((TPR_low - delta) / FPR_high), at least 0, each bound at significance / 2 (arXiv 2101.04535).

    It assumes that records are independent trials, which those of one run are not: read it as a description.
    """
    tpr = lower_bound(g.tp, g.n_in, significance / 2)
    fpr = upper_bound(g.fp, g.n_out, significance / 2)
    return max(0.0, math.log((tpr - delta) / fpr)) if tpr > delta else 0.0


def epsilon_one_run(g: Guesses, delta: float, significance: float) -> float:
    """Return the lower bound from one run with many canaries, each planted by a coin (arXiv 2305.08846).

    With r = tp + fp guesses of which v = tp are correct, m canaries and q = e^eps / (1 + e^eps), an (eps, delta)-DP run
    gives that many with probability at most

        P(Bin(r, q) >= v) + 2 m delta max_{1 <= i <= v} P(v > Bin(r, q) >= v - i) / i

    The bound is the largest eps for which that is at most `significance`.
    """
    from scipy.stats import binom

    r, v, m = g.tp + g.fp, g.tp, g.n_in + g.n_out

    def p_value(eps: float) -> float:
        q = 1 / (1 + math.exp(-eps))
        tail = float(binom.sf(v - 1, r, q))
        if not delta or not v:
            return tail
        i = np.arange(1, v + 1)
        worst = float(((binom.sf(v - i - 1, r, q) - tail) / i).max())
        return min(1.0, tail + 2 * m * delta * worst)

    return _largest(lambda eps: p_value(eps) <= significance) if v else 0.0


def epsilon_one_run_fdp(g: Guesses, delta: float, significance: float) -> float:
    """Return the lower bound from the whole trade-off curve of the Gaussian mechanism.

    See Mahloujifar et al., arXiv 2410.22235, algorithm 1. It refutes mu-Gaussian DP; eps is that of mu at `delta`. It
    is tighter than `epsilon_one_run` for runs with Gaussian noise, and is a statement about those only.
    """
    from scipy.special import ndtr, ndtri

    m, total, correct = g.n_in + g.n_out, g.tp + g.fp, g.tp

    def refuted(eps: float) -> bool:
        mu = _largest(lambda mu: _delta_of(eps, mu) <= delta)  # whose Gaussian mechanism is (eps, delta)-DP
        r, h = significance * correct / m, significance * (total - correct) / m
        for i in range(correct - 1, -1, -1):
            next_h = max(h, float(ndtr(ndtri(r) - mu)))
            if next_h == h:
                break
            r, h = min(1.0, r + i / (total - i) * (next_h - h)), next_h
        return r + h > total / m

    return _largest(refuted) if correct else 0.0


def epsilon_split(
    bound: Bound, inside: Scores, outside: Scores, delta: float, rng: np.random.Generator, significance: float = 0.05
) -> float:
    """Return a bound at the threshold that is best on one half of the scores, measured on the other half."""
    (in_a, in_b), (out_a, out_b) = (_halves(scores, rng) for scores in (inside, outside))
    candidates = np.quantile(np.concatenate([in_a, out_a]), np.linspace(0, 1, 41), method="higher")
    best = max(
        np.unique(candidates),
        key=lambda t: epsilon_clopper_pearson(guesses(in_a, out_a, float(t)), delta, significance),
    )
    return bound(guesses(in_b, out_b, float(best)), delta, significance)


def largest_epsilon(n_in: int, n_out: int, delta: float = 0.0, significance: float = 0.05) -> float:
    """Return the largest one-run bound that so many records can give: that of a perfect attack.

    >>> [round(largest_epsilon(n, n), 1) for n in (100, 1000)]
    [3.5, 5.8]
    """
    return epsilon_one_run(Guesses(n_in, n_in, 0, n_out), delta, significance)


def _halves(scores: Scores, rng: np.random.Generator) -> tuple[Scores, Scores]:
    order = rng.permutation(len(scores))
    return scores[order[: len(order) // 2]], scores[order[len(order) // 2 :]]


def _largest(holds: Callable[[float], bool]) -> float:
    """Return the largest eps >= 0, to 1e-7, for which `holds` is true; 0 if there is none.

    `holds` must be true up to some eps, and false above it.
    """
    if not holds(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while holds(high) and high < 64:
        low, high = high, 2 * high
    while high - low > 1e-7:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _delta_of(eps: float, mu: float) -> float:
    from scipy.special import log_ndtr, ndtr

    if mu == 0:
        return 0.0
    return float(ndtr(mu / 2 - eps / mu)) - math.exp(eps + float(log_ndtr(-eps / mu - mu / 2)))
