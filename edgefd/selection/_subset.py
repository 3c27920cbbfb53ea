"""`Subset`: base of the client's rules, which choose the teacher's rows from the soft labels of teacher and client.

The rules use no other data, so a device chooses the same rows as a simulated client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import BudgetedSelection


@dataclass(frozen=True)
class Subset(BudgetedSelection):
    """Base of the rules that choose the rows that a client distils."""

    subsets: ClassVar[bool] = True


def rows_of(teacher: Knowledge, rows: Int64, weights: Float32 | None = None) -> Knowledge:
    """Return the rows of the teacher at the positions `rows`; `weights` [n] multiply those of the teacher."""
    kept = teacher.weights[rows] if weights is None else teacher.weights[rows] * weights[rows]
    return Knowledge(teacher.ids[rows], teacher.values[rows], kept)


def best(scores: npt.NDArray[np.floating], k: int) -> Int64:
    """Return the k rows with the highest scores, ascending. Among equal scores, the first rows are taken.

    >>> best(np.array([1.0, 3.0, 2.0, 3.0]), 3)
    array([1, 2, 3])
    """
    return np.sort(np.argsort(-scores, kind="stable")[:k])
