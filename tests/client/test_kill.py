"""Kill -9 whenever it comes: no round is submitted twice differently, no torn state is used, the run ends the same."""

import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import IO

import pytest
from edgefd_client.link import Link, Task
from edgefd_client.state import DeviceState, load_state

from edgefd.core.knowledge import Knowledge
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import report_file
from tests.support.federations import Dealt, coordinate, dealt, same, small, undisturbed
from tests.support.fork_server import ForkServer, environment, fork_server, fresh

CLIENTS, ROUNDS = 2, 40
POINT_ROUNDS, FRESH, TIMED = 5, 8, 20
"""kills: at every write of so many rounds; then of new interpreters and of forks, whenever it comes"""
IMPORTS = """
import edgefd_client.agent, edgefd_client.folder_link
from edgefd_client.cli import main
"""
WHERE = environment("proto", "client")


def arguments(made: Dealt, folder: Path, client: int) -> list[str]:
    data, state = made.data[client], folder / f"state{client}"
    where = ["--bundle", str(made.bundle), "--data", str(data), "--state", str(state)]
    return ["run", *where, "--exchange", str(folder / "exchange"), "--client", str(client)]


def kills(made: Dealt, folder: Path, devices: ForkServer, log: IO[bytes]) -> Iterator[tuple[int, int]]:
    """A client, and how it ended when it was to be killed."""
    for round in range(POINT_ROUNDS):
        for client in range(CLIENTS):
            points = cycle((0, 1))  # before and after what it writes first: one write more at every second start
            while not report_file(folder / "exchange", round, client).exists():
                devices.start(arguments(made, folder, client), next(points))
                yield client, devices.ended()
    rng = random.Random(7)
    for client in islice(cycle(range(CLIENTS)), FRESH):
        yield client, fresh(["edgefd_client", *arguments(made, folder, client)], rng.uniform(0.3, 1), WHERE, log)
    for client in islice(cycle(range(CLIENTS)), TIMED):
        yield client, devices.killed(arguments(made, folder, client), rng.uniform(0, 0.2))


def digest_of(state: DeviceState) -> str:
    arrays = b"".join(state.learner[name].tobytes() for name in sorted(state.learner))
    return hashlib.sha256(arrays + state.acceptance.tobytes() + state.report).hexdigest()


class Recorded:
    """A link that notes the state that was saved before each submission."""

    def __init__(self, link: Link, client: int, made: Dealt, folder: Path, found: dict[tuple[int, int], str]) -> None:
        self.link, self.client, self.found = link, client, found
        self.bundle, self.state = made.read().digest, folder / f"state{client}"

    @property
    def run(self) -> str:
        return self.link.run

    def next_task(self, after: int) -> Task | None:
        self.note()
        return self.link.next_task(after)

    def submit(self, report: bytes, round: int) -> None:
        self.note()
        self.link.submit(report, round)

    def note(self) -> None:
        saved = load_state(self.state, self.bundle)
        assert saved is not None
        self.found[self.client, saved.round] = digest_of(saved)


@pytest.mark.slow
def test_kill_9_at_any_point_changes_nothing(tmp_path: Path) -> None:
    made = dealt(small(CLIENTS, ROUNDS, local_steps=40), tmp_path / "federation")
    states: dict[tuple[int, int], str] = {}
    calm = tmp_path / "calm"
    expected = undisturbed(made, calm, lambda link, i: Recorded(link, i, made, calm, states))

    folder = tmp_path / "killed"
    teachers: list[Knowledge] = []
    transport = made.open(folder / "exchange", timeout=120)
    coordinator = threading.Thread(target=lambda: teachers.extend(coordinate(made, transport)), daemon=True)
    coordinator.start()
    first_seen: dict[Path, str] = {}
    killed = 0
    log = tmp_path / "clients.log"
    with log.open("wb") as errors, fork_server(IMPORTS, WHERE, errors) as devices:
        for client, code in kills(made, folder, devices, errors):
            assert code == -signal.SIGKILL, f"{code}: {log.read_text()}"
            killed += 1
            look_at_reports(folder / "exchange", first_seen)
            saved = load_state(folder / f"state{client}", made.read().digest)
            assert saved is None or digest_of(saved) == states[client, saved.round]
        finish = [["edgefd_client", *arguments(made, folder, i)] for i in range(CLIENTS)]
        survivors = [threading.Thread(target=fresh, args=(command, 60.0, WHERE, errors)) for command in finish]
        for thread in survivors:
            thread.start()
        for thread in (*survivors, coordinator):
            thread.join(timeout=60)
    look_at_reports(folder / "exchange", first_seen)
    print(f"{killed} kills")
    assert killed >= 50
    assert len(first_seen) == CLIENTS * (ROUNDS + 1)
    assert not list((folder / "exchange").rglob("*.refused"))
    assert same(teachers, expected)
    assert wire.encode(teachers[-1], "float32") == wire.encode(expected[-1], "float32")
    for client in range(CLIENTS):
        for round in range(ROUNDS + 1):
            calm_one, other = (report_file(f / "exchange", round, client).read_bytes() for f in (calm, folder))
            assert calm_one == other


def look_at_reports(exchange: Path, first_seen: dict[Path, str]) -> None:
    """Each is what it was when it was first seen."""
    for path in exchange.glob("rounds/*/reports/[0-9]*.bin"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert first_seen.setdefault(path, digest) == digest, path
