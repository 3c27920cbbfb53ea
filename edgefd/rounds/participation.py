"""Rules of participation: the clients that a round samples, and the end of a round. They use no clock and no messages.

A round samples some clients (`sample_clients`). It ends when all of them have reported, or when enough of them have
(`quorum_reached`) and the deadline has passed or the reports of all others were refused. Reports that arrive later are
stale: they are dropped, used in the next round (`add_stale_reports`), or buffered: then a report counts in the round
that is open when it arrives, and a round with `min_reports` is a buffer of that many reports (FedBuff). A client that
was not sampled or did not report distils the newest teacher in the next round in which it takes part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from edgefd.core.errors import RunError, UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.method import Method
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report


@dataclass(frozen=True)
class ParticipationConfig:
    """Rules for rounds in which not all clients take part. The `coordinator` section of a config."""

    fraction: float = 1.0
    """share of the clients that a round samples, drawn anew for each round; the closing round samples all"""
    min_reports: int | None = None
    """reports that are needed to close a round (None = those of all sampled clients)"""
    deadline_s: float | None = None
    """seconds to wait before `min_reports` reports are enough to close a round (None = 0 seconds)"""
    stale_reports: Literal["drop", "use", "buffer"] = "drop"
    """late reports: drop them; use them in the next round if the client has sent no newer one; or buffer = buffered
    asynchronous rounds: a report counts in the round that is open when it arrives, also towards `min_reports`, with
    weights times `memory_discount` to the power of its age in rounds; for methods that average labels"""
    memory_discount: float = 0.9
    """factor by which the weights of the remembered knowledge of absent clients, and of buffered reports, fall with
    each round of its age, in [0, 1]; 0 = no memory; methods that do not declare `remembers` have none"""
    dropout: float = 0.0
    """simulations only: probability that a sampled client does not report"""
    lateness: float = 0.0
    """simulations only: probability that the report of a sampled client arrives while the next round runs"""

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ValueError("fraction must be in (0, 1]")
        if self.min_reports is not None and self.min_reports < 1:
            raise ValueError("min_reports must be at least 1")
        if self.deadline_s is not None and self.deadline_s <= 0:
            raise ValueError("deadline_s must be above 0")
        for name in ("dropout", "lateness"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1")
        if not 0 <= self.memory_discount <= 1:
            raise ValueError("memory_discount must be in [0, 1]")
        for name in ("deadline_s", "dropout", "lateness"):
            if getattr(self, name) and self.min_reports is None:
                raise ValueError(f"{name} needs min_reports: without it, a round waits for all sampled clients")
        if self.stale_reports == "buffer" and not self.memory_discount:
            raise ValueError("stale_reports=buffer needs memory_discount above 0: it sets the weights of stale reports")
        if self.stale_reports != "drop" and self.min_reports is None:
            raise ValueError(
                "stale_reports needs min_reports: a round that waits for all sampled clients has no late reports"
            )


MAX_AGE = 100
"""largest age in rounds of a buffered report: a coordinator keeps the plans of so many rounds"""
FULL_PARTICIPATION = ParticipationConfig()
"""a round samples all clients and waits for their reports"""


def cohort_size(rules: ParticipationConfig, n_clients: int) -> int:
    """Return the number of clients that a round samples: fraction * n, rounded, at least 1."""
    return max(1, round(rules.fraction * n_clients))


def check_rules(rules: ParticipationConfig, n_clients: int) -> None:
    """Check that a round samples at least `min_reports` clients.

    Raises:
        UserError: if it samples fewer.
    """
    n_sampled = cohort_size(rules, n_clients)
    if rules.min_reports is not None and rules.min_reports > n_sampled:
        raise UserError(
            f"coordinator.min_reports={rules.min_reports}, but a round samples {n_sampled} of {n_clients} clients: "
            "lower it, or raise coordinator.fraction"
        )


def remembers(rules: ParticipationConfig, method: Method) -> bool:
    """Return whether the server keeps the newest knowledge of each client, for rounds in which the client is absent.

    It needs none if all clients report in every round.
    """
    all_report = rules.fraction == 1 and rules.min_reports is None
    return method.remembers and rules.memory_discount > 0 and not all_report


def check_supported_over_flower(rules: ParticipationConfig) -> None:
    """Check that clients in other processes, as over Flower, can follow the rules.

    Raises:
        UserError: if `dropout` or `lateness` is set: only the local engine can simulate them.
    """
    for name in ("dropout", "lateness"):
        if getattr(rules, name):
            raise UserError(f"coordinator.{name} works only with the local engine: remove it to run over Flower")


def sample_clients(rules: ParticipationConfig, seed: int, round: int, n_clients: int) -> tuple[int, ...]:
    """Return the clients that a round samples, ascending.

    They are drawn by (seed, round), so a coordinator that is restarted samples the same clients.

    >>> rules = ParticipationConfig(fraction=0.3)
    >>> sample_clients(rules, 0, 0, 10) == sample_clients(rules, 0, 0, 10)
    True
    """
    if rules.fraction == 1:
        return tuple(range(n_clients))
    drawn = make_rng(seed, Purpose.SAMPLING, round).permutation(n_clients)[: cohort_size(rules, n_clients)]
    return tuple(sorted(int(c) for c in drawn))


def min_required(rules: ParticipationConfig, cohort_size: int) -> int:
    """Return the number of reports without which a round cannot end."""
    return cohort_size if rules.min_reports is None else min(rules.min_reports, cohort_size)


def quorum_reached(
    rules: ParticipationConfig, cohort_size: int, n_reports: int, seconds: float, n_refused: int = 0
) -> bool:
    """Return whether a round that has run for `seconds` and has `n_reports` reports ends now.

    It does not wait for the deadline if each missing client has sent a report that was refused (`n_refused` clients):
    otherwise one client with a fault would delay every round of all others.

    >>> rules = ParticipationConfig(min_reports=2, deadline_s=10)
    >>> [quorum_reached(rules, 3, n, s) for n, s in ((3, 0.1), (2, 9.9), (2, 10), (1, 99))]
    [True, False, True, False]
    >>> quorum_reached(rules, 3, 2, 0.1, n_refused=1), quorum_reached(rules, 3, 1, 0.1, n_refused=2)
    (True, False)
    """
    if n_reports >= cohort_size:
        return True
    none_is_awaited = n_reports + n_refused >= cohort_size
    enough = n_reports >= min_required(rules, cohort_size)
    return enough and (none_is_awaited or seconds >= (rules.deadline_s or 0.0))


def largest_age(rules: ParticipationConfig, closing: bool) -> int:
    """Return the largest age in rounds of a report that still counts. In the closing round, no older report counts."""
    return 0 if closing else {"drop": 0, "use": 1, "buffer": MAX_AGE}[rules.stale_reports]


def counts_in_time(rules: ParticipationConfig, age: int) -> bool:
    """Return whether a report that counts does so towards the end of the open round, by its age in rounds."""
    return age == 0 or rules.stale_reports == "buffer"


def add_stale_reports(rules: ParticipationConfig, reports: Sequence[Report], late: Iterable[Report]) -> list[Report]:
    """Return the reports of a round and, if the rules use them, late reports of clients without a newer one."""
    if rules.stale_reports == "drop":
        return list(reports)
    fresh = {r.client for r in reports}
    return [*reports, *(r for r in late if r.client not in fresh)]


def responding_clients(rules: ParticipationConfig, seed: int, plan: RoundPlan, sampled: Sequence[int]) -> list[int]:
    """Return the sampled clients of a simulation that run this round: each drops out with probability `dropout`."""
    dropped = _drawn(rules.dropout, seed, Purpose.DROPOUT, plan, sampled)
    return [client for client in sampled if client not in dropped]


def arrived(
    rules: ParticipationConfig, seed: int, plan: RoundPlan, reports: Sequence[Report], late: Sequence[Report]
) -> tuple[list[Report], list[Report]]:
    """Return the reports that count in a round of a simulation, and those that arrive after it.

    Each report is late with probability `lateness`.

    Args:
        rules: the rules of participation.
        seed: the seed of the run.
        plan: the plan of the round.
        reports: reports of the clients that ran the round.
        late: reports of the last round that arrived after it; the closing round uses none.

    Raises:
        RunError: if fewer clients report in time than the round needs.
    """
    delayed = _drawn(rules.lateness, seed, Purpose.LATENESS, plan, [r.client for r in reports])
    in_time = [r for r in reports if r.client not in delayed]
    if len(in_time) < (least := rules.min_reports or 0) and not plan.closing:
        raise RunError(
            f"round {plan.round}: {len(in_time)} clients report in time, but coordinator.min_reports is {least}: "
            "lower it, or coordinator.dropout or coordinator.lateness"
        )
    counted = in_time if plan.closing else add_stale_reports(rules, in_time, late)
    return counted, [r for r in reports if r.client in delayed]


def _drawn(probability: float, seed: int, purpose: Purpose, plan: RoundPlan, clients: Sequence[int]) -> set[int]:
    """Return the clients that are drawn with a probability, by (seed, purpose, round, client).

    In the closing round no client is drawn, so that every model is measured.
    """
    if plan.closing or not probability:
        return set()
    return {client for client in clients if make_rng(seed, purpose, plan.round, client).random() < probability}
