"""Which proxy rows a client may answer for, and how surely: the two-stage client filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64


class Scorer(Protocol):
    """Anything with scikit-learn's `score_samples`: the higher, the more a row looks like the client's data."""

    def score_samples(self, X: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Float [n]."""
        ...


@dataclass(frozen=True)
class AcceptanceRule:
    """From scores to claims.

    Stage 1: rows that the client contributed itself are its own, with weight 1 (`accept_contributed`).
    Stage 2: any other row x is claimed iff s(x) >= t, where t leaves a share `quantile` of *held-out* private data
    above it. Its weight is 1 (`weighting="hard"`) or exp(-beta r(x) / T) with r = exp(-s), T = exp(-t) ("soft"): near
    1 deep inside the client's data, exp(-beta) at the threshold. For `KMeansDRE` r is d_p / d_q, the paper's ratio.
    """

    quantile: float
    weighting: Literal["hard", "soft"]
    beta: float
    accept_contributed: bool


def acceptance_weights(
    scorer: Scorer, heldout: Float32, proxy: Float32, contributed: Int64, rule: AcceptanceRule
) -> Float32:
    """How surely the client claims each proxy row: float32 [P] in [0, 1], 0 = not claimed.

    Args:
        scorer: fitted on the client's private rows, but not on `heldout`.
        heldout: float32 [h, ...] private rows that set the threshold.
        proxy: float32 [P, ...].
        contributed: int64 ids of the proxy rows that the client contributed.
        rule: thresholds and weighting.
    """
    threshold = np.quantile(scorer.score_samples(heldout), 1 - rule.quantile)
    score = scorer.score_samples(proxy)
    claimed = score >= threshold
    weights: Float32 = claimed.astype(np.float32)
    if rule.weighting == "soft":
        weights[claimed] = np.exp(-rule.beta * np.exp(threshold - score[claimed]))
    if rule.accept_contributed:
        weights[contributed] = 1
    return weights
