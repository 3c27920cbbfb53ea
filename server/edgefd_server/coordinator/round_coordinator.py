"""`RoundCoordinator`: a run's rounds for clients who come by themselves. Whoever carries their messages is a door before it.

The coordinator's thread opens a round, waits until its rules (`edgefd.rounds.participation`) say that it is over, and goes on. Doors
(gRPC: `device_link`) ask from threads of their own what there is to do and hand in reports. No network and no session
here; a report is measured before it is parsed, and everything in it is checked before it counts.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.method import MessageKind
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Exchange, Report, count_exchange
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.methods import get_method
from edgefd.rounds.participation import FULL_PARTICIPATION, ParticipationConfig, add_stale_reports, quorum_reached
from edgefd.rounds.validation import check_report, largest_report
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE

if TYPE_CHECKING:  # Ray needs no metrics
    from edgefd_server.monitoring.event_log import Log

SHUTDOWN_GRACE = 20.0
"""seconds that clients have to learn that the run is over: more than a device waits between two calls"""
_LONGEST_WAIT = 3600.0  # beyond some years, Python does not wait at all


class Refused(Exception):
    """Why what a client sent is not taken: a word for programs (docs/reference/wire-format.md), a line for people."""

    def __init__(self, reason: str, line: str) -> None:
        super().__init__(line)
        self.reason = reason


@dataclass(frozen=True, eq=False)
class OpenRound:
    """What a round asks for."""

    plan: RoundPlan
    teacher: bytes | None
    """a serialised Knowledge; None in round 0"""
    asked: Sequence[int]
    """the clients that are asked, ascending"""
    began: float
    """of the desk's clock"""


@dataclass(eq=False)
class RoundInbox:
    """A round and what has come in for it."""

    opened: OpenRound
    reports: dict[int, Report] = field(default_factory=dict)
    late: dict[int, Report] = field(default_factory=dict)
    """came after it was closed"""
    digests: dict[int, bytes] = field(default_factory=dict)
    """of all reports that were taken"""
    closed: bool = False

    @property
    def round(self) -> int:
        """Number of the round."""
        return self.opened.plan.round


