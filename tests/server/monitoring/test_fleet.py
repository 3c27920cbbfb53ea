"""The state of the devices on the status page, from a coordinator's events."""

import math
import time
from dataclasses import replace
from typing import Any

import pytest
from edgefd_server.monitoring.fleet import CoordinatorFleet, RoundTiming, state_of

from edgefd.core.errors import UserError
from tests.support.status_boards import small_config


@pytest.mark.parametrize(
    ("client", "seen", "timing", "expected"),
    [
        (0, None, {}, "never seen"),
        (0, 99.0, None, "waiting"),
        (0, 99.0, {}, "working"),
        (0, 71.0, {}, "working"),  # its call was held open
        (0, 69.0, {}, "late"),
        (0, 99.0, {"answered": frozenset({0})}, "answered"),
        (3, 99.0, {}, "waiting"),  # it is not sampled
        (0, 99.0, {"missed": frozenset({0})}, "late"),
        (0, 101.0, {"missed": frozenset({0})}, "working"),
        (0, 101.0, {"deadline": 5.0}, "late"),
        (0, 101.0, {"deadline": 15.0}, "working"),
    ],
)
def test_the_state_of_a_client_follows_from_its_last_call_and_the_open_round(
    client: int, seen: float | None, timing: dict[str, Any] | None, expected: str
) -> None:
    base = RoundTiming(110.0, 100.0, 30.0, None, frozenset({0, 1, 2}), frozenset(), frozenset())
    assert state_of(client, seen, None if timing is None else replace(base, **timing)) == expected


def test_a_coordinators_events_give_the_state_of_each_device() -> None:
    seen: dict[int, float] = {}
    fleet = CoordinatorFleet(small_config(), 3, lambda: seen, lambda: {0: "hall", 1: "yard"})
    assert [d.state for d in fleet.snapshot().devices] == ["never seen"] * 3
    before = time.time()
    seen |= {0: time.monotonic(), 1: time.monotonic()}
    after = time.time()
    assert fleet.snapshot().devices[0].state == "waiting"
    fleet.note("round", round=0, closing=False, teacher_bytes=0)
    fleet.note("report", client=1, round=0, bytes=9)
    fleet.note("refused", call="SubmitReport", reason="content", line="bad row " * 99, device="hall", peer="a")
    fleet.note("refused", call="Join", reason="certificate", line="unknown", device="stranger", peer="b")
    snapshot = fleet.snapshot()
    assert snapshot.opened is not None
    assert (snapshot.opened.round, snapshot.opened.asked, snapshot.opened.reports) == (0, 3, 1)
    assert [(d.name, d.state, d.answered, d.refused) for d in snapshot.devices] == [
        ("hall", "working", 0, 1),
        ("yard", "answered", 1, 0),
        ("", "never seen", 0, 0),
    ]
    assert len(snapshot.devices[0].last_refusal) == 300
    assert before - 1 <= (snapshot.devices[0].seen or 0) <= after + 1  # a wall clock, give or take its adjustment
    assert [(r.reason, r.count) for r in snapshot.refused] == [("certificate", 1), ("content", 1)]


def test_without_certificates_a_refusal_is_attributed_by_the_address_of_the_join() -> None:
    fleet = CoordinatorFleet(small_config(), 3, dict, dict)
    fleet.note("join", client=2, peer="ipv4:1", version="1.2", free_disk_mib=9, clock_offset=0.0)
    fleet.note("join", client=2, peer="ipv4:1")
    assert [device.facts for device in fleet.snapshot().devices] == ["", "", "1.2, disk 9 MiB free, clock +0.0 s"]
    fleet.note("refused", call="SubmitReport", reason="content", line="no", device="", peer="ipv4:1")
    fleet.note("refused", call="SubmitReport", reason="content", line="no", device="", peer="ipv4:2")
    assert [d.refused for d in fleet.snapshot().devices] == [0, 0, 1]
    assert fleet.snapshot().refused[0].count == 2


def test_names_that_cannot_be_read_are_reported_on_the_page() -> None:
    def names() -> dict[int, str]:
        raise UserError("cannot read devices.json")

    snapshot = CoordinatorFleet(small_config(), 3, dict, names).snapshot()
    assert snapshot.trouble == "cannot read devices.json"
    assert len(snapshot.devices) == 3


def test_the_events_of_an_exchange_folder_give_the_state_of_each_device() -> None:
    """A waiting device leaves no trace in a folder: one that has not reported may be working."""
    seen: dict[int, float] = {1: time.monotonic() - 1000}
    fleet = CoordinatorFleet(small_config(), 3, lambda: seen, dict, math.inf)
    fleet.note("round", round=0, closing=False, asked=3)
    fleet.note("report", client=0, round=0, bytes=9)
    fleet.note("refused", call="Folder", reason="content", line="row 1 is not finite", round=0, client=1)
    seen[0] = time.monotonic()
    devices = fleet.snapshot().devices
    assert [(d.state, d.answered, d.refused) for d in devices] == [
        ("answered", 1, 0),
        ("working", 0, 1),
        ("never seen", 0, 0),
    ]
    assert devices[1].last_refusal == "row 1 is not finite"
    fleet.note("round", round=1, closing=False, asked=3)
    assert [d.state for d in fleet.snapshot().devices] == ["working", "late", "never seen"]
