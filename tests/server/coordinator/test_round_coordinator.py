"""The desk's rules: who is asked, when a round is over, what happens to reports that come late or twice."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator

from edgefd.core.errors import RunError
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.rounds.participation import ParticipationConfig
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import COMPLETE
from tests.support.rounds import INFO, knowledge, plan


def blob(client: int, round: int, seed: int = 0) -> bytes:
    return wire.encode_report(Report(client, round, knowledge(10 * round + client + seed)), "float32")


def hand_in(coordinator: RoundCoordinator, round: int, *clients: int) -> None:
    for client in clients:
        coordinator.submit(client, round, blob(client, round))


def unlogged(event: str, **fields: Any) -> None:
    """Keep no log."""


def desk_with(timeout: float = 5.0, log: Callable[..., None] = unlogged, **rules: Any) -> RoundCoordinator:
    return RoundCoordinator(INFO, timeout, log, ParticipationConfig(**rules))


def answers(coordinator: RoundCoordinator, p: RoundPlan, *clients: int) -> list[tuple[int, int]]:
    """Whose reports of which round count, when these clients answer."""
    coordinator.open(p, b"teacher" if p.round else None)
    hand_in(coordinator, p.round, *clients)
    return sorted((r.client, r.round) for r in coordinator.collect())


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(Refused) as found:
        act()
    return found.value.reason


def test_a_quorum_ends_the_round() -> None:
    assert answers(desk_with(min_reports=2), plan(), 1, 3) == [(1, 0), (3, 0)]


def test_but_not_before_the_deadline_and_without_looking_all_the_time() -> None:
    looks = []

    def clock() -> float:
        looks.append(1)
        return time.monotonic()

    coordinator = RoundCoordinator(INFO, 5.0, unlogged, ParticipationConfig(min_reports=2, deadline_s=0.3), clock=clock)
    began = time.monotonic()
    assert answers(coordinator, plan(), 1, 3) == [(1, 0), (3, 0)]
    assert 0.3 <= time.monotonic() - began < 3
    assert len(looks) < 10


@contextmanager
def waiting(coordinator: RoundCoordinator, p: RoundPlan) -> Iterator[list[list[tuple[int, int]]]]:
    """The coordinator in a thread of its own; what it has found when the context is over."""
    found: list[list[tuple[int, int]]] = []
    thread = threading.Thread(target=lambda: found.append(answers(coordinator, p)), daemon=True)
    thread.start()
    yield found
    thread.join(10)
    assert not thread.is_alive()


def test_after_the_deadline_the_report_that_makes_it_enough_ends_it_and_before_it_the_last_one() -> None:
    coordinator = desk_with(min_reports=2, deadline_s=0.2)
    with waiting(coordinator, plan()) as found:
        time.sleep(0.4)
        assert coordinator.missing() == [0, 1, 2, 3]
        hand_in(coordinator, 0, 2)
        time.sleep(0.1)
        assert not found
        hand_in(coordinator, 0, 0)
    assert found == [[(0, 0), (2, 0)]]
    slow = desk_with(min_reports=2, deadline_s=60)
    with waiting(slow, plan()) as found:
        while slow.round is None:
            time.sleep(0.01)
        hand_in(slow, 0, 0, 1, 2, 3)
    assert len(found[0]) == 4


def test_too_few_reports_end_the_run_and_only_who_was_asked_is_missed() -> None:
    coordinator = desk_with(timeout=0.2, min_reports=2)
    with pytest.raises(RunError, match=r"round 0: 1 of 3 reports after 0.2 s: no report of client 0, 2"):
        answers(coordinator, plan(clients=(0, 1, 2)), 1)


def test_only_who_is_asked_has_a_task_and_gets_the_newest_when_it_is_back() -> None:
    coordinator = desk_with(min_reports=1)
    coordinator.open(plan(clients=(0, 2)), None)
    assert [coordinator.next_task(c, -1) is not None for c in range(4)] == [True, False, True, False]
    assert refusal(lambda: hand_in(coordinator, 0, 1)) == "round"
    hand_in(coordinator, 0, 0)
    coordinator.collect()
    assert coordinator.round is None
    assert coordinator.next_task(2, -1) is None  # the round is over: what it would ask for is of no use now
    opened = coordinator.open(plan(1, clients=(1, 3)), b"newest")
    task = coordinator.next_task(1, -1)
    assert task is opened
    assert task.teacher == b"newest"
    assert coordinator.next_task(1, 1) is None
    assert coordinator.missing() == [1, 3]


@pytest.mark.parametrize(("late", "expected"), [("drop", [(0, 1), (1, 1)]), ("use", [(0, 1), (1, 1), (2, 0)])])
def test_late_reports(late: str, expected: list[tuple[int, int]]) -> None:
    """Client 1 is late too, but has answered the next round; 3 was not asked; 2 alone has nothing newer."""
    coordinator = desk_with(min_reports=1, stale_reports=late)
    answers(coordinator, plan(clients=(0, 1, 2)), 0)
    outcomes = []
    for client, before in ((1, True), (2, False), (3, False)):  # as the round is closed, and in the next one
        if not before and coordinator.round is None:
            coordinator.open(plan(1), b"teacher")
        try:
            hand_in(coordinator, 0, client)
            outcomes.append("taken")
        except Refused as refused:
            outcomes.append(refused.reason)
    assert outcomes == (["round"] * 3 if late == "drop" else ["taken", "taken", "round"])
    hand_in(coordinator, 1, 0, 1)
    assert sorted((r.client, r.round) for r in coordinator.collect()) == expected


def test_a_late_report_counts_once_and_never_in_the_closing_round_or_two_rounds_later() -> None:
    coordinator = desk_with(min_reports=1, stale_reports="use")
    answers(coordinator, plan(), 0)
    coordinator.open(plan(1), b"teacher")
    hand_in(coordinator, 0, 1)
    assert coordinator.submit(1, 0, blob(1, 0))  # it is known
    assert refusal(lambda: coordinator.submit(1, 0, blob(1, 0, seed=5))) == "conflict"
    hand_in(coordinator, 1, 0)
    assert sorted((r.client, r.round) for r in coordinator.collect()) == [(0, 1), (1, 0)]
    assert answers(coordinator, plan(2), 0) == [(0, 2)]
    assert refusal(lambda: hand_in(coordinator, 0, 2)) == "round"
    coordinator.open(plan(9), b"teacher")  # the closing one
    assert refusal(lambda: hand_in(coordinator, 2, 1)) == "round"


def test_a_late_report_does_not_make_it_enough() -> None:
    coordinator = desk_with(timeout=0.2, min_reports=1, stale_reports="use")
    answers(coordinator, plan(), 0)
    coordinator.open(plan(1), b"teacher")
    hand_in(coordinator, 0, 1, 2, 3)
    with pytest.raises(RunError, match="0 of 4 reports"):
        coordinator.collect()


def test_what_is_no_honest_answer_is_refused_and_a_good_one_then_taken() -> None:
    coordinator = desk_with()
    assert refusal(lambda: hand_in(coordinator, 0, 0)) == "early"
    coordinator.open(plan(), None)
    huge = wire.encode_report(Report(0, 0, knowledge(), {f"{i:04d}" * 20: 1.0 for i in range(1000)}), "float32")
    for data, reason in ((b"\xff", "malformed"), (blob(1, 0), "client"), (blob(0, 1), "content"), (huge, "size")):
        assert refusal(lambda d=data: coordinator.submit(0, 0, d)) == reason  # type: ignore[misc]
    assert not coordinator.submit(0, 0, blob(0, 0))
    assert refusal(lambda: coordinator.submit(0, 5, blob(0, 5))) == "round"


def test_reports_from_many_threads_at_once() -> None:
    coordinator = desk_with(timeout=30)
    with waiting(coordinator, plan()) as found:
        while coordinator.round is None:
            time.sleep(0.01)
        front_ends = [threading.Thread(target=coordinator.submit, args=(i % 4, 0, blob(i % 4, 0))) for i in range(32)]
        for front_end in front_ends:
            front_end.start()
        for front_end in front_ends:
            front_end.join(10)
    assert found == [[(c, 0) for c in range(4)]]


def test_doors_are_woken_when_a_round_is_opened_or_closed_and_at_the_end() -> None:
    coordinator, seen = desk_with(min_reports=1), list[tuple[int | None, str | None]]()
    coordinator.watch(
        lambda: seen.append((None if coordinator.round is None else coordinator.round.plan.round, coordinator.ended))
    )
    answers(coordinator, plan(), 0)
    coordinator.finish(COMPLETE)
    assert seen == [(0, None), (None, None), (None, "")]


def test_the_end_waits_for_those_that_are_there_or_may_come_back() -> None:
    coordinator = RoundCoordinator(INFO, 5.0, unlogged, expected=[3])
    coordinator.connected(0)
    thread = threading.Thread(target=coordinator.finish, args=("the disk is full",), daemon=True)
    thread.start()
    while coordinator.ended is None:
        time.sleep(0.01)
    assert coordinator.ended == "the disk is full"
    coordinator.end_acknowledged(0)
    thread.join(0.2)
    assert thread.is_alive()
    coordinator.end_acknowledged(3)
    thread.join(10)
    assert not thread.is_alive()
    assert refusal(lambda: hand_in(coordinator, 0, 0)) == "round"


def test_a_log_that_cannot_be_written_ends_the_run() -> None:
    def full(event: str, **fields: Any) -> None:
        if event == "report":
            raise RunError("cannot write link.jsonl: No space left on device")

    coordinator = desk_with(log=full)
    with pytest.raises(RunError, match="No space left"):
        answers(coordinator, plan(), 0)
    with pytest.raises(RunError, match="No space left"):
        coordinator.finish(COMPLETE)
    coordinator.finish("cannot write link.jsonl")  # the run's own error is on its way already
