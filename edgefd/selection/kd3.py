"""KD3: a client distils the rows on which the mean of its own and the teacher's label is most confident."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import Candidates
from edgefd.selection._subset import Subset, best, rows_of


@dataclass(frozen=True)
class Kd3(Subset):
    """Choose the rows on which the mean label of teacher and client is most confident."""

    name: Literal["kd3"] = "kd3"
    """rows on which teacher and client are confident together"""

    def subset(self, candidates: Candidates) -> Knowledge:
        """See `Selection.subset`."""
        teacher = candidates.teacher
        confidence = (teacher.values.astype(np.float64) + candidates.client_probs()).max(1) / 2
        return rows_of(teacher, best(confidence, self.n_rows(len(teacher))))


RULE = Kd3
