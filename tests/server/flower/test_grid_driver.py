"""`GridDriver` on a Grid in memory: who is sent what, whose answer counts, what is refused."""

import threading
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
from edgefd_server.flower import grid_driver as flower_door
from edgefd_server.flower.grid_driver import GridDriver, run_driver
from edgefd_server.monitoring.fleet import CoordinatorFleet
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from edgefd.config.load import parse_config
from edgefd.core.errors import RunError
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan, Training
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.rounds.participation import ParticipationConfig
from edgefd.wire import messages as wire

TERMS = FederationTerms("fedmd", {}, "float16", 0, 2, "")
ANSWER = Knowledge(np.array([0, 2]), np.full((2, 2), 0.5, np.float32), np.ones(2, np.float32))

FULL_PARTICIPATION = ParticipationConfig()


def plan(round: int = 1, clients: tuple[int, ...] | None = None) -> RoundPlan:
    return RoundPlan(0, round, np.arange(3), Training(), clients=clients)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):  # a Message can be made in a Flower process only
        monkeypatch.setattr(TaskIdentity, name, 1)
    for name in ("LOOK", "FIRST_PAUSE", "LAST_PAUSE"):
        monkeypatch.setattr(flower_door, name, 0.0)


@dataclass(frozen=True)
class FakeNode:
    node_id: int
    public_key: bytes


@dataclass
class FakeGrid:
    """`plays`: what each node does, by its number: the client that it says it is, or a word."""

    plays: dict[int, int | str]
    keys: dict[int, bytes] = field(default_factory=dict)
    sent: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    waiting: dict[str, Message] = field(default_factory=dict)

    def get_nodes(self) -> Iterable[FakeNode]:
        return [FakeNode(n, self.keys.get(n, b"made up")) for n in self.plays]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        names = []
        for message in messages:
            names.append(f"m{len(self.sent)}")
            message.metadata.__dict__["_message_id"] = names[-1]
            self.sent.append((message.metadata.dst_node_id, dict(message.content["edgefd"])))
            self.waiting[names[-1]] = message
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [reply for i in sorted(message_ids) if (reply := self.reply(self.waiting[i])) is not None]

    def reply(self, message: Message) -> Message | None:
        node, asked = message.metadata.dst_node_id, dict(message.content["edgefd"])
        match self.plays.get(node):
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
            case int(client) if client not in asked.get("asked", [client]):
                body = {"client": client}
            case client:
                round = wire.decode_plan(asked["plan"]).round
                assert isinstance(client, int)
                body = {"client": client, "report": wire.encode_report(Report(client, round, ANSWER), "float16")}
        return Message(content=RecordDict({"edgefd": ConfigRecord(body)}), reply_to=message)


@dataclass(eq=False)
class Opened:
    coordinator: RoundCoordinator
    grid: FakeGrid
    lines: list[dict[str, Any]]

    def reasons(self) -> set[str]:
        return {line["reason"] for line in self.lines if line["event"] == "refused"}

    def to(self, node: int) -> list[dict[str, Any]]:
        return [body for other, body in self.grid.sent if other == node]


@contextmanager
def opened(
    grid: FakeGrid, rules: ParticipationConfig = FULL_PARTICIPATION, timeout: float = 1.0, **front_end: Any
) -> Iterator[Opened]:
    lines: list[dict[str, Any]] = []
    coordinator = RoundCoordinator(
        FederationInfo("run", 2, TERMS), timeout, lambda event, **rest: lines.append({"event": event, **rest}), rules
    )
    with run_driver(GridDriver(coordinator, grid, **front_end), poll=0.01):
        yield Opened(coordinator, grid, lines)


def test_all_reports_come_and_bytes_are_those_of_the_knowledge() -> None:
    with opened(FakeGrid({7: 1, 9: 0})) as o:
        exchange = o.coordinator.exchange(plan(), ANSWER)
    assert sorted(r.client for r in exchange.reports) == [0, 1]
    size = len(wire.encode(ANSWER, "float16"))
    assert (exchange.bytes_up, exchange.bytes_down) == (2 * size, 2 * size)
    assert o.reasons() == set()


@pytest.mark.parametrize(
    ("plays", "reason"),
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
def test_a_bad_answer_is_refused_and_the_round_goes_on_without_it(plays: int | str, reason: str) -> None:
    rules = ParticipationConfig(min_reports=1, deadline_s=0.2)
    with opened(FakeGrid({7: 0, 9: plays}), rules) as o:
        exchange = o.coordinator.exchange(plan(), None)
        assert [r.client for r in exchange.reports] == [0]
        assert reason in o.reasons()
        assert len(o.to(9)) > 1  # it is sent the round again
        o.grid.plays[9] = 1
        assert sorted(r.client for r in o.coordinator.exchange(plan(2), ANSWER).reports) == [0, 1]


def test_a_node_that_claims_another_ones_client_is_refused_until_that_one_is_gone() -> None:
    rules = ParticipationConfig(min_reports=1)
    with opened(FakeGrid({7: 0}), rules, timeout=5.0) as o:
        o.coordinator.exchange(plan(1), None)
        o.grid.plays[9] = 0
        o.grid.plays[7] = "silent"
        o.coordinator.timeout = 0.3
        with pytest.raises(RunError, match=r"round 2: 0 of 2 reports after 0.3 s"):
            o.coordinator.exchange(plan(2), ANSWER)
        assert o.reasons() == {"claimed"}
        del o.grid.plays[7]  # Flower takes the silent one for gone: what has come back is served again
        o.coordinator.timeout = 5.0
        assert [r.client for r in o.coordinator.exchange(plan(3), ANSWER).reports] == [0]


def test_a_message_that_is_lost_is_sent_again_and_a_slow_answer_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_door, "SILENCE", 0.05)
    with opened(FakeGrid({7: 1, 9: "silent"}), timeout=5.0) as o:
        answers = threading.Timer(0.5, o.grid.plays.__setitem__, (9, 0))
        answers.start()
        assert len(o.coordinator.exchange(plan(), None).reports) == 2
        answers.join()
        times = len(o.to(9))
        assert 2 <= times <= 5, "doubled each time"
        assert [line["unanswered"] for line in o.lines if line["event"] == "silent"] == list(range(1, times))
        assert len(o.to(7)) == 1


