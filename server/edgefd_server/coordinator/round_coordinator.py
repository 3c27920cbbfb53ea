"""`RoundCoordinator`: collects the reports of one round at a time, from clients that open the connection themselves.

The coordinator's thread opens a round, waits until the rules (`edgefd.rounds.participation`) say that it is over, and
opens the next one. Front ends (gRPC: `edgefd_server.grpc_link.device_service`) fetch tasks and submit reports from
their own threads. This module knows no network and no session. The size of a report is checked before it is parsed,
and all of its content is checked before it counts.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType

from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.core.text import shown
from edgefd.federation.changes import NOTHING_EXCHANGED, Exchanged
from edgefd.federation.metrics import Range
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Exchange, Report, count_exchange
from edgefd.federation.terms import FederationInfo
from edgefd.methods import get_method
from edgefd.rounds.participation import (
    FULL_PARTICIPATION,
    ParticipationConfig,
    add_stale_reports,
    largest_age,
    quorum_reached,
)
from edgefd.rounds.teacher_messages import TeacherMessages
from edgefd.rounds.validation import expected_report
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE
from edgefd.wire.expected import ExpectedReport, UnexpectedContent
from edgefd_server.coordinator.round_inbox import OpenRound, RoundInbox
from edgefd_server.monitoring.event_log import Log, LoggedState

SHUTDOWN_GRACE = 20.0
"""seconds that clients have to learn that the run is over: more than a device waits between two calls"""
BAD_REPORTS = ("size", "malformed", "client", "content")
"""reasons for which a report is refused because of the report itself"""
_LONGEST_WAIT = 3600.0  # Python does not wait at all for a timeout of some years

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A refused message of a client, with a reason code (docs/reference/wire-format.md) and a line of text.

    Args:
        reason: the code, for programs.
        line: the explanation, for people.
    """

    def __init__(self, reason: str, line: str) -> None:
        super().__init__(shown(line))
        self.reason = reason


