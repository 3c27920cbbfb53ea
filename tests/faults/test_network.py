"""Coordinator and devices over a bad link: the run ends with the teacher and the models of an undisturbed run."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from edgefd_client.state import DeviceState, load_state
from edgefd_server.certs import add_device, init

from edgefd.core.knowledge import Knowledge
from edgefd.wire import messages as wire
from tests.support.federations import ExportedFederation, export_federation, small, undisturbed
from tests.support.fork_server import environment
from tests.support.lossy_link import LossyLink, lossy_link
from tests.support.waiting import until

CLIENTS, ROUNDS = 3, 4
INTERRUPTION = 6.0  # seconds
LIMIT = 400.0
EDGEFD, DEVICE = ([sys.executable, "-m", module] for module in ("edgefd", "edgefd_client"))
WHERE = environment("proto", "server", "client") | {"PYTHONUNBUFFERED": "1"}
Start = Callable[[int], subprocess.Popen[bytes]]
"""starts the device of a client"""
Events = Callable[[], list[dict[str, object]]]
"""returns the events in the coordinator's log so far"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportedFederation, Knowledge, list[DeviceState]]:
    """Return a federation, and the final teacher and device states of an undisturbed run of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    federation = export_federation(small(CLIENTS, ROUNDS, local_steps=200), folder)
    teachers = undisturbed(federation, folder)
    return federation, teachers[-1], [saved_state(federation, folder / f"state{i}") for i in range(CLIENTS)]


@pytest.mark.slow
def test_two_interruptions_of_the_link_within_a_round_do_not_change_the_result(
    networks: None, expected: tuple[ExportedFederation, Knowledge, list[DeviceState]], tmp_path: Path
) -> None:
    """Interrupt the link for six seconds, once after the round has opened and once after its first report has arrived.

    The round cannot end before the second interruption: device 0 is paused before its report until the link is
    interrupted.
    """
    reports: list[int] = []

    def disturb(link: LossyLink, start: Start, events: Events) -> None:
        def count(round: int, event: str) -> int:
            return sum({"event": event, "round": round}.items() <= e.items() for e in events())

        @contextmanager
        def interruption_after(event: str) -> Iterator[None]:
            until(lambda: count(1, event), LIMIT)
            link.interrupted = True
            yield
            time.sleep(INTERRUPTION)
            reports.append(count(1, "report"))
            link.interrupted = False

        paused = start(0)
        until(lambda: count(0, "report"), LIMIT)
        paused.send_signal(signal.SIGSTOP)
        for i in range(1, CLIENTS):
            start(i)
        with interruption_after("round"):
            pass
        with interruption_after("report"):
            paused.send_signal(signal.SIGCONT)

    link = check_run(expected, tmp_path, disturb)
    assert link.dropped > 0
    assert len(reports) == 2
    assert max(reports) < CLIENTS, "the round was over before the interruption"
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert seconds[1] > 2 * INTERRUPTION


@pytest.mark.slow
def test_a_slow_link_that_loses_a_third_of_the_packets_does_not_change_the_result(
    networks: None, expected: tuple[ExportedFederation, Knowledge, list[DeviceState]], tmp_path: Path
) -> None:
    def start_all(link: LossyLink, start: Start, events: Events) -> None:
        for i in range(CLIENTS):
            start(i)

    link = check_run(expected, tmp_path, start_all, loss=0.3, delay=0.2, fetch=False)
    assert link.lost > 0.2 * (link.lost + link.passed)
    print(f"{link.passed} packets passed, {link.lost} were lost")


def check_run(
    expected: tuple[ExportedFederation, Knowledge, list[DeviceState]],
    folder: Path,
    disturb: Callable[[LossyLink, Start, Events], None],
    loss: float = 0.0,
    delay: float = 0.0,
    fetch: bool = True,
) -> LossyLink:
    """Run the federation with real commands and check that the result is the expected one.

    Whether a device learns in time that the run is over depends on the packets that the link loses; its model does not.

    Args:
        expected: federation, final teacher and final device states.
        folder: folder for all files of the run.
        disturb: starts the devices and changes the link.
        loss: share of packets that the link loses.
        delay: seconds by which the link delays a packet.
        fetch: devices download the bundle from the coordinator.
    """
    federation = expected[0]
    prepare_server(federation, folder)
    devices: dict[int, subprocess.Popen[bytes]] = {}
    with lossy_link(f"ed{os.getpid()}") as link, ExitStack() as processes:
        link.loss, link.delay = loss, delay
        serve = [
            *link.inside(link.near),
            *EDGEFD,
            "serve",
            "grpc",
            str(folder / "config.yaml"),
            "--timeout",
            str(LIMIT),
        ]
        serve += ["--listen", f"{LossyLink.address}:50051", "--certs", str(folder / "certs")]
        serve += ["--bundle", str(federation.bundle), "--out", str(folder / "run")]
        server = processes.enter_context(process(serve, folder / "server.log"))
        until(lambda: "port 50051" in (folder / "server.log").read_text(), LIMIT)

        def start(i: int) -> subprocess.Popen[bytes]:
            join = [*link.inside(link.far), *DEVICE, "run", "--server", f"{LossyLink.address}:50051"]
            join += ["--certs", str(folder / f"certs/devices/d{i}"), "--data", str(federation.data[i])]
            join += ["--state", str(folder / f"state{i}"), *([] if fetch else ["--bundle", str(federation.bundle)])]
            join += ["--cache", str(folder / f"cache{i}")] if fetch else []
            devices[i] = processes.enter_context(process(join, folder / f"device{i}.log"))
            return devices[i]

        disturb(link, start, lambda: events_of(folder))
        assert server.wait(LIMIT) == 0, (folder / "server.log").read_text()
        not_informed = last_event(folder, "not_told").get("clients", [])
        for i, device in devices.items():
            if i in not_informed:  # type: ignore[operator]
                device.terminate()  # it has finished its last round, and would wait for the coordinator until --give-up
            assert device.wait(LIMIT) == 0, (folder / f"device{i}.log").read_text()
    check_result(expected, folder)
    return link


def prepare_server(federation: ExportedFederation, folder: Path) -> None:
    """Write the config and the certificates."""
    init(folder / "certs", [LossyLink.address], 30)
    for i in range(CLIENTS):
        add_device(folder / "certs", f"d{i}", i, 30)
    (folder / "config.yaml").write_text(yaml.safe_dump(federation.prepared.config.to_dict()))


def check_result(expected: tuple[ExportedFederation, Knowledge, list[DeviceState]], folder: Path) -> None:
    """Check that the final teacher and the final device states are the expected ones."""
    federation, teacher, expected_states = expected
    last = last_event(folder, "round")
    assert (last["round"], last["closing"]) == (ROUNDS, True)
    codec = federation.read().manifest.terms.codec
    assert last["teacher_sha256"] == hashlib.sha256(wire.encode(teacher, codec)).hexdigest()
    states = [saved_state(federation, folder / f"state{i}") for i in range(CLIENTS)]
    for state, expected_state in zip(states, expected_states, strict=True):
        assert (state.round, state.report) == (expected_state.round, expected_state.report)
        assert all((state.learner[name] == expected_state.learner[name]).all() for name in expected_state.learner)


def saved_state(federation: ExportedFederation, folder: Path) -> DeviceState:
    state = load_state(folder, federation.read().digest)
    assert state is not None
    return state


def events_of(folder: Path) -> list[dict[str, object]]:
    """Read the events in the coordinator's log, without an incomplete last line."""
    log = folder / "run/link.jsonl"
    lines = log.read_text().splitlines(True) if log.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def last_event(folder: Path, event: str) -> dict[str, object]:
    return next((e for e in reversed(events_of(folder)) if e["event"] == event), {})


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the context lasts, and write its output to `log`."""
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=WHERE)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(10)
