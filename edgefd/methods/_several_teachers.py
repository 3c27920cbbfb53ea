"""Helpers of methods in which the server sends several teachers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgefd.core.arrays import Float64, Int64
from edgefd.core.knowledge import Knowledge


def stacked(uploads: Sequence[Knowledge]) -> tuple[Int64, Float64]:
    """Stack the uploads that have rows: their common ids [P] and their values [K, P, C].

    Raises:
        ValueError: if they hold different rows.
    """
    sent = [u for u in uploads if len(u)]
    if any(not np.array_equal(u.ids, sent[0].ids) for u in sent):
        raise ValueError("clients must all answer for the same rows")
    if not sent:
        return np.empty(0, np.int64), np.empty((0, 0, uploads[0].width))
    return sent[0].ids, np.stack([u.values for u in sent]).astype(np.float64)


def split_teachers(teacher: Knowledge, n_proxy: int) -> tuple[Int64, Float64]:
    """Split joined teachers: return the rows that they label, int64 [P], and their labels, [T, P, C].

    Raises:
        ValueError: if they label different rows.
    """
    rows = teacher.ids % n_proxy
    ids = np.unique(rows)
    n_teachers = len(rows) // max(len(ids), 1)
    if not np.array_equal(rows, np.tile(ids, n_teachers)):
        raise ValueError("the teachers of the coordinator label different rows")
    return ids, teacher.values.reshape(n_teachers, len(ids), teacher.width).astype(np.float64)


def join_teachers(numbers: Sequence[int], ids: Int64, teachers: Float64, n_proxy: int) -> Knowledge:
    """Join teachers [T, P, C] of the rows `ids`: row i of teacher numbers[t] gets the id numbers[t] * n_proxy + i."""
    joint_ids = np.concatenate([t * n_proxy + ids for t in numbers])
    values = teachers.reshape(-1, teachers.shape[2]).astype(np.float32)
    return Knowledge(joint_ids, values, np.ones(len(joint_ids), np.float32))
