"""The virtual clock of a simulation: the order of its events, as devices and a coordinator would see them.

Each client is at work on one task at a time, as a device is. A round opens, clients that are free begin it, and it is
closed by the rules of a coordinator (`edgefd.rounds.participation`), with virtual seconds. A client that has not ended
when the round closes goes on, and its report arrives in a later round. When a client has reported, it begins the round
that is open then, if that round asks it and it has not run it. So the same rules give rounds that are synchronous, that
have a deadline or a quorum, or that are a buffer of reports (`stale_reports: buffer`).

Events at the same time take place in the order of the clients. No real clock is read, and no result depends on the
order in which workers compute the rounds of clients.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgefd.core.seeding import Purpose, make_rng
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.learners.counted_learner import Work
from edgefd.rounds.participation import (
    ParticipationConfig,
    add_stale_reports,
    counts_in_time,
    largest_age,
    quorum_reached,
)
from edgefd.simulation.device_costs import ClientCosts

Compute = Callable[[Sequence[int]], list[tuple[Report, Work]]]
"""runs the open round of clients on the open teacher, and returns the report and the work of each, in their order"""
LeastWork = Callable[[int], Work]
"""work that a client has in the open round at least, known before it is run"""


@dataclass(frozen=True, eq=False)
class Task:
    """What a client is doing."""

    ends: float
    """seconds after the opening of the open round; a lower bound while `computed` is false"""
    report: Report | None = None
    """the report that arrives then; None: the client becomes free without one, after a failure, an absence or its
    filter"""
    computed: bool = True
    """whether the round was run in this process"""
    began: float = 0.0
    """seconds after the opening of the open round"""
    bytes_down: int = 0
    """size of the teacher that the client downloads"""


@dataclass(frozen=True, eq=False)
class TimedRound:
    """A closed round on the virtual clock."""

    reports: list[Report]
    """the reports that count"""
    seconds: float
    """seconds from its opening to its end"""
    joules: float
    """energy of all tasks that began in the round, and of their repetitions"""
    bytes_down: int
    """size of all downloads of the teacher that began in the round"""


@dataclass(eq=False)
class VirtualClock:
    """The clients of a simulation and their tasks. Between two rounds, `tasks` is its whole state."""

    rules: ParticipationConfig
    seed: int
    costs: Sequence[ClientCosts]
    tasks: dict[int, Task] = field(default_factory=dict)
    """task of each client that is not free"""
    _events: list[tuple[float, int]] = field(default_factory=list)
    _joules: float = 0.0
    _bytes_down: int = 0

    def start(self) -> None:
        """Begin the filters of all clients, which last until some time after the opening of the first round."""
        for client, costs in enumerate(self.costs):
            self.tasks[client] = Task(costs.filter().seconds)
            self._joules += costs.filter().joules

    def restore(self, tasks: Mapping[int, Task]) -> None:
        """Go on after a round with the tasks that clients had at its end."""
        self.tasks, self._joules = dict(tasks), 0.0

    def run_round(
        self,
        plan: RoundPlan,
        sampled: Sequence[int],
        next_round: Callable[[int], int],
        least_work: LeastWork,
        download: Callable[[int], int],
        compute: Compute,
    ) -> TimedRound:
        """Run a round until it is closed. The closing round waits for all clients, and none of them fails.

        Args:
            plan: the plan of the round.
            sampled: the clients that it asks.
            next_round: returns the round after the last one that a client has run.
            least_work: see `LeastWork`.
            download: returns the bytes that a client downloads if it begins the round.
            compute: see `Compute`.
        """
        opened = _OpenRound(plan, frozenset(sampled), next_round, least_work, download, compute)
        self._events = [(task.ends, client) for client, task in self.tasks.items()]
        heapq.heapify(self._events)
        for client in sorted(sampled):
            if client not in self.tasks:
                self._begin(opened, client, 0.0)
        seconds = self._run_until_closed(opened)
        self._compute(opened)
        self.tasks = {client: Task(task.ends - seconds, task.report) for client, task in self.tasks.items()}
        reports = add_stale_reports(self.rules, list(opened.reports.values()), opened.late.values())
        timed = TimedRound(reports, seconds, self._joules, self._bytes_down)
        self._joules, self._bytes_down = 0.0, 0
        return timed

    def _run_until_closed(self, opened: _OpenRound) -> float:
        """Process events in their order until the round is closed; return the time of its end."""
        now, deadline = 0.0, self.rules.deadline_s
        while not self._is_closed(opened, now):
            ends, client = self._events[0]
            if deadline is not None and ends > deadline and not opened.plan.closing:
                now, deadline = deadline, None
                continue
            task = self.tasks[client]
            if not task.computed:
                self._compute(opened)
                continue
            heapq.heappop(self._events)
            del self.tasks[client]
            now = ends
            if task.report is not None:
                self._accept(opened, task.report)
                if self._is_closed(opened, now):
                    break
            if client in opened.sampled:
                self._begin(opened, client, now)
        return now

    def _is_closed(self, opened: _OpenRound, seconds: float) -> bool:
        if opened.plan.closing:
            return len(opened.reports) == len(opened.sampled)
        return quorum_reached(self.rules, len(opened.sampled), len(opened.reports), seconds)

    def _accept(self, opened: _OpenRound, report: Report) -> None:
        age = opened.plan.round - report.round
        if age > largest_age(self.rules, opened.plan.closing):
            return
        (opened.reports if counts_in_time(self.rules, age) else opened.late)[report.client] = report

    def _begin(self, opened: _OpenRound, client: int, now: float) -> None:
        """Begin the open round with a client, unless it has run it: it is absent, fails, or runs it."""
        if opened.next_round(client) > opened.plan.round:
            return
        costs, attempt = self.costs[client], opened.attempts.get(client)
        if attempt is None and self._drawn(Purpose.AVAILABILITY, opened, client) >= costs.profile.availability:
            opened.attempts[client] = 0
            self._set(client, Task(now + costs.profile.absence_seconds))
            return
        attempt = attempt or 0
        opened.attempts[client] = attempt + 1
        bytes_down = opened.download(client)
        self._bytes_down += bytes_down
        least = costs.round(opened.least_work(client), bytes_down, 0)
        if self._drawn(Purpose.FAILURE, opened, client, attempt) < costs.profile.failure:
            share = make_rng(self.seed, Purpose.FAILURE, opened.plan.round, client, attempt, 1).random()
            self._joules += share * least.joules
            self._set(client, Task(now + share * least.seconds))
        else:
            self._set(client, Task(now + least.seconds, computed=False, began=now, bytes_down=bytes_down))

    def _drawn(self, purpose: Purpose, opened: _OpenRound, client: int, *keys: int) -> float:
        """Return a random number for (seed, purpose, round, client); in the closing round, one that harms nobody."""
        if opened.plan.closing:
            return 1.0 if purpose is Purpose.FAILURE else 0.0
        return float(make_rng(self.seed, purpose, opened.plan.round, client, *keys).random())

    def _set(self, client: int, task: Task) -> None:
        self.tasks[client] = task
        heapq.heappush(self._events, (task.ends, client))

    def _compute(self, opened: _OpenRound) -> None:
        """Run the rounds of all clients that have begun it, at once: all of them have received the same teacher."""
        waiting = sorted(client for client, task in self.tasks.items() if not task.computed)
        for client, (report, work) in zip(waiting, opened.compute(waiting), strict=True):
            task = self.tasks[client]
            cost = self.costs[client].round(work, task.bytes_down, report.knowledge_bytes)
            self._joules += cost.joules
            self.tasks[client] = Task(task.began + cost.seconds, report)
        self._events = [(task.ends, client) for client, task in self.tasks.items()]
        heapq.heapify(self._events)


@dataclass(eq=False)
class _OpenRound:
    plan: RoundPlan
    sampled: frozenset[int]
    next_round: Callable[[int], int]
    least_work: LeastWork
    download: Callable[[int], int]
    compute: Compute
    reports: dict[int, Report] = field(default_factory=dict)
    """the reports that count towards the end of the round, by client: the newest of each"""
    late: dict[int, Report] = field(default_factory=dict)
    """reports for the round before, which the rules use although they do not count towards its end"""
    attempts: dict[int, int] = field(default_factory=dict)
    """number of attempts of each client that the round has asked"""
