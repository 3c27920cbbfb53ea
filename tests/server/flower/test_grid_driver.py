"""`GridDriver` on a Grid in memory: messages to the nodes, their answers, and refusals."""

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")
from edgefd_server import certs
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.flower import grid_driver as grid_driver_module
from edgefd_server.flower.grid_driver import GridDriver, run_driver
from edgefd_server.monitoring.fleet import CoordinatorFleet
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.rounds.participation import ParticipationConfig
from edgefd.wire import messages as wire
from tests.support.waiting import until

TERMS = FederationTerms("fedmd", {}, "float16", 0, 2, "")
BOTH = (0, 1)
ANSWER = Knowledge(np.array([0, 2]), np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32))

FULL_PARTICIPATION = ParticipationConfig()


def plan(round: int = 1) -> RoundPlan:
    return RoundPlan(round, np.arange(3))


@pytest.fixture(autouse=True)
def no_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):  # without them, only a Flower process can create a Message
        monkeypatch.setattr(TaskIdentity, name, 1)
    for name in ("NODE_CHECK_SECONDS", "FIRST_RETRY_SECONDS", "MAX_RETRY_SECONDS"):
        monkeypatch.setattr(grid_driver_module, name, 0.0)


@dataclass(frozen=True)
class FakeNode:
    node_id: int
    public_key: bytes


@dataclass
class FakeGrid:
    """A Grid in memory. `behaviour` holds, by node id, the client that a node claims to be, or a kind of failure."""

    behaviour: dict[int, int | str]
    keys: dict[int, bytes] = field(default_factory=dict)
    sent: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    sent_at: list[tuple[int, float]] = field(default_factory=list)
    waiting: dict[str, Message] = field(default_factory=dict)

    def get_nodes(self) -> Iterable[FakeNode]:
        return [FakeNode(n, self.keys.get(n, b"unregistered")) for n in self.behaviour]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            ids.append(f"m{len(self.sent)}")
            message.metadata.__dict__["_message_id"] = ids[-1]
            self.sent.append((message.metadata.dst_node_id, dict(message.content["edgefd"])))
            self.sent_at.append((message.metadata.dst_node_id, time.monotonic()))
            self.waiting[ids[-1]] = message
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [reply for i in sorted(message_ids) if (reply := self.reply(self.waiting[i])) is not None]

    def reply(self, message: Message) -> Message | None:
        node, request = message.metadata.dst_node_id, dict(message.content["edgefd"])
        match self.behaviour.get(node):
            case None | "silent":
                return None
            case "crashed":
                return Message(Error(code=3, reason="it crashed"), reply_to=message)
            case "unreadable":
                raise ValueError("no such object")
            case "failing":
                body: dict[str, Any] = {"failure": "no data"}
            case "empty":
                return Message(content=RecordDict({}), reply_to=message)
            case "text":
                body = {"client": 1, "report": "text"}
            case "wrong":
                body = {"client": 1, "report": b"not a report"}
            case int(client) if client not in request.get("asked", [client]):
                body = {"client": client}
            case client:
                round = wire.decode_plan(request["plan"], 3).round
                assert isinstance(client, int)
                body = {"client": client, "report": wire.encode_report(Report(client, round, ANSWER), "float16")}
        return Message(content=RecordDict({"edgefd": ConfigRecord(body)}), reply_to=message)


@dataclass(eq=False)
class Setup:
    coordinator: RoundCoordinator
    grid: FakeGrid
    events: list[dict[str, Any]]

    def reasons(self) -> set[str]:
        return {event["reason"] for event in self.events if event["event"] == "refused"}

    def sent_to(self, node: int) -> list[dict[str, Any]]:
        return [body for other, body in self.grid.sent if other == node]


@contextmanager
def running_driver(
    grid: FakeGrid, rules: ParticipationConfig = FULL_PARTICIPATION, timeout: float = 1.0, **options: Any
) -> Iterator[Setup]:
    events: list[dict[str, Any]] = []
    coordinator = RoundCoordinator(
        FederationInfo("run", 2, TERMS), timeout, lambda event, **rest: events.append({"event": event, **rest}), rules
    )
    with run_driver(GridDriver(coordinator, grid, **options), poll=0.01):
        yield Setup(coordinator, grid, events)


