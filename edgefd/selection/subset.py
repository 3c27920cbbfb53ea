"""Which of the teacher's rows a client learns in a round, from the teacher's soft labels and the client's own.

Nothing more is needed, so a device chooses as a simulated client does. Formulas and sources: docs/guides/selection-and-losses.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.learners.distillation_loss import divergence
from edgefd.selection.query import LAG
from edgefd.selection.settings import Selection, n_rows

_LEAST = 1e-6  # gain or weight: no division by 0


def subset_rows(
    selection: Selection, teacher: Knowledge, own: Float32, rng: np.random.Generator, reference: Callable[[], Float32]
) -> Knowledge:
    """Those rows of the teacher.

    Args:
        selection: the rule, one of `edgefd.selection.settings.CLIENT_RULES`, and its budget.
        teacher: n rows.
        own: the client's soft labels of those rows, float32 [n, C].
        rng: of this client in this round.
        reference: for adaspec: soft labels of those rows by this client, had it learned all of them.
    """
    said, k = teacher.values, n_rows(selection.budget, len(teacher))
    weights = np.ones(len(teacher), np.float32)
    if selection.name == "rad":
        rows = weighted_sample(rad(gains(own), k, selection.assumed_teacher_error * len(teacher)), k, rng)
    elif selection.name == "llkd":
        weights = llkd(said, own)
        rows = best(weights, min(k, int((weights > 0).sum())))
    elif selection.name == "adaspec":
        rows = best(divergence(said, own) - divergence(said, reference()), k)
    else:
        rows = best((said.astype(np.float64) + own).max(1) / 2, k)
    return Knowledge(teacher.ids[rows], said[rows], teacher.weights[rows] * weights[rows])


def best(scores: npt.NDArray[np.floating], k: int) -> Int64:
    """The k rows of the highest score, ascending; of equal ones those that come first.

    >>> best(np.array([1.0, 3.0, 2.0, 3.0]), 3)
    array([1, 2, 3])
    """
    return np.sort(np.argsort(-scores, kind="stable")[:k])


def gains(own: Float32) -> Float64:
    """What there is to learn of each row: g = 1 - (largest - second largest probability)."""
    top = np.sort(own.astype(np.float64), axis=1)[:, -2:]
    return np.maximum(1 - (top[:, 1] - top[:, 0]), _LEAST)


def rad(gain: Float64, k: int, wrong: float) -> Float64:
    """From which rows to draw, float64 [n] of sum 1: the best answer if the teacher is wrong on any `wrong` rows.

    It is max_q min_{m rows lost} sum of q_i g_i. With rows in falling order of g, q_i is proportional to 1 / g_i on the
    first j, of value (j - m) / sum_{i <= j} 1 / g_i; j makes that largest, but is at least k, the rows to draw.

    >>> rad(np.array([0.5, 1.0, 0.25]), 1, 0.0)
    array([0., 1., 0.])
    >>> rad(np.array([0.5, 1.0, 0.25]), 1, 1.0).round(3)
    array([0.667, 0.333, 0.   ])
    """
    order = np.argsort(-gain, kind="stable")
    inverse = 1 / gain[order]
    value = (np.arange(1, len(gain) + 1) - wrong) / inverse.cumsum()
    j = k + int(value[k - 1 :].argmax())
    q = np.zeros(len(gain))
    q[order[:j]] = inverse[:j] / inverse[:j].sum()
    return q


def weighted_sample(q: Float64, k: int, rng: np.random.Generator) -> Int64:
    """Draw k rows one after another with chances in proportion to q: the k smallest of -log(u) / q, ascending."""
    waits = rng.exponential(size=len(q)) / np.maximum(q, 1e-300)
    return np.sort(np.argsort(waits, kind="stable")[:k])


def llkd(said: Float32, own: Float32) -> Float32:
    """Weights float32 [n] in [0, 1]: 0 but where the teacher is sure and the client is not, each judged within a class.

    A row of class c (the teacher's) counts iff max p_t >= its mean over c and 1 - max p_s >= its mean over c. Then it
    weighs their product, relative to the largest.
    """
    sure, unsure, c = said.max(1), 1 - own.max(1), said.argmax(1)
    count = np.maximum(np.bincount(c, minlength=said.shape[1]), 1)
    enough = np.ones(len(said), np.bool_)
    for x in (sure, unsure):
        enough &= x >= (np.bincount(c, x, said.shape[1]) / count)[c] - _LEAST  # a class of one row is its own mean
    score = np.where(enough, np.maximum(sure * unsure, _LEAST), 0)
    return np.asarray(score / max(score.max(initial=0), _LEAST), np.float32)


def class_divergence(teacher: Knowledge, own: Float32) -> dict[str, float]:
    """For each class that the teacher finds, how far the client is behind: its mean KL(teacher || own). Metrics."""
    far, c = divergence(teacher.values, own), teacher.values.argmax(1)
    return {f"{LAG}{k}": float(far[c == k].mean()) for k in np.unique(c)}
