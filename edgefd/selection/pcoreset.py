"""P-CoreSet: the server queries rows whose labels are far from those of all other rows in the last teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection._known_labels import KnownLabels
from edgefd.selection._rule import SelectionState


@dataclass(frozen=True)
class PCoreSet(KnownLabels):
    """Query rows whose labels are far from all others (k-centre greedy)."""

    name: Literal["pcoreset"] = "pcoreset"
    """rows whose labels differ most from those of the teacher and of each other"""

    def choose(self, points: Float32, teacher: Knowledge | None, state: SelectionState, k: int) -> Int64:
        """See `KnownLabels.choose`."""
        return k_centre(points, points[:0] if teacher is None else teacher.values, k)


def k_centre(points: Float32, centres: Float32, k: int) -> Int64:
    """Choose k rows by k-centre greedy: k times argmax_x min_{s in S} |p(x) - p(s)|, S = `centres` and the chosen rows.

    >>> line = np.array([[0.0], [1.0], [4.0], [10.0]], np.float32)
    >>> k_centre(line, line[:1], 2)
    array([3, 2])
    """
    nearest = np.full(len(points), np.inf)
    for centre in np.unique(centres, axis=0):
        nearest = np.minimum(nearest, ((points - centre) ** 2).sum(1))
    chosen = np.empty(k, np.int64)
    for i in range(k):
        chosen[i] = nearest.argmax()
        nearest[chosen[i]] = -1  # a chosen row is never chosen again, because no distance is below -1
        nearest = np.minimum(nearest, ((points - points[chosen[i]]) ** 2).sum(1))
    return chosen


RULE = PCoreSet
