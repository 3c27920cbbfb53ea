"""Mixed: the teacher's soft label with the true label mixed in, on rows that the client contributed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.learners.losses._loss import Distillation


@dataclass(frozen=True)
class Mixed(Distillation):
    """Targets with the true label mixed in, on rows whose label the client knows."""

    loss: Literal["mixed"] = "mixed"
    """towards the teacher's soft labels, with the true label mixed in on rows that the client contributed"""
    label_share: float = 0.5
    """share of the true label in a target; the rest is the teacher's soft label"""

    def __post_init__(self) -> None:
        if not 0 < self.label_share <= 1:
            raise ValueError("label_share must be in (0, 1]")

    def prepare(
        self, teacher: Knowledge, acceptance: Float32, contributed: Int64, contributed_y: Int64 | None
    ) -> Knowledge:
        """See `Distillation.prepare`.

        Raises:
            RunError: if the client has contributed rows, but not kept their labels.
        """
        if not len(contributed):
            return teacher
        if contributed_y is None:
            raise RunError(
                f"distillation.loss=mixed needs the labels of the {len(contributed)} rows that the client contributed: "
                "add them to its data, as owned_y, or use another loss"
            )
        return with_labels(teacher, contributed, contributed_y, self.label_share)


def with_labels(teacher: Knowledge, contributed: Int64, labels: Int64, share: float) -> Knowledge:
    """Mix labels into the teacher's rows that the client contributed: t = share onehot(y) + (1 - share) p.

    `contributed` holds the ids of these rows in ascending order. The other rows do not change.

    >>> k = Knowledge(np.array([3, 7]), np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32))
    >>> with_labels(k, np.array([7]), np.array([1]), 0.5).values
    array([[0.5 , 0.5 ],
           [0.25, 0.75]], dtype=float32)
    """
    rows = np.flatnonzero(np.isin(teacher.ids, contributed))
    values = teacher.values.copy()
    values[rows] *= np.float32(1 - share)
    values[rows, labels[np.searchsorted(contributed, teacher.ids[rows])]] += np.float32(share)
    return Knowledge(teacher.ids, values, teacher.weights)


LOSS = Mixed
