"""The server queries another part of the rows in each round, so that all rows are queried once before any row again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import Selection, SelectionState


@dataclass(frozen=True)
class Alternating(Selection):
    """Divide the rows into parts at random, and query one part in each round; then divide them anew.

    The division follows from the seed and the number of the round alone, so the rule has no state.
    """

    name: Literal["alternating"] = "alternating"
    """another part of the rows in each round"""
    parts: int = 2
    """number of parts, and of rounds in which each row is queried once; at least 2"""

    queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.parts < 2:
            raise ValueError("parts must be at least 2: one part is all rows, which the rule all selects")

    @property
    def cycle(self) -> int:
        """See `Selection.cycle`."""
        return self.parts

    def check_budget(self, n_proxy: int) -> None:
        """See `Selection.check_budget`."""
        if self.parts > n_proxy:
            raise UserError(f"selection.parts is {self.parts}, but the proxy set has only {n_proxy} rows: lower it")

    def query(
        self, ids: Int64, teacher: Knowledge | None, state: SelectionState | None, rng: np.random.Generator, round: int
    ) -> Int64:
        """See `Selection.query`."""
        return np.sort(rng.permutation(ids)[round % self.parts :: self.parts])


RULE = Alternating
