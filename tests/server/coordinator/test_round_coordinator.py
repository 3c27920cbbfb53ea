"""The rules of `RoundCoordinator`: which clients have a task, when a round is over, late and repeated reports."""

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator

from edgefd.core.errors import RunError
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.rounds.participation import MAX_AGE, ParticipationConfig
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE
from tests.support.federations import ignore_event
from tests.support.rounds import INFO, knowledge, plan
from tests.support.waiting import until

ALL = range(INFO.n_clients)


def report(client: int, round: int, seed: int = 0) -> bytes:
    """Return a serialised report; another seed gives other content."""
    return wire.encode_report(Report(client, round, knowledge(10 * round + client + seed)), "float32")


def submit(coordinator: RoundCoordinator, round: int, *clients: int) -> None:
    """Submit a report of each of the clients."""
    for client in clients:
        coordinator.submit(client, round, report(client, round))


class FakeClock:
    """A clock that a test sets, and that counts how often it was read."""

    def __init__(self) -> None:
        self.now, self.readings = 0.0, 0

    def __call__(self) -> float:
        self.readings += 1
        return self.now

    def wait_until_read(self, act: Callable[[], None]) -> None:
        """Act, and wait until the coordinator has read the clock afterwards."""
        before = self.readings
        act()
        until(lambda: self.readings > before, 20)


def coordinator_with(
    timeout: float = 5.0,
    log: Callable[..., None] = ignore_event,
    clock: Callable[[], float] = time.monotonic,
    **rules: Any,
) -> RoundCoordinator:
    """Return a coordinator with these rules of participation."""
    return RoundCoordinator(INFO, timeout, log, ParticipationConfig(**rules), clock=clock)


def run_round(
    coordinator: RoundCoordinator, p: RoundPlan, *clients: int, sampled: Sequence[int] = ALL
) -> list[tuple[int, int]]:
    """Run a round in which these clients report, and return client and round of the reports that count."""
    coordinator.open(p, sampled, b"teacher" if p.round else None)
    submit(coordinator, p.round, *clients)
    return counted(coordinator)


def counted(coordinator: RoundCoordinator) -> list[tuple[int, int]]:
    """Collect the open round, and return client and round of the reports that count."""
    return sorted((r.client, r.round) for r in coordinator.collect())


@contextmanager
def collecting(coordinator: RoundCoordinator, p: RoundPlan) -> Iterator[list[list[tuple[int, int]]]]:
    """Run a round in another thread, which must end with the context. The list then holds its result."""
    results: list[list[tuple[int, int]]] = []
    coordinator.open(p, ALL, None)
    thread = threading.Thread(target=lambda: results.append(counted(coordinator)), daemon=True)
    thread.start()
    yield results
    thread.join(20)
    assert not thread.is_alive()


def refusal(act: Callable[[], object]) -> str:
    """Return the reason for which the coordinator refuses."""
    with pytest.raises(Refused) as refused:
        act()
    return refused.value.reason


def test_a_quorum_ends_the_round() -> None:
    assert run_round(coordinator_with(min_reports=2), plan(), 1, 3) == [(1, 0), (3, 0)]


def test_a_quorum_ends_the_round_at_the_deadline_and_the_clock_is_read_only_a_few_times() -> None:
    readings = []

    def clock() -> float:
        readings.append(time.monotonic())
        return readings[-1]

    coordinator = coordinator_with(clock=clock, min_reports=2, deadline_s=0.3)
    assert run_round(coordinator, plan(), 1, 3) == [(1, 0), (3, 0)]
    assert readings[-1] - readings[0] >= 0.3
    assert len(readings) < 10


def test_after_the_deadline_the_report_that_completes_the_quorum_ends_the_round() -> None:
    clock = FakeClock()
    coordinator = coordinator_with(timeout=600, clock=clock, min_reports=2, deadline_s=60)
    with collecting(coordinator, plan()) as results:
        until(lambda: clock.readings >= 2, 20)  # of the opening, and as the coordinator begins to wait
        clock.now = 61
        assert coordinator.missing() == [0, 1, 2, 3]
        clock.wait_until_read(lambda: submit(coordinator, 0, 2))
        assert not results
        submit(coordinator, 0, 0)
    assert results == [[(0, 0), (2, 0)]]