class RoundCoordinator:
    """A transport (`edgefd.rounds.loop.Transport`), and what its doors need. Doors may call from any thread.

    Args:
        notice: which run this is.
        timeout: seconds that a round may take.
        log: of what happens; where it cannot write, the run ends.
        rules: when a round may end without everybody.
        expected: clients that may be on their way, of a run that goes on: they are told of its end as well.
        clock: in seconds.
    """

    def __init__(
        self,
        info: FederationInfo,
        timeout: float,
        log: Log,
        rules: ParticipationConfig = FULL_PARTICIPATION,
        expected: Iterable[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info, self.timeout, self.rules = info, timeout, rules
        self._log, self._clock = log, clock
        self._changed = threading.Condition()
        self._watchers: list[Callable[[], None]] = []
        self._now: RoundInbox | None = None
        self._before: RoundInbox | None = None
        self._ended: str | None = None
        self._failure: RunError | None = None
        self._there, self._told = set(expected), set[int]()

    # what the coordinator does

    def exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        """See `edgefd.rounds.loop.Transport`. A report that fails a check is refused with its reason; the round waits on.

        Raises:
            RunError: if clients have not answered in time, or the log cannot be written.
        """
        data = None if teacher is None else wire.encode(teacher, self.info.terms.codec)
        asked = self.open(plan, data).asked
        return count_exchange(self.collect(), teacher, data, len(asked))

    def open(self, plan: RoundPlan, teacher: bytes | None) -> OpenRound:
        """Begin a round."""
        asked = range(self.info.n_clients) if plan.clients is None else plan.clients
        opened = OpenRound(plan, teacher, asked, self._clock())
        with self._changed:
            self._before, self._now = self._now, RoundInbox(opened)
        sent = {"teacher_bytes": len(teacher), "teacher_sha256": hashlib.sha256(teacher).hexdigest()} if teacher else {}
        self.note("round", round=plan.round, closing=plan.closing, asked=len(asked), **sent)
        self._announce()
        return opened

    def collect(self) -> list[Report]:
        """Wait until the open round is over, and close it: its reports, and late ones as the rules say.

        Raises:
            RunError: if clients have not answered in time, or the log cannot be written.
        """
        with self._changed:
            now = self._now
            assert now is not None
            while True:
                if self._failure is not None:
                    raise self._failure
                seconds = self._clock() - now.opened.began
                if quorum_reached(self.rules, len(now.opened.asked), len(now.reports), seconds):
                    break
                if seconds >= self.timeout:
                    raise RunError(self._too_few(now))
                deadline = self.rules.deadline_s or 0.0
                until = min(self.timeout, deadline) if seconds < deadline else self.timeout
                self._changed.wait(min(until - seconds, _LONGEST_WAIT))
            now.closed = True
            late = () if self._before is None or now.opened.plan.closing else self._before.late.values()
            reports = add_stale_reports(self.rules, list(now.reports.values()), late)
        self._announce()
        return reports

    def finish(self, how: str) -> None:
        """Tell the clients that the run is over: `edgefd.wire.exchange_folder.COMPLETE`, or why it stopped. Waits until they know.

        Raises:
            RunError: if the run is complete, but its log could not be written.
        """
        self.end("" if how == COMPLETE else how)
        until = self._clock() + SHUTDOWN_GRACE
        with self._changed:
            while not self._there <= self._told and (left := until - self._clock()) > 0:
                self._changed.wait(left)
            missed = sorted(self._there - self._told)
        if missed:
            self.note("not_told", clients=missed)
        if self._failure is not None and how == COMPLETE:
            raise self._failure

    def end(self, reason: str) -> None:
        """The run is over; "" = complete."""
        with self._changed:
            self._ended = reason
        self.note("end", reason=reason)
        self._announce()

    # what doors do

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a round is opened or closed and when the run ends, in the coordinator's thread."""
        self._watchers.append(wake)

    @property
    def ended(self) -> str | None:
        """None while the run goes on; then why it stopped, "" if it is complete."""
        return self._ended

    @property
    def round(self) -> OpenRound | None:
        """The open round; None between two."""
        with self._changed:
            return None if self._now is None or self._now.closed or self._ended is not None else self._now.opened

    def task(self, client: int, after: int) -> OpenRound | None:
        """The open round, if it asks that client and is later than `after`."""
        opened = self.round
        return opened if opened is not None and client in opened.asked and opened.plan.round > after else None

    def missing(self) -> list[int]:
        """Clients that the open round asks and that have not answered."""
        with self._changed:
            return [] if self._now is None else [c for c in self._now.opened.asked if c not in self._now.reports]

    def submit(self, client: int, round: int, data: bytes) -> bool:
        """Take a serialised Report, if it is good; whether it was there already.

        A report for the round before counts in the open one, or is refused, as the rules say.

        Args:
            client: whose it is, as its door found out.
            round: that it answers.
            data: its bytes.

        Raises:
            Refused: "early": no round is open yet, as after a restart: the client must hand it in again in a moment;
                "round": that round is over or has not asked the client, who goes on with the next task;
                "conflict": there are other bytes of the client for it; "size", "malformed", "client" and "content":
                it is no honest answer.
        """
        digest = hashlib.sha256(data).digest()
        with self._changed:
            gathered = self._gathered(client, round)
            if (known := gathered.digests.get(client)) is not None:
                if known != digest:
                    raise Refused(
                        "conflict",
                        f"round {round} has another report of client {client} already: "
                        "either two devices use that number, or this one lost its state",
                    )
                return True
            in_time = gathered is self._now and not gathered.closed and self._ended is None
            if not (in_time or self._late(gathered)):
                raise Refused("round", f"round {round} was closed without this report")
            report = _checked(data, gathered.opened.plan, client, self.info.terms)
            (gathered.reports if in_time else gathered.late)[client] = report
            gathered.digests[client] = digest
            self._changed.notify_all()
        self.note("report" if in_time else "late", client=client, round=round, bytes=len(data))
        return False

    def arrived(self, client: int) -> None:
        """A client is there, and will want to know of the end."""
        with self._changed:
            self._there.add(client)

    def told(self, client: int) -> None:
        """A client knows that the run is over."""
        with self._changed:
            self._told.add(client)
            self._changed.notify_all()

    def note(self, event: str, **fields: object) -> None:
        """Write a line of the log. If that fails, the run ends with the reason."""
        try:
            self._log(event, **fields)
        except RunError as error:
            self.fail(error)

    def fail(self, error: RunError) -> None:
        """Nothing can help the run any more: it ends with the reason."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _gathered(self, client: int, round: int) -> RoundInbox:
        found = next((g for g in (self._now, self._before) if g is not None and g.round == round), None)
        if self._now is None and self._ended is None:
            raise Refused("early", "no round is open yet: hand the report in again in a moment")
        if found is None:
            raise Refused("round", f"round {round} is not open")
        if client not in found.opened.asked:
            raise Refused("round", f"round {round} does not ask client {client}")
        return found

    def _late(self, gathered: RoundInbox) -> bool:
        """Whether a report that now comes for that round can still count in the one after it."""
        if self.rules.stale_reports == "drop" or gathered.opened.plan.closing or self._ended is not None:
            return False
        now = self._now
        assert now is not None
        return gathered is now or not (now.closed or now.opened.plan.closing)

    def _too_few(self, now: RoundInbox) -> str:
        silent = ", ".join(str(c) for c in now.opened.asked if c not in now.reports)
        return (
            f"round {now.round}: {len(now.reports)} of {len(now.opened.asked)} reports after {self.timeout:g} s: "
            f"no report of client {silent} (link.jsonl says what was refused)"
        )

    def _announce(self) -> None:
        for wake in self._watchers:
            wake()


def _checked(data: bytes, plan: RoundPlan, client: int, terms: FederationTerms) -> Report:
    method, limit = get_method(terms.method), largest_report(plan, terms.n_classes)
    if len(data) > limit and method.message is not MessageKind.PARAMETERS:  # those come from simulated clients only
        raise Refused("size", f"the report has {len(data)} bytes; at most {limit} are read here")
    try:
        report = wire.decode_report(data)
    except ValueError as error:
        raise Refused("malformed", str(error)) from error
    if report.client != client:
        raise Refused("client", f"the report is of client {report.client}, the device is client {client}")
    try:
        check_report(method, report, plan, (client,), terms.n_classes)
    except ValueError as error:
        raise Refused("content", str(error)) from error
    return report
