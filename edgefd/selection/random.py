"""The server queries rows at random, drawn anew in each round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import BudgetedSelection, SelectionState


@dataclass(frozen=True)
class Random(BudgetedSelection):
    """Query rows at random."""

    name: Literal["random"] = "random"
    """random rows"""

    queries: ClassVar[bool] = True

    def query(
        self, ids: Int64, teacher: Knowledge | None, state: SelectionState | None, rng: np.random.Generator, round: int
    ) -> Int64:
        """See `Selection.query`."""
        return np.sort(rng.permutation(ids)[: self.n_rows(len(ids))])


RULE = Random
