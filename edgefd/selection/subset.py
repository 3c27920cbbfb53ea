"""Selection of the teacher's rows that a client distils, from the soft labels of the teacher and of the client.

The rules use no other data, so a device chooses the same rows as a simulated client. Formulas and sources:
docs/guides/selection-and-losses.md.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Float64, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.learners.distillation_loss import divergence
from edgefd.selection.query import CLASS_KL
from edgefd.selection.settings import Selection, n_rows

_MIN_GAIN = 1e-6  # smallest gain or weight, to prevent a division by 0


def subset_rows(
    selection: Selection,
    teacher: Knowledge,
    client_probs: Float32,
    rng: np.random.Generator,
    reference: Callable[[], Float32],
) -> Knowledge:
    """Return the rows of the teacher that the client distils.

    Args:
        selection: the rule, one of `edgefd.selection.settings.CLIENT_RULES`, and its budget.
        teacher: knowledge of n rows.
        client_probs: soft labels of these rows by the client, float32 [n, C].
        rng: generator of this client in this round.
        reference: for adaspec, returns soft labels of these rows by the client's model after distilling all of them.
    """
    teacher_probs, k = teacher.values, n_rows(selection.budget, len(teacher))
    weights = np.ones(len(teacher), np.float32)
    if selection.name == "rad":
        rows = weighted_sample(rad(gains(client_probs), k, selection.assumed_teacher_error * len(teacher)), k, rng)
    elif selection.name == "llkd":
        weights = llkd(teacher_probs, client_probs)
        rows = best(weights, min(k, int((weights > 0).sum())))
    elif selection.name == "adaspec":
        rows = best(divergence(teacher_probs, client_probs) - divergence(teacher_probs, reference()), k)
    else:
        rows = best((teacher_probs.astype(np.float64) + client_probs).max(1) / 2, k)
    return Knowledge(teacher.ids[rows], teacher_probs[rows], teacher.weights[rows] * weights[rows])


def best(scores: npt.NDArray[np.floating], k: int) -> Int64:
    """Return the k rows with the highest scores, ascending. Among equal scores, the first rows are taken.

    >>> best(np.array([1.0, 3.0, 2.0, 3.0]), 3)
    array([1, 2, 3])
    """
    return np.sort(np.argsort(-scores, kind="stable")[:k])


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


def llkd(teacher_probs: Float32, client_probs: Float32) -> Float32:
    """Return weights float32 [n] in [0, 1] that are above 0 where the teacher is confident and the client is not.

    A row whose class by the teacher is c has a weight above 0 iff max p_t is at least the mean of max p_t over c, and
    1 - max p_s is at least its mean over c. The weight is the product of both, relative to the largest product.
    """
    confidence, uncertainty, c = teacher_probs.max(1), 1 - client_probs.max(1), teacher_probs.argmax(1)
    n_classes = teacher_probs.shape[1]
    count = np.maximum(np.bincount(c, minlength=n_classes), 1)
    passed = np.ones(len(teacher_probs), np.bool_)
    for x in (confidence, uncertainty):
        passed &= x >= (np.bincount(c, x, n_classes) / count)[c] - _MIN_GAIN  # a single row of a class equals its mean
    score = np.where(passed, np.maximum(confidence * uncertainty, _MIN_GAIN), 0)
    return np.asarray(score / max(score.max(initial=0), _MIN_GAIN), np.float32)


def class_divergence(teacher: Knowledge, client_probs: Float32) -> dict[str, float]:
    """Return the mean KL(teacher || client) for each class that the teacher predicts, as metrics."""
    kl, c = divergence(teacher.values, client_probs), teacher.values.argmax(1)
    return {f"{CLASS_KL}{k}": float(kl[c == k].mean()) for k in np.unique(c)}
