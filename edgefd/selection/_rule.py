"""`Selection`: the interface of the rules, and their state between rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.core.knowledge import Knowledge

Metrics = dict[str, float]


@dataclass(frozen=True, eq=False)
class SelectionState:
    """State of a selection rule of the server between rounds.

    `known` holds the newest label of every row that was ever queried. A row for which no client answered has the
    uniform label. `lag` float32 [C] is the mean divergence of the clients from the teacher, by class, in the last
    reports.
    """

    known: Knowledge
    lag: Float32


@dataclass(frozen=True, eq=False)
class Candidates:
    """Rows of a teacher from which a client chooses those that it distils."""

    teacher: Knowledge
    """knowledge of n rows"""
    client_probs: Callable[[], Float32]
    """computes the client's soft labels of these rows, float32 [n, C]"""
    reference: Callable[[], Float32]
    """computes soft labels of these rows by the client's model after distilling all of them"""
    rng: np.random.Generator
    """generator of this client in this round"""


@dataclass(frozen=True)
class Selection:
    """Choice of the rows to query or to distil; this base selects all rows.

    A rule overrides some of the functions and declares what they do. The functions of the server run in each round in
    this order: `query`, then `next_state`; those of a client: `client_metrics`, then `subset`.
    """

    name: str = "all"
    """name of the rule"""

    queries: ClassVar[bool] = False
    """whether the server queries fewer rows, so that fewer bytes are sent in both directions"""
    subsets: ClassVar[bool] = False
    """whether all rows are queried and sent, but each client distils only some rows of the teacher"""
    reports_metrics: ClassVar[bool] = False
    """whether clients report metrics that depend on their models, which no defence covers with noise"""

    @property
    def cycle(self) -> int:
        """Number of rounds that have the same generator in `query`."""
        return 1

    def metric_ranges(self, n_classes: int) -> dict[str, tuple[float, float]]:
        """Return the smallest and largest value of each metric that `client_metrics` may return, by name."""
        return {}

    def check_budget(self, n_proxy: int) -> None:
        """Check that the proxy set has as many rows as the budget needs.

        Raises:
            UserError: if it has fewer.
        """

    def query(
        self, ids: Int64, teacher: Knowledge | None, state: SelectionState | None, rng: np.random.Generator, round: int
    ) -> Int64:
        """Return the rows to query, int64 ascending.

        Args:
            ids: the rows to choose from.
            teacher: the teacher of the last round.
            state: state after the rounds so far; None before the first reports.
            rng: generator of this round, or of all rounds of a cycle.
            round: number of the round, from 0.
        """
        return ids

    def next_state(
        self, state: SelectionState | None, queried: Int64, teacher: Knowledge, metrics: Sequence[Metrics]
    ) -> SelectionState | None:
        """Return the state after a round, from its queried rows, its teacher and the metrics of its reports."""
        return None

    def client_metrics(self, teacher: Knowledge, client_probs: Callable[[], Float32]) -> Metrics:
        """Return metrics for the report of a client; `client_probs` computes its soft labels of the teacher's rows."""
        return {}

    def subset(self, candidates: Candidates) -> Knowledge:
        """Return the rows of the teacher that the client distils."""
        return candidates.teacher


@dataclass(frozen=True)
class BudgetedSelection(Selection):
    """Base of the rules that select fewer rows."""

    budget: float = 1.0
    """rows per round: a share of all rows up to 1, and a number of rows above 1"""

    needs_budget: ClassVar[bool] = True
    """whether a budget of 1, which selects all rows, is refused"""

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 2**31 or (self.budget > 1 and self.budget != int(self.budget)):
            raise ValueError("budget must be a share in (0, 1] or a whole number of rows above 1")
        if self.budget == 1 and self.needs_budget:
            raise ValueError(
                f"{self.name} needs a budget below 1, or a number of rows above 1: a budget of 1 is all rows"
            )

    def check_budget(self, n_proxy: int) -> None:
        """See `Selection.check_budget`."""
        if self.budget > 1 and self.budget > n_proxy:
            raise UserError(f"selection.budget is {int(self.budget)} rows, but the proxy set has {n_proxy}: lower it")

    def n_rows(self, n: int) -> int:
        """Return the number of rows that the budget allows out of n: at least 1 if n > 0, and at most n."""
        return n_rows(self.budget, n)


def n_rows(budget: float, n: int) -> int:
    """Return the number of rows that a budget allows out of n: at least 1 if n > 0, and at most n.

    >>> n_rows(0.25, 10), n_rows(4, 10), n_rows(4, 3), n_rows(0.01, 3)
    (2, 4, 3, 1)
    """
    return min(n, max(1, round(budget * n) if budget <= 1 else int(budget)))
