"""`KnownLabels`: base of the server's rules that use the newest label of each row that was queried before.

The rules use the teachers so far and the metrics of clients, never labels. A row that was never queried comes before
all others, so the first rounds query each row of the proxy set once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.knowledge import Knowledge
from edgefd.selection._rule import BudgetedSelection, Metrics, SelectionState


@dataclass(frozen=True)
class KnownLabels(BudgetedSelection):
    """Query new rows first, then the rows that `choose` chooses among those with a known label."""

    queries: ClassVar[bool] = True

    def query(
        self, ids: Int64, teacher: Knowledge | None, state: SelectionState | None, rng: np.random.Generator, round: int
    ) -> Int64:
        """See `Selection.query`."""
        k, order = self.n_rows(len(ids)), rng.permutation(ids)
        if state is None:
            return np.sort(order[:k])
        queried = np.isin(order, state.known.ids)
        new, seen = order[~queried][:k], order[queried]
        points = state.known.values[np.searchsorted(state.known.ids, seen)]
        chosen = self.choose(points, teacher, state, k - len(new))
        return np.sort(np.concatenate([new, seen[chosen]]))

    def choose(self, points: Float32, teacher: Knowledge | None, state: SelectionState, k: int) -> Int64:
        """Return the positions of k rows, given their newest labels, `points` float32 [n, C]."""
        raise NotImplementedError

    def next_state(
        self, state: SelectionState | None, queried: Int64, teacher: Knowledge, metrics: Sequence[Metrics]
    ) -> SelectionState:
        """See `Selection.next_state`."""
        width = teacher.width
        ids = np.union1d(queried, teacher.ids)
        values = np.full((len(ids), width), 1 / width, np.float32)
        values[np.searchsorted(ids, teacher.ids)] = teacher.values
        if state is not None:
            old = ~np.isin(state.known.ids, ids)
            ids = np.concatenate([ids, state.known.ids[old]])
            values = np.concatenate([values, state.known.values[old]])
        order = ids.argsort()
        known = Knowledge(ids[order], values[order], np.ones(len(ids), np.float32))
        return SelectionState(known, self.lag(metrics, width))

    def lag(self, metrics: Sequence[Metrics], n_classes: int) -> Float32:
        """Return the mean divergence of the clients from the teacher, by class, float32 [C]."""
        return np.zeros(n_classes, np.float32)
