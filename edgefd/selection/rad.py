"""RAD: a client draws the rows from which it can gain most, if an unknown share of the teacher's labels is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import Candidates
from edgefd.selection._subset import Subset, rows_of

_MIN_GAIN = 1e-6  # smallest gain, to prevent a division by 0


@dataclass(frozen=True)
class Rad(Subset):
    """Draw rows from which the client gains most, robust to wrong labels of the teacher (`rad`)."""

    name: Literal["rad"] = "rad"
    """rows that the client is unsure about, robust to wrong labels of the teacher"""
    assumed_teacher_error: float = 0.1
    """assumed share of rows on which the teacher is wrong"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.assumed_teacher_error < 1:
            raise ValueError("assumed_teacher_error must be at least 0 and below 1")

    def subset(self, candidates: Candidates) -> Knowledge:
        """See `Selection.subset`."""
        teacher = candidates.teacher
        k, n_wrong = self.n_rows(len(teacher)), self.assumed_teacher_error * len(teacher)
        return rows_of(teacher, weighted_sample(rad(gains(candidates.client_probs()), k, n_wrong), k, candidates.rng))


def gains(client_probs: Float32) -> Float64:
    """Return the possible gain of each row: g = 1 - (largest - second largest probability)."""
    top = np.sort(client_probs.astype(np.float64), axis=1)[:, -2:]
    return np.maximum(1 - (top[:, 1] - top[:, 0]), _MIN_GAIN)


def rad(gain: Float64, k: int, n_wrong: float) -> Float64:
    """Return the probabilities of drawing each row, float64 [n], that are optimal if any `n_wrong` rows are wrong.

    They solve max_q min_{m rows lost} sum of q_i g_i, with m = `n_wrong`. With rows in descending order of g, q_i is
    proportional to 1 / g_i on the first j rows, with the value (j - m) / sum_{i <= j} 1 / g_i. The number j maximises
    this value, but is at least k, the number of rows to draw.

    >>> rad(np.array([0.5, 1.0, 0.25]), 1, 0.0)
    array([0., 1., 0.])
    >>> rad(np.array([0.5, 1.0, 0.25]), 1, 1.0).round(3)
    array([0.667, 0.333, 0.   ])
    """
    order = np.argsort(-gain, kind="stable")
    inverse = 1 / gain[order]
    value = (np.arange(1, len(gain) + 1) - n_wrong) / inverse.cumsum()
    j = k + int(value[k - 1 :].argmax())
    q = np.zeros(len(gain))
    q[order[:j]] = inverse[:j] / inverse[:j].sum()
    return q


def weighted_sample(q: Float64, k: int, rng: np.random.Generator) -> Int64:
    """Draw k rows one after another with probabilities in proportion to q: the k smallest of -log(u) / q, ascending."""
    waits = rng.exponential(size=len(q)) / np.maximum(q, 1e-300)
    return np.sort(np.argsort(waits, kind="stable")[:k])


RULE = Rad
