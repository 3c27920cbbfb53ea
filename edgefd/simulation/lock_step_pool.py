"""Pool that runs the clients of one architecture in lock step, so that their training steps become one step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from edgefd.learners.lock_step import lock_step
from edgefd.runs.stacks import Stacks
from edgefd.simulation.workers import Result, SerialPool, State, Work


class LockStepPool(SerialPool[State]):
    """Pool whose clients run in lock step as far as they are stacked, and the others one after another.

    Clients are independent within a round, so each of them has the results that it would have alone, up to rounding.
    """

    def __init__(self, state: State, stacks: Stacks) -> None:
        super().__init__(state)
        self._stacks = stacks

    def map(self, work: Work[Result], clients: Sequence[int], *arguments: Any) -> list[Result]:
        """See `Pool`."""
        results: dict[int, Result] = {}
        for group in self._stacks.groups(clients):
            runs = [functools.partial(self._run, work, client, arguments) for client in group]
            results |= zip(group, lock_step(runs) if len(runs) > 1 else [runs[0]()], strict=True)
        return [results[client] for client in clients]
