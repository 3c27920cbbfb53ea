"""Who is asked in a round, and when the coordinator goes on: the rules, without clocks or messages.

A round asks some clients (`sample_clients`). It is over when all of them have answered, or when `quorum_reached` of them have and the
deadline has passed. What then comes in is late: it is dropped, or counts in the next round (`add_stale_reports`). A client that
was not asked or did not answer learns from the newest teacher when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgefd.core.arrays import Int64
from edgefd.core.errors import RunError, UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.plan import RoundPlan, Training
from edgefd.federation.report import Report


@dataclass(frozen=True)
class ParticipationConfig:
    """How rounds go on without everybody. The `coordinator` section of a config."""

    fraction: float = 1.0
    """share of the clients that a round asks, drawn anew for each; the closing round asks all"""
    min_reports: int | None = None
    """with so many reports a round may end (None: it needs all that it asked for)"""
    deadline_s: float | None = None
    """but not before so many seconds have passed (None: as soon as they are there)"""
    stale_reports: Literal["drop", "use"] = "drop"
    """reports that come after their round: lost, or used in the next one if their client has nothing newer"""
    dropout: float = 0.0
    """simulations only: a client that is asked stays silent with this probability"""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError("fraction must be in (0, 1]")
        if self.min_reports is not None and self.min_reports < 1:
            raise ValueError("min_reports must be at least 1")
        if self.deadline_s is not None and self.deadline_s <= 0:
            raise ValueError("deadline_s must be above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be at least 0 and below 1")
        for name in ("deadline_s", "dropout"):
            if getattr(self, name) and self.min_reports is None:
                raise ValueError(f"{name} needs min_reports: without it, a round waits for everybody")
        if self.stale_reports == "use" and self.min_reports is None:
            raise ValueError("stale_reports needs min_reports: a round that waits for everybody has no late reports")


FULL_PARTICIPATION = ParticipationConfig()
"""a round asks all clients and waits for them"""


def cohort_size(rules: ParticipationConfig, n_clients: int) -> int:
    """How many clients a round asks: fraction * n, to the nearest whole number, at least 1."""
    return max(1, round(rules.fraction * n_clients))


def check_rules(rules: ParticipationConfig, n_clients: int) -> None:
    """Whether a round asks enough clients.

    Raises:
        UserError: if not.
    """
    n = cohort_size(rules, n_clients)
    if rules.min_reports is not None and rules.min_reports > n:
        raise UserError(f"coordinator.min_reports={rules.min_reports}, but a round asks {n} of {n_clients} clients")


def check_supported_over_flower(rules: ParticipationConfig) -> None:
    """Whether the rules can be played by clients who are real processes, as over Flower.

    Raises:
        UserError: if not: only the local engine makes clients silent.
    """
    if rules.dropout:
        raise UserError("coordinator.dropout is for the local engine: over Flower, leave it out")


def sample_clients(rules: ParticipationConfig, seed: int, round: int, n_clients: int) -> tuple[int, ...]:
    """The clients that a round asks, ascending: drawn by (seed, round), so a coordinator that starts again agrees.

    >>> sample_clients(Coordinator(fraction=0.3), 0, 0, 10) == sample_clients(Coordinator(fraction=0.3), 0, 0, 10)
    True
    """
    if rules.fraction == 1:
        return tuple(range(n_clients))
    drawn = make_rng(seed, Purpose.SAMPLING, round).permutation(n_clients)[: cohort_size(rules, n_clients)]
    return tuple(sorted(int(c) for c in drawn))


def round_plans(
    rules: ParticipationConfig,
    n_clients: int,
    seed: int,
    ids: Int64,
    training: Training,
    evaluate_every: int = 1,
    first: int = 0,
) -> Iterator[RoundPlan]:
    """`edgefd.rounds.participation.plans` from round `first` on, with who is asked; the closing round asks everybody."""
    for plan in plans(seed, ids, training, evaluate_every):
        if plan.round >= first:
            who = range(n_clients) if plan.closing else sample_clients(rules, seed, plan.round, n_clients)
            yield replace(plan, clients=tuple(who))


def min_required(rules: ParticipationConfig, cohort_size: int) -> int:
    """Without how many reports a round cannot end."""
    return cohort_size if rules.min_reports is None else min(rules.min_reports, cohort_size)


def quorum_reached(rules: ParticipationConfig, cohort_size: int, n_reports: int, seconds: float) -> bool:
    """Whether a round that has run for `seconds` and has `n_reports` ends now.

    >>> rules = Coordinator(min_reports=2, deadline_s=10)
    >>> [quorum_reached(rules, 3, 3, 0.1), quorum_reached(rules, 3, 2, 9.9), quorum_reached(rules, 3, 2, 10), quorum_reached(rules, 3, 1, 99)]
    [True, False, True, False]
    """
    if n_reports >= cohort_size:
        return True
    return n_reports >= min_required(rules, cohort_size) and seconds >= (rules.deadline_s or 0.0)


def add_stale_reports(rules: ParticipationConfig, reports: Sequence[Report], late: Iterable[Report]) -> list[Report]:
    """A round's reports and those that were late for the one before, of clients that have not answered this one."""
    if rules.stale_reports == "drop":
        return list(reports)
    fresh = {r.client for r in reports}
    return [*reports, *(r for r in late if r.client not in fresh)]


def responding_clients(rules: ParticipationConfig, plan: RoundPlan, asked: Sequence[int]) -> list[int]:
    """Which clients of a simulation answer: each is silent with probability `dropout`, drawn by (seed, round, client).

    In the closing round nobody is, so that every model is measured.

    Raises:
        RunError: if fewer are left than the round needs.
    """
    if plan.closing or not rules.dropout:
        return list(asked)
    drawn = ((c, make_rng(plan.seed, Purpose.DROPOUT, plan.round, c).random()) for c in asked)
    clients = [c for c, number in drawn if number >= rules.dropout]
    if len(clients) < min_required(rules, len(asked)):
        raise RunError(
            f"round {plan.round}: {len(clients)} of {len(asked)} clients answer, coordinator.min_reports is "
            f"{rules.min_reports}: lower it, or coordinator.dropout"
        )
    return clients


def plans(seed: int, ids: Int64, training: Training, evaluate_every: int = 1) -> Iterator[RoundPlan]:
    """The plans of a run in which every client may answer for all of `ids` in every round, and the closing one."""
    for r in range(training.rounds + 1):
        yield RoundPlan(seed, r, ids, training, evaluate=r % evaluate_every == 0)
