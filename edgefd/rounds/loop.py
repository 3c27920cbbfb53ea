"""The loop over rounds, and the interface of the transports that it uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import NOTHING_EXCHANGED, Exchanged
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import Progress
from edgefd.federation.report import Exchange
from edgefd.rounds.server import Server, make_plan, server_round


class Transport(Protocol):
    """Connection of server and clients: within one process, by Flower, by gRPC or by files."""

    def exchange(
        self,
        plan: RoundPlan,
        sampled: Sequence[int],
        teacher: Knowledge | None,
        exchanged: Exchanged = NOTHING_EXCHANGED,
    ) -> Exchange:
        """Send plan and teacher to the sampled clients and return their reports, in any order.

        `exchanged` is what server and clients know of each other's knowledge, if the federation sends only changes.
        """
        ...


@dataclass(frozen=True, eq=False)
class RoundResult:
    """A completed round, and the state of the server after it."""

    plan: RoundPlan
    exchange: Exchange
    progress: Progress

    @property
    def teacher(self) -> Knowledge | None:
        """The teacher of the round; after the closing round, that of the last round."""
        return self.progress.teacher


def run_rounds(server: Server, transport: Transport, progress: Progress | None = None) -> Iterator[RoundResult]:
    """Run the rounds: exchange each plan and the last teacher for reports, then aggregate these to the next teacher.

    Args:
        server: method, terms and data of the server.
        transport: connection to the clients.
        progress: state after the last completed round, if a run is resumed.

    Yields:
        The result of each round. The last one is the closing round, which comes earlier if the patience of the server
        ends.
    """
    progress = progress or Progress()
    while not progress.closed:
        plan, sampled = make_plan(server, progress)
        exchange = transport.exchange(plan, sampled, progress.teacher, progress.exchanged)
        progress = server_round(server, exchange.reports, plan, progress)
        yield RoundResult(plan, exchange, progress)
