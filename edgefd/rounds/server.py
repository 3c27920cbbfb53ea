"""The part of a round that the server runs, and its constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge, weighted_mean
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.changes import Exchanged, published
from edgefd.federation.clients import ProxySet
from edgefd.federation.context import ServerContext
from edgefd.federation.memory import discounted, recall, update
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.progress import BestRound, Progress
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationTerms
from edgefd.learners.learner import Learner
from edgefd.rounds.participation import FULL_PARTICIPATION, ParticipationConfig, remembers, sample_clients
from edgefd.rounds.validation import expected_teacher, reported_ids
from edgefd.wire import messages as wire


@dataclass(frozen=True, eq=False)
class Server:
    """The constants of a server: its method, its terms and its data."""

    method: Method
    config: Any
    """settings of the method, an instance of its Config class"""
    terms: FederationTerms
    n_clients: int
    proxy: ProxySet
    participation: ParticipationConfig = FULL_PARTICIPATION
    evaluate_every: int = 1
    """rounds between two evaluations"""
    labels: Int64 | None = None
    """labels of the proxy samples; None unless the method declares that it uses them"""
    learner: Learner | None = None
    """model of the server; None unless the method declares one"""
    combine: Callable[[Sequence[Knowledge]], Knowledge] = weighted_mean
    """average of soft labels, row by row"""
    patience: int | None = None
    """number of evaluations without a gain of held-out accuracy after which the closing round follows; None = all
    rounds take place"""


def make_plan(server: Server, progress: Progress) -> tuple[RoundPlan, tuple[int, ...]]:
    """Return the plan of the next round and the clients that it samples, ascending.

    The closing round, which follows the last one, queries all rows and samples all clients.
    """
    terms, round, ids = server.terms, progress.next_round, np.arange(len(server.proxy))
    evaluate = round % server.evaluate_every == 0
    if round >= terms.training.rounds or _patience_ended(server, progress):
        return RoundPlan(round, ids, evaluate, closing=True), tuple(range(server.n_clients))
    rng = make_rng(terms.seed, Purpose.QUERY, round // terms.selection.cycle)
    ids = terms.selection.query(ids, progress.teacher, progress.selection_state, rng, round)
    return RoundPlan(round, ids, evaluate), sample_clients(server.participation, terms.seed, round, server.n_clients)


def server_round(server: Server, reports: Sequence[Report], plan: RoundPlan, progress: Progress) -> Progress:
    """Aggregate the reports of a round, in any order; return the state after it. A closing round changes no teacher.

    Raises:
        RunError: if clients could not decode the aggregate: nothing of it must be saved or sent.
    """
    best = _best_round(progress.best, reports, plan.round)
    if plan.closing:
        return replace(progress, next_round=plan.round + 1, best=best, closed=True)
    if server.learner is not None:
        server.learner.set_noise(server.terms.seed, Purpose.STUDENT, plan.round)
    ordered = sorted(reports, key=lambda report: report.client)
    present = {report.client for report in ordered}
    asked = replace(plan, ids=np.asarray(reported_ids(server.method, plan.ids, server.terms.n_classes)))
    discount = server.participation.memory_discount
    buffered = server.participation.stale_reports == "buffer"
    ctx = ServerContext(
        reports=[discounted(report, plan, discount) for report in ordered] if buffered else ordered,
        teacher=progress.teacher,
        plan=plan,
        proxy=server.proxy,
        terms=server.terms,
        config=server.config,
        labels=server.labels,
        learner=server.learner,
        combine=server.combine,
        recalled=recall(progress.memory, present, asked, discount),
        state=dict(progress.method_state),
    )
    teacher, decoded = _checked_aggregate(server, ctx)
    exchanged = progress.exchanged
    if server.terms.changes_above is not None:
        newest = published(exchanged.teacher, decoded, plan.round, server.terms.changes_above)
        received = {report.client: report.knowledge for report in ordered}
        teacher, exchanged = newest.knowledge, Exchanged(newest, {**exchanged.reports, **received})
    metrics = [report.metrics for report in ordered]
    state = server.terms.selection.next_state(progress.selection_state, plan.ids, teacher, metrics)
    memory = (
        update(progress.memory, ordered, asked) if remembers(server.participation, server.method) else progress.memory
    )
    return Progress(plan.round + 1, teacher, state, memory, ctx.state, best, exchanged=exchanged)


def _patience_ended(server: Server, progress: Progress) -> bool:
    return server.patience is not None and progress.best is not None and progress.best.later >= server.patience


def _best_round(best: BestRound | None, reports: Sequence[Report], round: int) -> BestRound | None:
    """Return the best round after these reports; a round without evaluation changes nothing."""
    measured = [r.metrics["heldout_accuracy"] for r in sorted(reports, key=lambda r: r.client) if _evaluated(r, round)]
    if not measured:
        return best
    accuracy = float(np.mean(measured))
    if best is None or accuracy > best.accuracy:
        return BestRound(round, accuracy)
    return replace(best, later=best.later + 1)


def _evaluated(report: Report, round: int) -> bool:
    return report.round == round and "heldout_accuracy" in report.metrics


def _checked_aggregate(server: Server, ctx: ServerContext) -> tuple[Knowledge, Knowledge]:
    """Return the aggregate, which every client can decode, and what clients decode.

    Raises:
        RunError: if clients could not decode it.
    """
    method, terms = server.method, server.terms
    try:
        teacher = method.aggregate(ctx)
        expected = expected_teacher(method, terms, len(server.proxy), server.n_clients)
        return teacher, wire.decode(wire.encode(teacher, terms.codec), expected)
    except UserError:
        raise
    except ValueError as error:
        raise RunError(
            f"round {ctx.plan.round}: the aggregate of method {method.name} cannot be sent: {error}"
        ) from error
