"""Helpers of methods in which the server sends several teachers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefd.core.arrays import Float64, Int64
from edgefd.core.knowledge import Knowledge


def stacked(uploads: Sequence[Knowledge]) -> tuple[Int64, Float64]:
    """The rows that all uploads with rows hold, ids [P], and their values [K, P, C].

    Raises:
        ValueError: if some answered for other rows than others.
    """
    sent = [u for u in uploads if len(u)]
    if any(not np.array_equal(u.ids, sent[0].ids) for u in sent):
        raise ValueError("clients must all answer for the same rows")
    if not sent:
        return np.empty(0, np.int64), np.empty((0, 0, uploads[0].width))
    return sent[0].ids, np.stack([u.values for u in sent]).astype(np.float64)


def several(which: Sequence[int], ids: Int64, teachers: Float64, n_proxy: int) -> Knowledge:
    """Teachers [T, P, C] of the rows `ids` in one message: row i of teacher which[t] at id which[t] * n_proxy + i."""
    where = np.concatenate([t * n_proxy + ids for t in which])
    values = teachers.reshape(-1, teachers.shape[2]).astype(np.float32)
    return Knowledge(where, values, np.ones(len(where), np.float32))