def test_who_is_not_asked_says_who_it_is_and_is_not_sent_more() -> None:
    with opened(FakeGrid({7: 0, 9: 1})) as o:
        for round in (1, 2):
            exchange = o.coordinator.exchange(plan(round, clients=(0,)), None)
            assert [r.client for r in exchange.reports] == [0]
        assert o.to(9)[0]["asked"] == [0]
        assert len(o.to(9)) == 1
        assert len(o.coordinator.exchange(plan(3), None).reports) == 2


def test_late_reports_count_as_the_rules_say() -> None:
    rules = ParticipationConfig(min_reports=1, stale_reports="use")
    with opened(FakeGrid({7: 0, 9: "silent"}), rules, timeout=5.0) as o:
        o.coordinator.exchange(plan(1), None)
        o.grid.plays[9] = 1
        o.grid.plays[7] = "silent"
        reports = o.coordinator.exchange(plan(2), ANSWER).reports
        assert {(r.client, r.round) for r in reports} <= {(0, 2), (1, 1), (1, 2)}
        assert 1 in {r.client for r in reports}


def test_a_key_says_who_a_node_is_and_revoking_it_shuts_it_out(tmp_path: Path) -> None:
    certs.init(tmp_path / "c", ["localhost"], 2)
    for client in (0, 1):
        certs.add_node(tmp_path / "c", f"node{client}", client)
    keys = [d.node_key.encode() for d in certs.read_devices(tmp_path / "c").values()]
    grid = FakeGrid({7: 0, 9: 1, 11: 1}, {7: keys[0], 9: keys[1], 11: b"unknown"})
    with opened(grid, allowed=certs.AllowList(tmp_path / "c")) as o:
        assert len(o.coordinator.exchange(plan(1), None).reports) == 2
        assert (o.to(7)[0]["client"], o.to(9)[0]["client"], o.to(11)) == (0, 1, [])
        grid.plays[9] = 0  # it claims another client than its key's
        o.coordinator.timeout = 0.3
        with pytest.raises(RunError, match="no report of client 1"):
            o.coordinator.exchange(plan(2), ANSWER)
        assert o.reasons() == {"certificate", "client"}
        certs.revoke(tmp_path / "c", "node1")
        with pytest.raises(RunError, match="no report of client 1"):
            o.coordinator.exchange(plan(3), ANSWER)
        assert all(wire.decode_plan(body["plan"]).round < 3 for body in o.to(9)[1:-1])


def test_a_simulated_client_that_fails_ends_the_run() -> None:
    with opened(FakeGrid({7: 0, 9: "failing"}), timeout=30.0, config="seed: 0") as o:
        with pytest.raises(RunError, match="round 1: no data"):
            o.coordinator.exchange(plan(), None)
        assert all(body["config"] == "seed: 0" for body in o.to(7))


def test_a_simulation_with_too_many_nodes_ends() -> None:
    grid = FakeGrid({7: 0, 9: "silent", 11: 1})
    with opened(grid, timeout=30.0, config="seed: 0") as o, pytest.raises(RunError, match="set num-supernodes to 2"):
        o.coordinator.exchange(plan(), None)


def test_a_grid_that_fails_for_long_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flower_door, "PATIENCE", 0.5)

    class Broken(FakeGrid):
        def get_nodes(self) -> Iterable[FakeNode]:
            raise ConnectionError("gone")

    with opened(Broken({}), timeout=30.0) as o, pytest.raises(RunError, match="Grid fails: ConnectionError: gone"):
        o.coordinator.exchange(plan(), None)


def test_the_status_page_reads_along() -> None:
    grid = FakeGrid({7: 0, 9: "failing"})
    seen: dict[int, float] = {}
    config = parse_config({"train": {"rounds": 3}})
    fleet = CoordinatorFleet(config, 2, lambda: seen, dict)
    with opened(grid, ParticipationConfig(min_reports=1, deadline_s=0.2), seen=seen) as o:
        o.coordinator.exchange(plan(), None)
    for line in o.lines:
        fleet.note(**line)
    first, second = fleet.snapshot().devices
    assert (first.answered, second.answered) == (1, 0)
    assert first.seen is not None
    assert second.seen is None
    assert [refused.reason for refused in fleet.snapshot().refused] == ["failed"]