def test_all_nodes_report_and_the_bytes_of_the_knowledge_are_counted() -> None:
    with running_driver(FakeGrid({7: 1, 9: 0})) as setup:
        exchange = setup.coordinator.exchange(plan(), BOTH, ANSWER)
    assert sorted(r.client for r in exchange.reports) == [0, 1]
    size = len(wire.encode(ANSWER, "float16"))
    assert (exchange.bytes_up, exchange.bytes_down) == (2 * size, 2 * size)
    assert setup.reasons() == set()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        ("crashed", "node"),
        ("failing", "failed"),
        ("empty", "malformed"),
        ("text", "malformed"),
        ("wrong", "malformed"),
        (2, "client"),
        ("unreadable", "malformed"),
    ],
)
def test_a_bad_answer_is_refused_and_the_round_ends_without_it(behaviour: int | str, reason: str) -> None:
    rules = ParticipationConfig(min_reports=1, deadline_s=0.2)
    with running_driver(FakeGrid({7: 0, 9: behaviour}), rules) as setup:
        exchange = setup.coordinator.exchange(plan(), BOTH, None)
        assert [r.client for r in exchange.reports] == [0]
        assert reason in setup.reasons()
        setup.grid.behaviour[9] = 1
        assert sorted(r.client for r in setup.coordinator.exchange(plan(2), BOTH, ANSWER).reports) == [0, 1]


@pytest.mark.parametrize("behaviour", ["crashed", "failing", "text"])
def test_a_node_that_answered_badly_is_sent_the_round_again(behaviour: str) -> None:
    with running_driver(FakeGrid({7: 0, 9: behaviour}), timeout=10.0) as setup:

        def mend() -> None:
            until(lambda: bool(setup.reasons()), 10)
            setup.grid.behaviour[9] = 1

        mending = threading.Thread(target=mend)
        mending.start()
        assert sorted(r.client for r in setup.coordinator.exchange(plan(), BOTH, None).reports) == [0, 1]
        mending.join()


def test_a_node_with_the_client_of_another_node_is_refused_until_that_node_disconnects() -> None:
    rules = ParticipationConfig(min_reports=1)
    with running_driver(FakeGrid({7: 0}), rules, timeout=5.0) as setup:
        setup.coordinator.exchange(plan(1), BOTH, None)
        setup.grid.behaviour[9] = 0
        setup.grid.behaviour[7] = "silent"
        setup.coordinator.timeout = 0.3
        with pytest.raises(RunError, match=r"round 2: 0 of 2 reports after 0.3 s"):
            setup.coordinator.exchange(plan(2), BOTH, ANSWER)
        assert setup.reasons() == {"claimed"}
        del setup.grid.behaviour[7]  # Flower removes the silent node: now the other node may be client 0
        setup.coordinator.timeout = 5.0
        assert [r.client for r in setup.coordinator.exchange(plan(3), BOTH, ANSWER).reports] == [0]


def test_a_lost_message_is_sent_again_and_a_slow_answer_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_driver_module, "RESEND_SECONDS", 0.05)
    with running_driver(FakeGrid({7: 1, 9: "silent"}), timeout=5.0) as setup:
        answers = threading.Timer(0.5, setup.grid.behaviour.__setitem__, (9, 0))
        answers.start()
        assert len(setup.coordinator.exchange(plan(), BOTH, None).reports) == 2
        answers.join()
        times = len(setup.sent_to(9))
        assert times >= 2
        sent_at = [at for node, at in setup.grid.sent_at if node == 9]
        gaps = [second - first for first, second in itertools.pairwise(sent_at)]
        assert all(gap >= 0.05 * 2**i for i, gap in enumerate(gaps)), "the delay doubles each time"
        assert [e["unanswered"] for e in setup.events if e["event"] == "silent"] == list(range(1, times))
        assert len(setup.sent_to(7)) == 1


def test_a_client_that_is_not_sampled_identifies_itself_once() -> None:
    with running_driver(FakeGrid({7: 0, 9: 1})) as setup:
        for round in (1, 2):
            exchange = setup.coordinator.exchange(plan(round), (0,), None)
            assert [r.client for r in exchange.reports] == [0]
        assert setup.sent_to(9)[0]["asked"] == [0]
        assert len(setup.sent_to(9)) == 1
        assert len(setup.coordinator.exchange(plan(3), BOTH, None).reports) == 2


def test_stale_reports_count_in_the_next_round_if_the_rules_allow_it() -> None:
    rules = ParticipationConfig(min_reports=1, stale_reports="use")
    with running_driver(FakeGrid({7: 0, 9: "silent"}), rules, timeout=5.0) as setup:
        setup.coordinator.exchange(plan(1), BOTH, None)
        setup.grid.behaviour[9] = 1
        setup.grid.behaviour[7] = "silent"
        reports = setup.coordinator.exchange(plan(2), BOTH, ANSWER).reports
        assert {(r.client, r.round) for r in reports} <= {(0, 2), (1, 1), (1, 2)}
        assert 1 in {r.client for r in reports}


