"""The memory of a server: the newest knowledge of each client, which counts in the rounds in which it is absent.

Without a memory, the teacher of a round holds only what the clients of that round know. If few clients take part and
each knows few classes, the teacher then forgets the other classes from round to round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgefd.core.arrays import Bool, Float32, Int64
from edgefd.core.knowledge import Knowledge, replaced
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report

_LEAST_WEIGHT = 1e-6  # weights of knowledge are above 0, however old it is


@dataclass(frozen=True, eq=False)
class Remembered:
    """The newest label of each row for which a client has answered."""

    knowledge: Knowledge
    rounds: Int64
    """round of each label, int64 [n]"""


@dataclass(frozen=True, eq=False)
class RecalledKnowledge(Knowledge):
    """Remembered knowledge with discounted weights."""

    sent_weights: Float32
    """weights that the client sent, before the discount, float32 [n]"""

    def rows(self, mask: Bool) -> RecalledKnowledge:
        """Return the marked rows."""
        return RecalledKnowledge(self.ids[mask], self.values[mask], self.weights[mask], self.sent_weights[mask])


Memory = Mapping[int, Remembered]
"""what the server remembers of each client, by client"""


def update(memory: Memory, reports: Iterable[Report], plan: RoundPlan) -> Memory:
    """Return the memory after a round.

    A new label replaces the old one of the same row. Labels of rows that the round did not query stay. A queried row
    that a client did not answer is forgotten, because the client no longer answers for it.

    Args:
        memory: the memory before the round.
        reports: reports of the round, and late ones of earlier rounds, at most one of each client.
        plan: the plan of the round.
    """
    return {**memory, **{report.client: _merged(memory.get(report.client), report, plan) for report in reports}}


def recall(memory: Memory, present: Collection[int], plan: RoundPlan, discount: float) -> list[Report]:
    """Return what absent clients would report, as far as the server remembers it: one report of each client at most.

    The weight of row i of client c is w_c[i] * discount^a with the age a = round - round of the label, in rounds. It is
    at least 1e-6. Only rows that the plan queries are returned.

    Args:
        memory: the memory before the round.
        present: clients whose reports count in the round: they are not absent.
        plan: the plan of the round.
        discount: factor for each round of age, in (0, 1].
    """
    absent = [client for client in sorted(memory) if client not in present]
    reports = [Report(client, plan.round, _aged(memory[client], plan, discount)) for client in absent]
    return [report for report in reports if len(report.knowledge)]


def discounted(report: Report, plan: RoundPlan, discount: float) -> Report:
    """Return a report for an earlier round with the weights of `recall`: w_c[i] * discount^a, where a is its age."""
    if report.round == plan.round:
        return report
    known, age = report.knowledge, plan.round - report.round
    weights = np.maximum(known.weights * discount**age, _LEAST_WEIGHT).astype(np.float32)
    return replace(report, knowledge=RecalledKnowledge(known.ids, known.values, weights, sent_weights=known.weights))


def _merged(old: Remembered | None, report: Report, plan: RoundPlan) -> Remembered:
    new = report.knowledge
    if old is None:
        return Remembered(new, np.full(len(new), report.round))
    late = report.round < plan.round  # nobody knows any more which rows the earlier round queried
    stays = ~np.isin(old.knowledge.ids, new.ids if late else plan.ids)
    merged = replaced(old.knowledge, stays, new)
    rounds = np.full(len(merged), report.round)
    rounds[~np.isin(merged.ids, new.ids)] = old.rounds[stays]
    return Remembered(merged, rounds)


def _aged(remembered: Remembered, plan: RoundPlan, discount: float) -> RecalledKnowledge:
    queried = np.isin(remembered.knowledge.ids, plan.ids)
    known = remembered.knowledge.rows(queried)
    ages = plan.round - remembered.rounds[queried]
    weights = np.maximum(known.weights * discount**ages, _LEAST_WEIGHT).astype(np.float32)
    return RecalledKnowledge(known.ids, known.values, weights, sent_weights=known.weights)