class RoundCoordinator(LoggedState):
    """A transport (`edgefd.rounds.loop.Transport`) whose front ends may call it from any thread.

    Args:
        info: the run, its number of clients and its terms.
        timeout: seconds that a round may take.
        log: writes the events of the run; if it cannot write, the run ends.
        rules: conditions under which a round may end before all its clients have reported.
        expected: clients that may reconnect to a resumed run: `finish` waits for them as well.
        clock: returns the time in seconds.
        measured: ranges of the metrics that simulated clients report besides those of devices; None for devices.
    """

    def __init__(
        self,
        info: FederationInfo,
        timeout: float,
        log: Log,
        rules: ParticipationConfig = FULL_PARTICIPATION,
        expected: Iterable[int] = (),
        clock: Callable[[], float] = time.monotonic,
        measured: Mapping[str, Range] | None = None,
    ) -> None:
        self.info, self.timeout, self.rules = info, timeout, rules
        self._measured = measured
        self._told: set[tuple[int, str]] = set()
        """the client and the reason of each refusal that the console shows"""
        super().__init__(log)
        self._clock = clock
        self._watchers: list[Callable[[], None]] = []
        self._current: RoundInbox | None = None
        self._earlier: list[RoundInbox] = []
        """closed rounds whose late reports can still be told apart, the newest last"""
        self._ended: str | None = None
        self._connected, self._end_acknowledged = set(expected), set[int]()

    # for the coordinator's thread

    def exchange(
        self,
        plan: RoundPlan,
        sampled: Sequence[int],
        teacher: Knowledge | None,
        exchanged: Exchanged = NOTHING_EXCHANGED,
    ) -> Exchange:
        """Run one round. See `edgefd.rounds.loop.Transport`.

        A report that fails a check is refused with the reason, and the round continues to wait.

        Raises:
            RunError: if too few clients have reported in time, or the log cannot be written.
        """
        messages = TeacherMessages(teacher, self.info.terms.codec, exchanged.teacher)
        opened = self.open(plan, sampled, messages.complete, messages.to, exchanged.reports)
        reports = self.collect()
        return count_exchange(reports, opened.bytes_down if teacher else 0)

    def open(
        self,
        plan: RoundPlan,
        sampled: Sequence[int],
        teacher: bytes | None,
        changes: Callable[[bytes], bytes | None] | None = None,
        held: Mapping[int, Knowledge] = MappingProxyType({}),
    ) -> OpenRound:
        """Open a round for the sampled clients and wake the front ends. See `OpenRound` for the arguments."""
        opened = OpenRound(plan, teacher, sampled, self._clock(), changes, held)
        with self._changed:
            inbox, before = RoundInbox(opened), self._current
            if before is not None:
                if self.rules.stale_reports == "buffer" and not plan.closing:
                    inbox.reports |= before.late
                kept = max(1, largest_age(self.rules, plan.closing))
                self._earlier = [*self._earlier, _without_content(before)][-kept:]
            self._current = inbox
        sent = {"teacher_bytes": len(teacher), "teacher_sha256": hashlib.sha256(teacher).hexdigest()} if teacher else {}
        self.note("round", round=plan.round, closing=plan.closing, asked=len(sampled), **sent)
        self._announce()
        return opened

    def collect(self) -> list[Report]:
        """Wait until the open round is over, close it, and return its reports, with late ones if the rules use them.

        Raises:
            RunError: if too few clients have reported in time, or the log cannot be written.
        """
        with self._changed:
            current = self._current
            assert current is not None
            while True:
                if self._failure is not None:
                    raise self._failure
                seconds = self._clock() - current.opened.began
                n_refused = len(current.refused.keys() - current.reports.keys())
                n_asked, n_reports = len(current.opened.asked), len(current.reports)
                if quorum_reached(self.rules, n_asked, n_reports, seconds, n_refused):
                    break
                if seconds >= self.timeout:
                    raise RunError(self._missing_reports(current))
                deadline = self.rules.deadline_s or 0.0
                until = min(self.timeout, deadline) if seconds < deadline else self.timeout
                self._changed.wait(min(until - seconds, _LONGEST_WAIT))
            current.closed = True
            late = self._earlier[-1].late.values() if self._earlier and not current.opened.plan.closing else ()
            reports = add_stale_reports(self.rules, list(current.reports.values()), late)
        self._announce()
        return reports

    def finish(self, outcome: str) -> None:
        """Announce the end of the run, and wait at most `SHUTDOWN_GRACE` seconds until all connected clients know it.

        Args:
            outcome: `edgefd.wire.exchange_folder.COMPLETE`, or the reason why the run stopped.

        Raises:
            RunError: if the run is complete, but its log could not be written.
        """
        self.end("" if outcome == COMPLETE else outcome)
        until = self._clock() + SHUTDOWN_GRACE
        with self._changed:
            while not self._connected <= self._end_acknowledged and (left := until - self._clock()) > 0:
                self._changed.wait(left)
            missed = sorted(self._connected - self._end_acknowledged)
        if missed:
            self.note("not_told", clients=missed)
        if self._failure is not None and outcome == COMPLETE:
            raise self._failure

    def end(self, reason: str) -> None:
        """End the run and wake the front ends. The reason "" means that the run is complete."""
        with self._changed:
            self._ended = reason
        self.note("end", reason=reason)
        self._announce()

    def continue_after(self, closed: OpenRound) -> None:
        """Set the round that was completed before a resumed run: late reports for it count as the rules say.

        Args:
            closed: the round. Reports that counted in it must not be submitted again.
        """
        with self._changed:
            self._current = RoundInbox(closed, closed=True)

    # for front ends

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Accept all reports that are submitted within the context before the round can be closed."""
        with self._changed:
            yield

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever a round is opened or closed and when the run ends, in the coordinator's thread."""
        self._watchers.append(wake)

    @property
    def ended(self) -> str | None:
        """Reason why the run ended, "" if it is complete; None while it is running."""
        return self._ended

    @property
    def round(self) -> OpenRound | None:
        """The open round; None between two rounds."""
        with self._changed:
            current = self._current
            return None if current is None or current.closed or self._ended is not None else current.opened

    def next_task(self, client: int, after: int) -> OpenRound | None:
        """Return the open round, if it asks that client and is later than round `after`."""
        opened = self.round
        return opened if opened is not None and client in opened.asked and opened.plan.round > after else None

    def missing(self) -> list[int]:
        """Return the clients that the open round asks and whose reports for it have not come."""
        with self._changed:
            current = self._current
            return [] if current is None else [c for c in current.opened.asked if c not in current.digests]

    def submit(self, client: int, round: int, data: bytes) -> bool:
        """Accept a valid serialised Report, and return whether the same report had been accepted before.

        A report for an earlier round counts in the open one or is refused, according to the rules.

        Args:
            client: the sender, as identified by the front end.
            round: the round that the report is for.
            data: the serialised report.

        Raises:
            Refused: "early": no round is open yet, as after a restart, and the client must submit again soon;
                "round": that round is over or has not asked the client, which continues with the next task;
                "conflict": another report of the client for that round was accepted before; "size", "malformed",
                "client" and "content": the report is not a valid answer.
        """
        digest = hashlib.sha256(data).digest()
        with self._changed:
            inbox = self._inbox(client, round)
            if (accepted := inbox.digests.get(client)) is not None:
                if accepted != digest:
                    raise Refused(
                        "conflict",
                        f"round {round} already has a different report of client {client}: "
                        "either two devices use that number, or this device lost its state",
                    )
                return True
            in_time = inbox is self._current and not inbox.closed and self._ended is None
            if not (in_time or self._counts_late(inbox, client)):
                raise Refused("round", f"round {round} was closed without this report")
            try:
                report = self._decoded(data, inbox.opened, client)
            except Refused as refused:
                self._refuse(client, inbox, refused)
                raise
            self._place(inbox, in_time)[client] = report
            inbox.digests[client] = digest
            self._changed.notify_all()
        self.note("report" if in_time else "late", client=client, round=round, bytes=len(data))
        return False

    def refuse(self, client: int, refused: Refused) -> None:
        """Record that a front end has refused a client's report of the open round before it could be submitted."""
        with self._changed:
            current = self._current
            if current is not None and not current.closed and client in current.opened.asked:
                self._refuse(client, current, refused)

    def expected(self, plan: RoundPlan, held: Knowledge | None = None) -> ExpectedReport:
        """Return what is expected of a report in a round with this plan, of a client whose knowledge is held."""
        return expected_report(get_method(self.info.terms.method), self.info.terms, plan, self._measured, held)

    def connected(self, client: int) -> None:
        """Record that a client has connected: `finish` waits until it knows that the run is over."""
        with self._changed:
            self._connected.add(client)

    def end_acknowledged(self, client: int) -> None:
        """Record that a client knows that the run is over."""
        with self._changed:
            self._end_acknowledged.add(client)
            self._changed.notify_all()

    def _inbox(self, client: int, round: int) -> RoundInbox:
        """Return the inbox of the current or an earlier round with that number, which must have asked the client."""
        inboxes = [*([] if self._current is None else [self._current]), *reversed(self._earlier)]
        inbox = next((each for each in inboxes if each.opened.plan.round == round), None)
        if self._current is None and self._ended is None:
            raise Refused("early", "no round is open yet: submit the report again soon")
        if inbox is None:
            raise Refused("round", f"round {round} is not open")
        if client not in inbox.opened.asked:
            raise Refused("round", f"round {round} does not ask client {client}")
        return inbox

    def _counts_late(self, inbox: RoundInbox, client: int) -> bool:
        """Return whether a report that comes now for that round can still count in the open round or the next one."""
        current = self._current
        if inbox.opened.plan.closing or self._ended is not None or current is None:
            return False
        if self.rules.stale_reports == "buffer" and inbox is not current and client in current.digests:
            return False  # the buffer has a newer one
        age = current.opened.plan.round - inbox.opened.plan.round + current.closed
        return age <= largest_age(self.rules, current.opened.plan.closing)

    def _place(self, inbox: RoundInbox, in_time: bool) -> dict[int, Report]:
        """Return where a report for that round belongs: to it, to the buffer, or to the late ones."""
        if in_time or self.rules.stale_reports != "buffer":
            return inbox.reports if in_time else inbox.late
        current = self._current
        assert current is not None
        return current.late if current.closed else current.reports

    def _decoded(self, data: bytes, opened: OpenRound, client: int) -> Report:
        """Return the report in the data.

        Raises:
            Refused: if it is not one that the client may send in this round.
        """
        expected = self.expected(opened.plan, opened.held.get(client))
        if len(data) > expected.largest:
            raise Refused("size", f"the report has {len(data)} bytes; the limit is {expected.largest}")
        try:
            report = wire.decode_report(data, expected)
        except UnexpectedContent as error:
            raise Refused("content", str(error)) from error
        except ValueError as error:
            raise Refused("malformed", str(error)) from error
        if report.client != client:
            raise Refused("client", f"the report is of client {report.client}, but the device is client {client}")
        return report

    def _refuse(self, client: int, inbox: RoundInbox, refused: Refused) -> None:
        """Record a refused report, so that the round does not wait for its client alone, and report it on the console.

        Only the first refusal of each kind of a client is reported; the event log and the status page count all.
        """
        if refused.reason not in BAD_REPORTS:
            return
        inbox.refused[client] = str(refused)
        self._changed.notify_all()
        if (client, refused.reason) not in self._told:
            self._told.add((client, refused.reason))
            logger.warning(
                "round %d: the report of client %d was refused (%s): %s; further ones are only counted",
                *(inbox.opened.plan.round, client, refused.reason, refused),
            )

    def _missing_reports(self, inbox: RoundInbox) -> str:
        asked, counted = inbox.opened.asked, len(inbox.reports)
        missing = [c for c in asked if c not in inbox.reports]
        silent = ", ".join(str(c) for c in missing if c not in inbox.refused)
        causes = [f"no report of client {silent}"] * bool(silent)
        causes += [f"that of client {c} was refused ({inbox.refused[c]})" for c in missing if c in inbox.refused]
        needed = "" if self.rules.min_reports else "; the round needs all, because coordinator.min_reports is not set"
        return (
            f"round {inbox.opened.plan.round}: {counted} of {len(asked)} reports after {self.timeout:g} s: "
            f"{'; '.join(causes)}{needed} (link.jsonl lists the refused reports)"
        )

    def _announce(self) -> None:
        for wake in self._watchers:
            wake()


def _without_content(inbox: RoundInbox) -> RoundInbox:
    """Return the inbox of a closed round with what later reports for it need: without its reports and its teacher."""
    return replace(inbox, opened=replace(inbox.opened, teacher=None, changes=None), reports={})