def test_buffered_rounds_count_reports_of_earlier_rounds_towards_their_end() -> None:
    rules = ParticipationConfig(min_reports=1, stale_reports="buffer")
    with running_driver(FakeGrid({7: 0, 9: "silent"}), rules, timeout=5.0) as setup:
        assert [(r.client, r.round) for r in setup.coordinator.exchange(plan(1), BOTH, None).reports] == [(0, 1)]
        setup.grid.behaviour |= {7: "silent", 9: 1}
        reports = setup.coordinator.exchange(plan(2), BOTH, ANSWER).reports
        assert {(r.client, r.round) for r in reports} <= {(1, 1), (1, 2)}


def test_a_registered_key_determines_the_client_and_a_revoked_key_is_refused(tmp_path: Path) -> None:
    certs.init(tmp_path / "c", ["localhost"], 2)
    for client in (0, 1):
        certs.add_node(tmp_path / "c", f"node{client}", client)
    keys = [d.node_key.encode() for d in certs.read_devices(tmp_path / "c").values()]
    grid = FakeGrid({7: 0, 9: 1, 11: 1}, {7: keys[0], 9: keys[1], 11: b"unknown"})
    with running_driver(grid, allowed=certs.AllowList(tmp_path / "c")) as setup:
        assert len(setup.coordinator.exchange(plan(1), BOTH, None).reports) == 2
        assert (setup.sent_to(7)[0]["client"], setup.sent_to(9)[0]["client"], setup.sent_to(11)) == (0, 1, [])
        grid.behaviour[9] = 0  # the node claims to be another client than the one of its key
        setup.coordinator.timeout = 0.3
        with pytest.raises(RunError, match="no report of client 1"):
            setup.coordinator.exchange(plan(2), BOTH, ANSWER)
        assert setup.reasons() == {"certificate", "client"}
        certs.revoke(tmp_path / "c", "node1")
        with pytest.raises(RunError, match="no report of client 1"):
            setup.coordinator.exchange(plan(3), BOTH, ANSWER)
        assert all(wire.decode_plan(body["plan"], 3).round < 3 for body in setup.sent_to(9)[1:-1])


def test_a_simulated_client_that_fails_ends_the_run() -> None:
    with running_driver(FakeGrid({7: 0, 9: "failing"}), timeout=30.0, config="seed: 0") as setup:
        with pytest.raises(RunError, match="round 1: no data"):
            setup.coordinator.exchange(plan(), BOTH, None)
        assert all(body["config"] == "seed: 0" for body in setup.sent_to(7))


def test_too_many_simulated_nodes_end_the_run() -> None:
    grid = FakeGrid({7: 0, 9: "silent", 11: 1})
    with (
        running_driver(grid, timeout=30.0, config="seed: 0") as setup,
        pytest.raises(RunError, match="set num-supernodes to 2"),
    ):
        setup.coordinator.exchange(plan(), BOTH, None)


def test_a_grid_that_fails_for_long_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_driver_module, "GRID_FAILURE_SECONDS", 0.5)

    class BrokenGrid(FakeGrid):
        def get_nodes(self) -> Iterable[FakeNode]:
            raise ConnectionError("gone")

    with (
        running_driver(BrokenGrid({}), timeout=30.0) as setup,
        pytest.raises(RunError, match="Grid fails: ConnectionError: gone"),
    ):
        setup.coordinator.exchange(plan(), BOTH, None)


def test_the_status_page_shows_the_events_of_the_nodes() -> None:
    grid = FakeGrid({7: 0, 9: "failing"})
    seen: dict[int, float] = {}
    config = parse_config({"train": {"rounds": 3}})
    fleet = CoordinatorFleet(config, 2, lambda: seen, dict)
    with running_driver(grid, ParticipationConfig(min_reports=1, deadline_s=0.2), seen=seen) as setup:
        setup.coordinator.exchange(plan(), BOTH, None)
    for event in setup.events:
        fleet.note(**event)
    first, second = fleet.snapshot().devices
    assert (first.answered, second.answered) == (1, 0)
    assert first.seen is not None
    assert second.seen is None
    assert [count.reason for count in fleet.snapshot().refused] == ["failed"]
