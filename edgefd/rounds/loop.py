"""The loop over rounds, and the interface of the transports that it uses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgefd.core.knowledge import Knowledge
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Exchange
from edgefd.federation.state import Server
from edgefd.rounds.server import server_round
from edgefd.selection.query import SelectionState, is_stateful, query_rows, update_state


class Transport(Protocol):
    """Connection of server and clients: within one process, by Flower, by gRPC or by files."""

    def exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        """Send plan and teacher to the clients of the plan and return their reports, in any order."""
        ...


@dataclass(frozen=True, eq=False)
class RoundResult:
    """State of the server after a round. After the closing round, the teacher is that of the last round."""

    plan: RoundPlan
    exchange: Exchange
    teacher: Knowledge | None
    selection_state: SelectionState | None = None
    """state of the selection rule; None if the rule has no state"""


def run_rounds(
    method: Method,
    config: Any,
    transport: Transport,
    plans: Iterable[RoundPlan],
    teacher: Knowledge | None = None,
    server: Server | None = None,
    selection_state: SelectionState | None = None,
) -> Iterator[RoundResult]:
    """Run the rounds: exchange each plan and the last teacher for reports, then aggregate these to the next teacher.

    Args:
        method: the method of the federation.
        config: an instance of the method's own Config class.
        transport: connection to the clients.
        plans: the plans of the rounds that remain, without the choice of rows.
        teacher: teacher of the last completed round, if a run is resumed.
        server: data of the server, for methods that need it.
        selection_state: state of the selection rule after the last completed round, if a run is resumed.

    Yields:
        The result of each round.
    """
    for plan in plans:
        plan = plan_with_query(plan, teacher, selection_state)
        exchange = transport.exchange(plan, teacher)
        if not plan.closing:
            teacher = server_round(method, config, exchange.reports, plan, teacher, server)
            if is_stateful(plan.selection):
                ordered = sorted(exchange.reports, key=lambda r: r.client)
                selection_state = update_state(selection_state, plan.ids, teacher, [r.metrics for r in ordered])
        yield RoundResult(plan, exchange, teacher, selection_state)


def plan_with_query(plan: RoundPlan, teacher: Knowledge | None, selection_state: SelectionState | None) -> RoundPlan:
    """Return the plan with the rows that its selection rule queries. The closing plan is returned unchanged."""
    if plan.closing:
        return plan
    rng = make_rng(plan.seed, Purpose.QUERY, plan.round)
    return replace(plan, ids=query_rows(plan.selection, plan.ids, teacher, selection_state, rng))
