"""The loop over rounds, and the transport that it needs."""

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
    """How plans reach clients and reports come back: in one process, by Flower, by gRPC, by files."""

    def exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        """Send plan and teacher to the plan's clients; their reports, in any order."""
        ...


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What the server holds after a round. After the closing one, the teacher is the last round's."""

    plan: RoundPlan
    exchange: Exchange
    teacher: Knowledge | None
    selection_state: SelectionState | None = None
    """what the choice of rows depends on, where it does"""


def run_rounds(
    method: Method,
    config: Any,
    transport: Transport,
    plans: Iterable[RoundPlan],
    teacher: Knowledge | None = None,
    server: Server | None = None,
    selection_state: SelectionState | None = None,
) -> Iterator[RoundResult]:
    """The loop: each plan with the last round's teacher, then the next teacher.

    `teacher` and `selection_state` are of the last round that was done, where a run goes on.
    """
    for plan in plans:
        plan = with_rows(plan, teacher, selection_state)
        exchange = transport.exchange(plan, teacher)
        if not plan.closing:
            teacher = server_round(method, config, exchange.reports, plan, teacher, server)
            if is_stateful(plan.selection):
                ordered = sorted(exchange.reports, key=lambda r: r.client)
                selection_state = update_state(selection_state, plan.ids, teacher, [r.metrics for r in ordered])
        yield RoundResult(plan, exchange, teacher, selection_state)


def with_rows(plan: RoundPlan, teacher: Knowledge | None, selection_state: SelectionState | None) -> RoundPlan:
    """The plan with the rows that its selection asks about; the closing one asks about none."""
    if plan.closing:
        return plan
    rng = make_rng(plan.seed, Purpose.QUERY, plan.round)
    return replace(plan, ids=query_rows(plan.selection, plan.ids, teacher, selection_state, rng))
