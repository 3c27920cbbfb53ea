"""The acceptance rule: a two-stage filter that gives each proxy row an acceptance weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64


class Scorer(Protocol):
    """A fitted density estimator with the method `score_samples` of scikit-learn.

    A higher score means that a row is more like the data of the client.
    """

    def score_samples(self, X: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Return the scores of samples, float [n]."""
        ...


@dataclass(frozen=True)
class AcceptanceRule:
    """The rule that turns scores into acceptance weights.

    Stage 1: rows that the client contributed are accepted with weight 1, if `accept_contributed` is true.
    Stage 2: any other row x is accepted if and only if s(x) >= t, where t is the threshold that a share `quantile` of
    the *held-out* private rows reaches. Its weight is 1 (`weighting="hard"`) or exp(-beta r(x) / T) with r = exp(-s)
    and T = exp(-t) (`weighting="soft"`): close to 1 where the client's data are dense, exp(-beta) at the threshold.
    For `KMeansDRE`, r is d_p / d_q, the ratio of the paper.
    """

    quantile: float
    """share of held-out private rows that reach the threshold; a config sets it as `method.quantile`"""
    weighting: Literal["hard", "soft"]
    """weight of accepted rows: 1 (hard), or by their score (soft)"""
    beta: float
    """decay of soft weights; without effect on hard ones"""
    accept_contributed: bool
    """whether rows that the client contributed are always accepted"""


def acceptance_weights(
    scorer: Scorer,
    heldout: Float32,
    proxy: Float32,
    contributed: Int64,
    rule: AcceptanceRule,
    least_share: float = 0.0,
) -> Float32:
    """Return the acceptance weight of each proxy row: float32 [P] in [0, 1]; 0 means not accepted.

    With a proxy set of another kind, such as darker or turned images, no score reaches the threshold of the held-out
    rows, but the rows of the client's classes still have higher scores than the other proxy rows. `least_share`
    compares the proxy rows with each other: it lowers the threshold t until this share of them is accepted.

    Args:
        scorer: estimator fitted on private rows of the client, but not on `heldout`.
        heldout: private rows that determine the threshold, float32 [h, ...].
        proxy: rows of the proxy set, float32 [P, ...].
        contributed: ids of the proxy rows that the client contributed, int64.
        rule: threshold and weighting.
        least_share: share of the proxy rows that is accepted at least, in [0, 1].
    """
    threshold = np.quantile(scorer.score_samples(heldout), 1 - rule.quantile)
    score = scorer.score_samples(proxy)
    if least_share > 0:
        threshold = min(threshold, np.quantile(score, 1 - least_share))
    accepted = score >= threshold
    weights: Float32 = accepted.astype(np.float32)
    if rule.weighting == "soft":
        weights[accepted] = np.exp(-rule.beta * np.exp(threshold - score[accepted]))
    if rule.accept_contributed:
        weights[contributed] = 1
    return weights
