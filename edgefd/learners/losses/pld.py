"""PLD: Plackett-Luce distillation, towards the teacher's ranking of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.losses._loss import Distillation, Schedule, StepLoss
from edgefd.learners.probabilities import softmax64


@dataclass(frozen=True)
class Pld(Distillation):
    """Likelihood of the teacher's ranking of the classes."""

    loss: Literal["pld"] = "pld"
    """towards the teacher's ranking of the classes"""

    def step_loss(self, schedule: Schedule) -> StepLoss:
        """See `Distillation.step_loss`."""
        return pld


def pld(z: Float32, p: Float32) -> tuple[Float64, Float64]:
    """Return targets and losses of Plackett-Luce distillation.

    L = sum_k w_k (logsumexp_{l >= k} z[pi_l] - z[pi_k]), w_k = p[pi_k], where pi orders the classes from the largest p
    to the smallest; of classes with equal p, the one with the smaller number comes first. With two classes, L is
    p[pi_1] times the cross-entropy of pi_1, because the term of the last place is 0.
    """
    order = np.argsort(-p, axis=1, kind="stable")
    s, w = (np.take_along_axis(a.astype(np.float64), order, 1) for a in (z, p))
    s -= s.max(1, keepdims=True)
    rest = np.logaddexp.accumulate(s[:, ::-1], axis=1)[:, ::-1]
    # [n, k, j]: probability that place k of the ranking is given to the class at place j
    chance = np.exp(np.minimum(s[:, None, :] - rest[:, :, None], 0))
    ranked_gradient = (w[:, :, None] * np.triu(chance)).sum(1) - w
    gradient = np.empty_like(ranked_gradient)
    np.put_along_axis(gradient, order, ranked_gradient, 1)
    return softmax64(z) - gradient, (w * (rest - s)).sum(1)


LOSS = Pld
