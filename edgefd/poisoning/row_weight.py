"""Row weights: how much clients learn from each row of the teacher, compared with its other rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.core.knowledge import Knowledge

RowWeight = Literal["one", "mass", "agreement", "entropy"]

_SMALLEST = 0.01  # a weight must be above 0, and a row of the teacher that has no effect would be sent in vain


def with_row_weights(teacher: Knowledge, uploads: Sequence[Knowledge], rule: RowWeight) -> Knowledge:
    """Return the teacher with a weight for each row i, in [0.01, 1]. Its soft labels do not change.

    * one: 1.
    * mass: min(1, m_i / median(m)), where m_i = sum_c w_c[i] is the weight of all clients that sent row i. Half of the
      rows keep weight 1. A row that a single client sent with little confidence counts less, in proportion.
    * agreement: max_k z_i[k], the largest probability of the soft label z_i.
    * entropy: 1 - H(z_i) / log C, where H is the entropy of the soft label over C classes.

    A step of the distillation is a weighted mean over its rows, so only the ratios of these weights matter, and those
    to the client's private rows, which have weight 1.

    >>> sure = Knowledge(np.array([0, 1]), np.eye(2, dtype=np.float32), np.array([1, 0.5], np.float32))
    >>> faint = Knowledge(np.array([2]), np.ones((1, 2), np.float32) / 2, np.array([0.125], np.float32))
    >>> labels = Knowledge(np.arange(3), np.ones((3, 2), np.float32) / 2, np.ones(3, np.float32))
    >>> with_row_weights(labels, [sure, faint], "mass").weights
    array([1.  , 1.  , 0.25], dtype=float32)
    """
    if rule == "one" or not len(teacher):
        return teacher
    if rule == "mass":
        mass = _mass(teacher, uploads)
        weights = mass / np.median(mass)
    else:
        weights = teacher.values.max(1) if rule == "agreement" else _certainty(teacher.values)
    return Knowledge(teacher.ids, teacher.values, np.clip(weights, _SMALLEST, 1).astype(np.float32))


def _mass(teacher: Knowledge, uploads: Sequence[Knowledge]) -> Float64:
    """Return the sum of the weights with which clients sent each row of the teacher, float64 [n]."""
    mass = np.zeros(len(teacher), np.float64)
    for upload in uploads:
        sent = np.isin(upload.ids, teacher.ids)  # a robust rule can leave rows out
        mass[np.searchsorted(teacher.ids, upload.ids[sent])] += upload.weights[sent]
    return mass


def _certainty(values: Float32) -> Float64:
    """Return 1 - H(z) / log C of each soft label z, float64 [n]; 1 for a single class."""
    p = np.clip(values.astype(np.float64), 1e-12, 1)
    certainty: Float64 = 1 + (p * np.log(p)).sum(1) / np.log(max(p.shape[1], 2))
    return certainty
