"""The messages that each receiver of a round expects.

All receivers pass these values to the decoders of `edgefd.wire.messages`: the coordinator with every front end, the
devices, and the transports of a simulation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgefd.core.arrays import Int64
from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import MessageKind, Method
from edgefd.federation.metrics import Range, client_metrics
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationTerms
from edgefd.wire.codecs import CODECS
from edgefd.wire.expected import Expected, ExpectedReport, largest_plan

MOST_PARAMETERS = 2**28
"""largest number of parameters in a message; only simulated clients send parameters"""
MOST_EMBEDDED = 2**16
"""largest number of values of a prototype; only simulated clients send prototypes"""
_ARITHMETIC = 1e-3  # distance between 1 and the sum of a row that the arithmetic of a sender may cause


def expected_report(
    method: Method,
    terms: FederationTerms,
    plan: RoundPlan,
    measured: Mapping[str, Range] | None = None,
    held: Knowledge | None = None,
) -> ExpectedReport:
    """Return what the server expects of a report in a round.

    Args:
        method: of the federation.
        terms: of the federation.
        plan: of the round. In the closing round, a report has no rows.
        measured: ranges of the metrics that a simulation measures besides those of its clients; None for devices.
        held: newest knowledge of the client that the server holds, which its report may change; None = none.
    """
    ids = range(0) if plan.closing else reported_ids(method, plan.ids, terms.n_classes)
    complete = method.message is MessageKind.MULTI_TEACHER
    knowledge = _expected(method, terms, ids, CODECS[terms.codec].sum_error(terms.n_classes), complete, held)
    return ExpectedReport(plan.round, knowledge, client_metrics(terms) | dict(measured or {}))


def expected_teacher(
    method: Method, terms: FederationTerms, n_proxy: int, n_clients: int, held: Knowledge | None = None
) -> Expected:
    """Return what a client expects of a teacher. Its rows are means of rounded rows, and are rounded once more.

    `held` is the newest teacher that the client holds, which the next one may change; None = none.
    """
    many = n_clients if method.message is MessageKind.MULTI_TEACHER else 1
    ids = reported_ids(method, range(many * n_proxy), terms.n_classes)
    return _expected(method, terms, ids, CODECS[terms.codec].sum_error(terms.n_classes, 2), False, held)


@dataclass(frozen=True, eq=False)
class ExpectedTask:
    """A plan and a teacher that a client expects."""

    n_proxy: int
    """number of proxy rows that the plan can query"""
    teacher: Expected
    """what it expects of the teacher, with the newest one that it holds"""

    @property
    def largest(self) -> int:
        """Size in bytes that plan and teacher together do not exceed."""
        return largest_plan(self.n_proxy) + self.teacher.largest


def expected_task(
    method: Method, terms: FederationTerms, n_proxy: int, n_clients: int, held: Knowledge | None = None
) -> ExpectedTask:
    """Return what a client that holds an earlier teacher expects of the task of a round."""
    return ExpectedTask(n_proxy, expected_teacher(method, terms, n_proxy, n_clients, held))


def reported_ids(method: Method, proxy_rows: range | Int64, n_classes: int) -> range | Int64:
    """Return the ids that the rows of a report can have, if a round queries `proxy_rows`."""
    match method.message:
        case MessageKind.CLASS_LABELS | MessageKind.PROTOTYPES:
            return range(n_classes)
        case MessageKind.PARAMETERS:
            return range(1)
        case MessageKind.NOTHING:
            return range(0)
    return proxy_rows


def _expected(
    method: Method,
    terms: FederationTerms,
    ids: range | Int64,
    rounding: float,
    complete: bool,
    held: Knowledge | None = None,
) -> Expected:
    match method.message:
        case MessageKind.PARAMETERS:
            widths = range(1, MOST_PARAMETERS + 1)
        case MessageKind.PROTOTYPES:
            widths = range(1, MOST_EMBEDDED + 1)
        case _:
            widths = range(terms.n_classes, terms.n_classes + 1)
    return Expected(ids, widths, terms.codec, method.values, rounding + _ARITHMETIC, complete, held)