def test_before_the_deadline_the_last_report_ends_the_round() -> None:
    clock = FakeClock()
    coordinator = coordinator_with(timeout=600, clock=clock, min_reports=2, deadline_s=60)
    with collecting(coordinator, plan()) as results:
        until(lambda: clock.readings >= 2, 20)
        clock.wait_until_read(lambda: submit(coordinator, 0, 0, 1, 2))
        assert not results
        submit(coordinator, 0, 3)
    assert results == [[(0, 0), (1, 0), (2, 0), (3, 0)]]


def test_too_few_reports_end_the_run_with_the_sampled_clients_that_are_missing() -> None:
    coordinator = coordinator_with(timeout=0.2, min_reports=2)
    with pytest.raises(RunError, match=r"round 0: 1 of 3 reports after 0.2 s: no report of client 0, 2"):
        run_round(coordinator, plan(), 1, sampled=(0, 1, 2))


def test_only_sampled_clients_have_a_task_and_it_carries_the_newest_teacher() -> None:
    coordinator = coordinator_with(min_reports=1)
    coordinator.open(plan(), (0, 2), None)
    assert [coordinator.next_task(c, -1) is not None for c in range(4)] == [True, False, True, False]
    assert refusal(lambda: submit(coordinator, 0, 1)) == "round"
    submit(coordinator, 0, 0)
    coordinator.collect()
    assert coordinator.round is None
    assert coordinator.next_task(2, -1) is None  # the round is over, so its report would be of no use
    opened = coordinator.open(plan(1), (1, 3), b"newest")
    task = coordinator.next_task(1, -1)
    assert task is opened
    assert task.teacher == b"newest"
    assert coordinator.next_task(1, 1) is None
    assert coordinator.missing() == [1, 3]


@pytest.mark.parametrize(("late", "expected"), [("drop", [(0, 1), (1, 1)]), ("use", [(0, 1), (1, 1), (2, 0)])])
def test_a_late_report_counts_in_the_next_round_if_the_rules_use_it(late: str, expected: list[tuple[int, int]]) -> None:
    """Clients 1 and 2 are late. Client 1 reports in the next round too. Client 3 was not sampled."""
    coordinator = coordinator_with(min_reports=1, stale_reports=late)
    run_round(coordinator, plan(), 0, sampled=(0, 1, 2))
    outcomes = []
    for client, between in ((1, True), (2, False), (3, False)):  # between the rounds, and in the next round
        if not between and coordinator.round is None:
            coordinator.open(plan(1), ALL, b"teacher")
        try:
            submit(coordinator, 0, client)
            outcomes.append("accepted")
        except Refused as refused:
            outcomes.append(refused.reason)
    assert outcomes == (["round"] * 3 if late == "drop" else ["accepted", "accepted", "round"])
    submit(coordinator, 1, 0, 1)
    assert counted(coordinator) == expected


def test_a_late_report_counts_once_and_never_in_the_closing_round_or_two_rounds_later() -> None:
    coordinator = coordinator_with(min_reports=1, stale_reports="use")
    run_round(coordinator, plan(), 0)
    coordinator.open(plan(1), ALL, b"teacher")
    submit(coordinator, 0, 1)
    assert coordinator.submit(1, 0, report(1, 0))  # it had been accepted
    assert refusal(lambda: coordinator.submit(1, 0, report(1, 0, seed=5))) == "conflict"
    submit(coordinator, 1, 0)
    assert counted(coordinator) == [(0, 1), (1, 0)]
    assert run_round(coordinator, plan(2), 0) == [(0, 2)]
    assert refusal(lambda: submit(coordinator, 0, 2)) == "round"
    coordinator.open(plan(9), ALL, b"teacher")  # the closing round
    assert refusal(lambda: submit(coordinator, 2, 1)) == "round"


def test_late_reports_do_not_count_towards_the_quorum() -> None:
    coordinator = coordinator_with(timeout=0.2, min_reports=1, stale_reports="use")
    run_round(coordinator, plan(), 0)
    coordinator.open(plan(1), ALL, b"teacher")
    submit(coordinator, 0, 1, 2, 3)
    with pytest.raises(RunError, match="0 of 4 reports"):
        coordinator.collect()


