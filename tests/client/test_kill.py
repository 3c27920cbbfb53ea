"""Kill -9 at any moment: no report changes, no incomplete state is used, and the run ends with the same teacher."""

import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import IO

import pytest
from edgefd_client.link import Link, Membership, Task
from edgefd_client.state import DeviceState, load_state

from edgefd.core.knowledge import Knowledge
from edgefd.rounds.validation import ExpectedTask
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import report_file
from tests.support.federations import ExportedFederation, coordinate, export_federation, same, small, undisturbed
from tests.support.fork_server import ForkServer, environment, fork_server, fresh

CLIENTS, ROUNDS = 2, 40
POINT_ROUNDS, FRESH, TIMED = 5, 8, 20
"""rounds in which a device is killed at every write; then kills of new interpreters, and of forks, at random moments"""
LIMIT = 400.0
"""seconds that the remaining rounds may take after the last kill"""
IMPORTS = """
import edgefd_client.agent, edgefd_client.folder_link
from edgefd_client.cli import main
"""
WHERE = environment("proto", "client")


def arguments(federation: ExportedFederation, folder: Path, client: int) -> list[str]:
    data, state = federation.data[client], folder / f"state{client}"
    paths = ["--bundle", str(federation.bundle), "--data", str(data), "--state", str(state)]
    return ["run", *paths, "--exchange", str(folder / "exchange"), "--client", str(client)]


def kills(
    federation: ExportedFederation, folder: Path, devices: ForkServer, log: IO[bytes]
) -> Iterator[tuple[int, int]]:
    """Kill devices one after another, and yield the client and the exit code of each."""
    for round in range(POINT_ROUNDS):
        for client in range(CLIENTS):
            points = cycle((0, 1))  # before and after its first write; every second start gets one write further
            while not report_file(folder / "exchange", round, client).exists():
                devices.start(arguments(federation, folder, client), next(points))
                yield client, devices.ended()
    rng = random.Random(7)
    for client in islice(cycle(range(CLIENTS)), FRESH):
        yield client, fresh(["edgefd_client", *arguments(federation, folder, client)], rng.uniform(0.3, 1), WHERE, log)
    for client in islice(cycle(range(CLIENTS)), TIMED):
        yield client, devices.killed(arguments(federation, folder, client), rng.uniform(0, 0.2))


def digest_of(state: DeviceState) -> str:
    arrays = b"".join(state.learner[name].tobytes() for name in sorted(state.learner))
    return hashlib.sha256(arrays + state.acceptance.tobytes() + state.report).hexdigest()


class RecordingLink:
    """A link that records the digest of the saved state before each call."""

    def __init__(
        self, link: Link, client: int, federation: ExportedFederation, folder: Path, states: dict[tuple[int, int], str]
    ) -> None:
        self.link, self.client, self.states = link, client, states
        self.bundle, self.state = federation.read().digest, folder / f"state{client}"

    @property
    def membership(self) -> Membership:
        return self.link.membership

    def next_task(self, after: int, expected: ExpectedTask) -> Task | None:
        self.record()
        return self.link.next_task(after, expected)

    def submit(self, report: bytes, round: int) -> None:
        self.record()
        self.link.submit(report, round)

    def record(self) -> None:
        saved = load_state(self.state, self.bundle)
        assert saved is not None
        self.states[self.client, saved.round] = digest_of(saved)


@pytest.mark.slow
def test_kill_9_at_any_point_changes_nothing(tmp_path: Path) -> None:
    federation = export_federation(small(CLIENTS, ROUNDS, local_steps=40), tmp_path / "federation")
    states: dict[tuple[int, int], str] = {}
    calm = tmp_path / "calm"
    expected = undisturbed(federation, calm, lambda link, i: RecordingLink(link, i, federation, calm, states))

    folder = tmp_path / "killed"
    teachers: list[Knowledge] = []

    def coordinate_all() -> None:
        with federation.open(folder / "exchange", timeout=120) as transport:
            teachers.extend(coordinate(federation, transport))

    coordinator = threading.Thread(target=coordinate_all, daemon=True)
    coordinator.start()
    first_seen: dict[Path, str] = {}
    killed = 0
    log = tmp_path / "clients.log"
    with log.open("wb") as errors, fork_server(IMPORTS, WHERE, errors) as devices:
        for client, code in kills(federation, folder, devices, errors):
            assert code == -signal.SIGKILL, f"{code}: {log.read_text()}"
            killed += 1
            check_reports_unchanged(folder / "exchange", first_seen)
            saved = load_state(folder / f"state{client}", federation.read().digest)
            assert saved is None or digest_of(saved) == states[client, saved.round]
        finish = [["edgefd_client", *arguments(federation, folder, i)] for i in range(CLIENTS)]
        survivors = [threading.Thread(target=fresh, args=(command, LIMIT, WHERE, errors)) for command in finish]
        for thread in survivors:
            thread.start()
        for thread in (*survivors, coordinator):
            thread.join(timeout=LIMIT)
    check_reports_unchanged(folder / "exchange", first_seen)
    print(f"{killed} kills")
    assert killed >= 50
    assert len(first_seen) == CLIENTS * (ROUNDS + 1)
    assert not list((folder / "exchange").rglob("*.refused"))
    assert same(teachers, expected)
    assert wire.encode(teachers[-1], "float32") == wire.encode(expected[-1], "float32")
    for client in range(CLIENTS):
        for round in range(ROUNDS + 1):
            undisturbed_report, report = (
                report_file(run / "exchange", round, client).read_bytes() for run in (calm, folder)
            )
            assert report == undisturbed_report


def check_reports_unchanged(exchange: Path, first_seen: dict[Path, str]) -> None:
    """Check that each report is the same as when it was first seen."""
    for path in exchange.glob("rounds/*/reports/[0-9]*.bin"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert first_seen.setdefault(path, digest) == digest, path
