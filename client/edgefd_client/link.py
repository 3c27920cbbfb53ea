"""`Link`: how a device reaches its coordinator: by a folder, by gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan


@dataclass(frozen=True, eq=False)
class Task:
    """What the coordinator asks for. `teacher` is the last round's, None in the first."""

    plan: RoundPlan
    teacher: Knowledge | None


class Link(Protocol):
    """A device's way to its coordinator, for one client in one run."""

    @property
    def run(self) -> str:
        """Which run this is: a device's state belongs to one."""
        ...

    def next_task(self, after: int) -> Task | None:
        """The task of the newest round, once that is later than `after` and asks this client; None: the run is over.

        Raises:
            RunError: if the coordinator gave up, or refused this client's report; or for a task that cannot be read.
        """
        ...

    def submit(self, report: bytes, round: int) -> None:
        """Hand over the report (`edgefd.wire.messages.encode_report`) of a round. Doing it again with the same bytes is fine.

        Raises:
            RunError: if the round has another report of this client already.
        """
        ...