def test_buffered_rounds_count_reports_of_any_round_towards_their_end() -> None:
    """Two reports end a round. Client 3 works on round 0 until round 2 is open, and client 2 ends it between rounds."""
    coordinator = coordinator_with(timeout=5.0, min_reports=2, stale_reports="buffer")
    assert run_round(coordinator, plan(), 0, 1) == [(0, 0), (1, 0)]
    submit(coordinator, 0, 2)
    coordinator.open(plan(1), ALL, b"teacher")
    assert coordinator.missing() == list(ALL)  # client 2 is free, and gets the task of round 1
    submit(coordinator, 1, 0)
    assert counted(coordinator) == [(0, 1), (2, 0)]
    coordinator.open(plan(2), ALL, b"teacher")
    submit(coordinator, 0, 3)
    assert coordinator.submit(3, 0, report(3, 0))  # the same again
    submit(coordinator, 1, 1)
    assert counted(coordinator) == [(1, 1), (3, 0)]
    coordinator.open(plan(3), ALL, b"teacher")
    submit(coordinator, 3, 0)
    assert refusal(lambda: submit(coordinator, 2, 0)) == "round"  # it has sent a newer one
    submit(coordinator, 2, 1)
    submit(coordinator, 3, 1)  # the newer one of a client counts
    assert counted(coordinator) == [(0, 3), (1, 3)]
    coordinator.open(plan(9), ALL, b"teacher")  # the closing round
    assert refusal(lambda: submit(coordinator, 3, 2)) == "round"


def test_a_buffered_report_that_is_too_old_is_refused() -> None:
    coordinator = coordinator_with(timeout=5.0, min_reports=1, stale_reports="buffer")
    for round in range(MAX_AGE + 2):
        run_round(coordinator, RoundPlan(round, plan().ids), 0)
    coordinator.open(RoundPlan(MAX_AGE + 2, plan().ids), ALL, b"teacher")
    assert refusal(lambda: submit(coordinator, 1, 1)) == "round"
    submit(coordinator, 2, 2)
    assert counted(coordinator) == [(2, 2)]


def test_invalid_reports_are_refused_and_a_valid_one_is_then_accepted() -> None:
    coordinator = coordinator_with()
    assert refusal(lambda: submit(coordinator, 0, 0)) == "early"
    coordinator.open(plan(), ALL, None)
    huge = wire.encode_report(Report(0, 0, knowledge(), {f"{i:04d}" * 20: 1.0 for i in range(1000)}), "float32")
    for data, reason in ((b"\xff", "malformed"), (report(1, 0), "client"), (report(0, 1), "content"), (huge, "size")):
        assert refusal(lambda d=data: coordinator.submit(0, 0, d)) == reason  # type: ignore[misc]
    assert not coordinator.submit(0, 0, report(0, 0))
    assert refusal(lambda: coordinator.submit(0, 5, report(0, 5))) == "round"


def bad_report(client: int, round: int = 0, value: float = 60000.0) -> bytes:
    """Return a serialised report whose rows are no soft labels."""
    k = knowledge()
    return wire.encode_report(Report(client, round, replace(k, values=np.full_like(k.values, value))), "float32")


def test_a_round_with_its_quorum_does_not_wait_for_clients_whose_reports_were_refused() -> None:
    clock = FakeClock()
    coordinator = coordinator_with(timeout=600, clock=clock, min_reports=2, deadline_s=60)
    with collecting(coordinator, plan()) as results:
        until(lambda: clock.readings >= 2, 20)
        assert refusal(lambda: coordinator.submit(3, 0, bad_report(3))) == "content"
        coordinator.refuse(2, Refused("size", "too large"))
        clock.wait_until_read(lambda: submit(coordinator, 0, 1))
        assert not results
        submit(coordinator, 0, 0)
    assert results == [[(0, 0), (1, 0)]]
    with collecting(coordinator, plan(1)) as results:  # a new round waits for all clients again
        clock.wait_until_read(lambda: submit(coordinator, 1, 0, 1))
        assert not results
        submit(coordinator, 1, 2, 3)
    assert results == [[(c, 1) for c in ALL]]


