"""Swing: the teacher's soft labels, with a higher temperature on rows that resemble the client's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.learners.losses._loss import Distillation


@dataclass(frozen=True)
class Swing(Distillation):
    """Targets whose temperature rises with the acceptance weight of the row."""

    loss: Literal["swing"] = "swing"
    """towards the teacher's soft labels, with a higher temperature on rows that resemble the client's data"""
    temperature: float = 1.0
    """highest temperature, that of rows with acceptance weight 1; it must not be 1"""

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise ValueError("temperature must be above 0 and at most 100")
        if self.temperature == 1:
            raise ValueError("swing needs a temperature other than 1")

    def prepare(
        self, teacher: Knowledge, acceptance: Float32, contributed: Int64, contributed_y: Int64 | None
    ) -> Knowledge:
        """See `Distillation.prepare`."""
        return per_row_temperature(teacher, acceptance, self.temperature)


def per_row_temperature(teacher: Knowledge, acceptance: Float32, temperature: float) -> Knowledge:
    """Soften row i to p^(1/T_i), normalised, with T_i = 1 + (T - 1) a_i and the acceptance weights a, float32 [P].

    >>> k = Knowledge(np.array([0, 1]), np.array([[0.9, 0.1]] * 2, np.float32), np.ones(2, np.float32))
    >>> per_row_temperature(k, np.array([0, 1], np.float32), 2.0).values.round(2)
    array([[0.9 , 0.1 ],
           [0.75, 0.25]], dtype=float32)
    """
    t = 1 + (temperature - 1) * acceptance[teacher.ids].astype(np.float64)[:, None]
    p = np.maximum(teacher.values.astype(np.float64), 0)
    power = np.where(p.any(1, keepdims=True), p, 1) ** (1 / t)  # a coarse codec makes zeros of many small values
    return Knowledge(teacher.ids, (power / power.sum(1, keepdims=True)).astype(np.float32), teacher.weights)


LOSS = Swing
