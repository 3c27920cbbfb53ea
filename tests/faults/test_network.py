"""Coordinator and devices in two places, with a bad cable between them: the run ends with the teacher of a calm one."""

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
from tests.support.federations import Dealt, dealt, small, undisturbed
from tests.support.lossy_link import Cable, cable
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
CLIENTS, ROUNDS = 3, 4
CUT = 6.0  # seconds
LIMIT = 400.0
EDGEFD, DEVICE = ([sys.executable, "-m", module] for module in ("edgefd", "edgefd_client"))
Start = Callable[[int], subprocess.Popen[bytes]]
"""starts a client's device"""
Events = Callable[[], list[dict[str, object]]]
"""the coordinator's log so far"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dealt, Knowledge, list[DeviceState]]:
    """A federation, and the final teacher and device states of a run of it that nothing disturbs."""
    folder = tmp_path_factory.mktemp("calm")
    made = dealt(small(CLIENTS, ROUNDS, local_steps=200), folder)
    teachers = undisturbed(made, folder)
    return made, teachers[-1], [newest(made, folder / f"state{i}") for i in range(CLIENTS)]


@pytest.mark.slow
def test_a_cable_that_is_cut_within_a_round(
    networks: None, calm: tuple[Dealt, Knowledge, list[DeviceState]], tmp_path: Path
) -> None:
    """Twice, for six seconds, once when the round has opened and once when its first report is in.

    The round cannot end before the second cut: device 0 is stopped from its report before until the cable is cut.
    """
    reports: list[int] = []

    def disturb(between: Cable, start: Start, events: Events) -> None:
        def of_round(round: int, what: str) -> int:
            return sum({"event": what, "round": round}.items() <= e.items() for e in events())

        @contextmanager
        def cut_once_there_is(what: str) -> Iterator[None]:
            until(lambda: of_round(1, what), LIMIT)
            between.cut = True
            yield
            time.sleep(CUT)
            reports.append(of_round(1, "report"))
            between.cut = False

        held = start(0)
        until(lambda: of_round(0, "report"), LIMIT)
        held.send_signal(signal.SIGSTOP)
        for i in range(1, CLIENTS):
            start(i)
        with cut_once_there_is("round"):
            pass
        with cut_once_there_is("report"):
            held.send_signal(signal.SIGCONT)

    between = run(calm, tmp_path, disturb)
    assert between.dropped > 0
    assert len(reports) == 2
    assert max(reports) < CLIENTS, "the round was over before the cut"
    seconds = [json.loads(line)["seconds"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert seconds[1] > 2 * CUT


@pytest.mark.slow
def test_a_cable_that_loses_a_third_and_is_slow(
    networks: None, calm: tuple[Dealt, Knowledge, list[DeviceState]], tmp_path: Path
) -> None:
    def all_at_once(between: Cable, start: Start, events: Events) -> None:
        for i in range(CLIENTS):
            start(i)

    between = run(calm, tmp_path, all_at_once, loss=0.3, delay=0.2, fetch=False)
    assert between.lost > 0.2 * (between.lost + between.passed)
    print(f"{between.passed} packets passed, {between.lost} were lost")


def run(
    calm: tuple[Dealt, Knowledge, list[DeviceState]],
    folder: Path,
    disturb: Callable[[Cable, Start, Events], None],
    loss: float = 0.0,
    delay: float = 0.0,
    fetch: bool = True,
) -> Cable:
    """A whole run with real commands; it ends as the calm one. `disturb` starts the devices. `fetch`: no bundle yet.

    Whether a device learns in time that the run is over depends on what the cable loses; its model does not.
    """
    made, teacher, states = calm
    certs = folder / "certs"
    init(certs, [Cable.address], 30)
    for i in range(CLIENTS):
        add_device(certs, f"d{i}", i, 30)
    (folder / "config.yaml").write_text(yaml.safe_dump(made.prepared.config.to_dict()))

    def events() -> list[dict[str, object]]:
        log = folder / "run/link.jsonl"
        return (
            [json.loads(line) for line in log.read_text().splitlines(True) if line.endswith("\n")]
            if log.exists()
            else []
        )

    with cable(f"ed{os.getpid()}") as between, ExitStack() as started:
        between.loss, between.delay = loss, delay
        serve = [*between.at(between.near), *EDGEFD, "server", str(folder / "config.yaml"), "--timeout", str(LIMIT)]
        serve += ["--listen", f"{Cable.address}:50051", "--certs", str(certs), "--bundle", str(made.bundle)]
        server = started.enter_context(process([*serve, "--out", str(folder / "run")], folder / "server.log"))
        until(lambda: "port 50051" in (folder / "server.log").read_text(), LIMIT)
        devices: dict[int, subprocess.Popen[bytes]] = {}

        def start(i: int) -> subprocess.Popen[bytes]:
            join = [*between.at(between.far), *DEVICE, "run", "--server", f"{Cable.address}:50051"]
            join += ["--certs", str(certs / f"devices/d{i}"), "--data", str(made.data[i])]
            join += ["--state", str(folder / f"state{i}"), *([] if fetch else ["--bundle", str(made.bundle)])]
            devices[i] = started.enter_context(process(join, folder / f"device{i}.log"))
            return devices[i]

        disturb(between, start, events)
        assert server.wait(LIMIT) == 0, (folder / "server.log").read_text()
        untold = _last(events(), "not_told").get("clients", [])
        for i, device in devices.items():
            if i in untold:  # type: ignore[operator]
                device.terminate()  # it has its last round, and would wait for the coordinator until it gives up
            assert device.wait(LIMIT) == 0, (folder / f"device{i}.log").read_text()
    found = [newest(made, folder / f"state{i}") for i in range(CLIENTS)]
    last = _last(events(), "round")
    assert (last["round"], last["closing"]) == (ROUNDS, True)
    codec = made.prepared.config.codec.name
    assert last["teacher_sha256"] == hashlib.sha256(wire.encode(teacher, codec)).hexdigest()
    for one, other in zip(found, states, strict=True):
        assert (one.round, one.report) == (other.round, other.report)
        assert all((one.learner[name] == other.learner[name]).all() for name in other.learner)
    return between


def newest(made: Dealt, folder: Path) -> DeviceState:
    saved = load_state(folder, made.read().digest)
    assert saved is not None
    return saved


def _last(events: list[dict[str, object]], what: str) -> dict[str, object]:
    return next((e for e in reversed(events) if e["event"] == what), {})


@contextmanager
def process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    path = os.pathsep.join(str(ROOT / part) for part in ("", "proto", "server", "client"))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    try:
        yield started
    finally:
        if started.poll() is None:
            started.kill()
        started.wait(10)