def test_a_corrected_report_counts() -> None:
    coordinator = coordinator_with(timeout=600, min_reports=2, deadline_s=60)
    with collecting(coordinator, plan()) as results:
        assert refusal(lambda: coordinator.submit(3, 0, bad_report(3))) == "content"
        submit(coordinator, 0, 3, 0, 1)
        assert not results
        assert refusal(lambda: coordinator.submit(2, 0, bad_report(2))) == "content"
    assert results == [[(0, 0), (1, 0), (3, 0)]]


def test_a_round_that_needs_all_reports_ends_the_run_with_the_reason_of_the_refusal() -> None:
    coordinator = coordinator_with(timeout=0.2)
    coordinator.open(plan(), ALL, None)
    submit(coordinator, 0, 0, 2)
    assert refusal(lambda: coordinator.submit(3, 0, bad_report(3))) == "content"
    message = (
        "round 0: 2 of 4 reports after 0.2 s: no report of client 1; that of client 3 was refused (values from 60000 "
        "to 60000 are sent, but soft labels are from 0 to 1); the round needs all, because coordinator.min_reports is "
        "not set"
    )
    with pytest.raises(RunError, match=re.escape(message)):
        coordinator.collect()


def test_a_refusal_is_said_once_for_each_client_and_kind(caplog: pytest.LogCaptureFixture) -> None:
    coordinator = coordinator_with(min_reports=1)
    with caplog.at_level(logging.WARNING, "edgefd_server"):
        for round in range(3):
            coordinator.open(plan(round), ALL, b"teacher" if round else None)
            for client, data in ((1, bad_report(1, round)), (1, b"\xff"), (2, bad_report(2, round, -1.0))):
                for _ in range(5):
                    assert refusal(lambda c=client, d=data, r=round: coordinator.submit(c, r, d))  # type: ignore[misc]
            submit(coordinator, round, 0)
            coordinator.collect()
    said = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in said] == ["round 0"] * 3
    assert ["client 1" in said[0], "(malformed)" in said[1], "client 2" in said[2]] == [True] * 3
    assert "soft labels are from 0 to 1; further ones are only counted" in said[0]


def test_reports_from_many_threads_at_once_count_once() -> None:
    coordinator = coordinator_with(timeout=30)
    with collecting(coordinator, plan()) as results:
        front_ends = [threading.Thread(target=coordinator.submit, args=(i % 4, 0, report(i % 4, 0))) for i in range(32)]
        for front_end in front_ends:
            front_end.start()
        for front_end in front_ends:
            front_end.join(20)
    assert results == [[(c, 0) for c in range(4)]]


def test_front_ends_are_woken_when_a_round_opens_or_closes_and_at_the_end() -> None:
    coordinator, states = coordinator_with(min_reports=1), list[tuple[int | None, str | None]]()

    def wake() -> None:
        opened = coordinator.round
        states.append((None if opened is None else opened.plan.round, coordinator.ended))

    coordinator.watch(wake)
    run_round(coordinator, plan(), 0)
    coordinator.finish(COMPLETE)
    assert states == [(0, None), (None, None), (None, "")]


def test_the_end_waits_for_clients_that_are_connected_or_may_reconnect() -> None:
    clock = FakeClock()
    coordinator = RoundCoordinator(INFO, 5.0, ignore_event, expected=[3], clock=clock)
    coordinator.connected(0)
    thread = threading.Thread(target=coordinator.finish, args=("the disk is full",), daemon=True)
    thread.start()
    until(lambda: coordinator.ended == "the disk is full", 20)
    until(lambda: clock.readings >= 2, 20)  # it waits
    clock.wait_until_read(lambda: coordinator.end_acknowledged(0))
    assert thread.is_alive()
    coordinator.end_acknowledged(3)
    thread.join(20)
    assert not thread.is_alive()
    assert refusal(lambda: submit(coordinator, 0, 0)) == "round"


def test_a_log_that_cannot_be_written_ends_the_run() -> None:
    def full(event: str, **fields: Any) -> None:
        if event == "report":
            raise RunError("cannot write link.jsonl: No space left on device")

    coordinator = coordinator_with(log=full)
    with pytest.raises(RunError, match="No space left"):
        run_round(coordinator, plan(), 0)
    with pytest.raises(RunError, match="No space left"):
        coordinator.finish(COMPLETE)
    coordinator.finish("cannot write link.jsonl")  # the run's own error is already being raised
