"""`Link`: the connection of a device to its coordinator, through a folder or over gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan


@dataclass(frozen=True, eq=False)
class Task:
    """A round that the coordinator assigns to a device."""

    plan: RoundPlan
    teacher: Knowledge | None
    """teacher of the last round; None in round 0"""


class Link(Protocol):
    """Connection of a device to its coordinator, for one client in one run."""

    @property
    def run(self) -> str:
        """Identifier of the run. The saved state of a device belongs to one run."""
        ...

    def next_task(self, after: int) -> Task | None:
        """Wait for a round that is later than `after` and samples this client. Return None when the run is complete.

        Raises:
            RunError: if the coordinator stopped or refused this client's report, or the task cannot be read.
        """
        ...

    def submit(self, report: bytes, round: int) -> None:
        """Send the report of a round (`edgefd.wire.messages.encode_report`). The same bytes may be sent again.

        Raises:
            RunError: if the round already has a different report of this client.
        """
        ...
