"""The device link as processes: whoever dies, in whatever phase of a round, the run ends as a calm one."""

import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.federation_fixture import FederationFixture, Fleet, federation_fixture, fleet
from tests.support.federations import small

pytestmark = pytest.mark.slow

CLIENTS, ROUNDS = 5, 24
ALL = tuple(range(CLIENTS))
KILLED = -signal.SIGKILL
BEGINNING = ("begin before 1", "begin after 1", "listen before 1")
PHASES = (
    *("listen before 1", "join before 1", f"join after {CLIENTS}", "open before 1", "open after 2"),
    *("hand out after 2", f"report before {CLIENTS + 1}", f"report after {CLIENTS + 1}", f"report after {2 * CLIENTS}"),
    *("collect after 2", "aggregate after 2", "checkpoint before 2", "checkpoint after 2"),
    *("metrics before 2", "metrics after 2", "open before 2"),
)
ENDING = ("summary before 1", "end before 1", "end after 1")


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> FederationFixture:
    return federation_fixture(small(CLIENTS, ROUNDS), tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def calm(five: FederationFixture, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    with fleet(five, tmp_path_factory.mktemp("calm") / "fleet") as run:
        run.start(*ALL)
        run.completed(*ALL)
    assert {event["event"] for event in run.lines()} == {"join", "round", "report", "end"}
    return run


def test_kill_9_of_the_server_in_every_phase_changes_nothing(
    five: FederationFixture, calm: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "killed") as run:
        for where in BEGINNING:
            run.server.start(where)
            assert run.server.ended() == KILLED, (where, run.server.output())
        for device in run.devices:
            device.start()
        rounds = []
        for where in (*PHASES, *ENDING):
            run.server.start(where)
            assert run.server.ended() == KILLED, (where, run.server.output())
            rounds.append(len(run.metrics()))
        run.server.start("")
        run.completed(*ALL)
        print(f"{len(BEGINNING) + len(rounds)} kills; rounds done after each: {rounds}")
        assert run.result() == calm.result()
        refused = {line["reason"] for line in run.lines("refused")}
        assert refused <= {"session", "early", "round"}  # of a server that was restarted


def test_kill_9_of_two_devices_of_five_in_a_round_that_waits_for_them(
    five: FederationFixture, calm: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet") as run:
        run.start(0, 2, 4)
        for i, point in ((1, 6), (3, 7)):  # before and after round 2 is saved: its write number 3
            run.devices[i].start(point=point)
        for i in (1, 3):
            assert run.devices[i].ended() == KILLED, run.devices[i].output()
        assert len(run.metrics()) == 2
        for i in (1, 3):
            run.devices[i].start()
        run.completed(*ALL)
        assert run.result() == calm.result()


def test_kill_9_of_two_devices_of_five_in_a_round_that_needs_three(five: FederationFixture, tmp_path: Path) -> None:
    rules = ("coordinator.min_reports=3", "coordinator.deadline_s=0.5")
    with fleet(five, tmp_path / "fleet", *rules) as run:
        run.start(0, 2, 4)
        for i, point in ((1, 6), (3, 7)):
            run.devices[i].start(point=point)
        for i in (1, 3):
            assert run.devices[i].ended() == KILLED, run.devices[i].output()
        run.completed(0, 2, 4)
        found = answered(run)
        assert len(found) == ROUNDS
        assert found[-1] == {0, 2, 4}
        assert all(len(clients) >= 3 for clients in found)


def answered(run: Fleet) -> list[set[int]]:
    """Whose reports counted in each round but the closing one."""
    kept = [line["kept_per_client"] for line in run.metrics() if not line["closing"]]
    return [{i for i, share in enumerate(shares) if share is not None} for shares in kept]


def test_devices_join_late_leave_and_return(five: FederationFixture, tmp_path: Path) -> None:
    """A round needs three, so each change shows before the next is made. Device 4 never comes."""
    rules = ("coordinator.min_reports=3", "coordinator.deadline_s=0.2", "coordinator.stale_reports=use")
    with fleet(five, tmp_path / "fleet", *rules) as run:
        run.start(0, 1, 2)
        run.wait(lambda: len(answered(run)) >= 2)
        assert run.devices[0].kill(signal.SIGTERM) == 0
        run.devices[3].start()
        run.wait(lambda: answered(run)[-1] == {1, 2, 3})
        assert run.devices[1].kill(signal.SIGTERM) == 0
        run.devices[0].start()
        run.completed(0, 2, 3)
        found = answered(run)
        assert found[0] == {0, 1, 2}
        assert {1, 2, 3} in found
        assert found[-1] == {0, 2, 3}
        assert "round 2" not in run.devices[3].output()  # it went on from the newest teacher


def test_of_two_devices_with_one_certificate_the_newer_goes_on(
    five: FederationFixture, calm: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet", twin=0) as run:
        run.start(0, 2, 3, 4)
        run.wait(lambda: any(line["client"] == 0 for line in run.lines("report")))
        run.devices[CLIENTS].start()  # round 0 waits for client 1; the twin's report has the same bytes, and is known
        assert run.devices[0].ended() == 1
        assert "two devices use one certificate" in run.devices[0].output()
        run.devices[1].start()
        run.completed(1, 2, 3, 4, CLIENTS)
        found, expected = run.result(), calm.result()
        assert found[:2] == expected[:2]
        assert found[2][CLIENTS] == expected[2][0]
        assert not [line for line in run.lines("refused") if line["reason"] != "superseded"]


def test_devices_give_up_a_server_that_is_gone_and_go_on_when_it_is_back(
    five: FederationFixture, calm: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet", give_up=5) as run:
        run.start(*ALL)
        run.wait(lambda: len(run.metrics()) >= 2)
        run.server.kill()
        for device in run.devices:
            assert device.ended() == 1
            assert re.search(r"error: the coordinator has not answered for \d+ s .*the state is kept", device.output())
        run.start(*ALL)
        run.completed(*ALL)
        assert run.result() == calm.result()


def test_a_server_that_is_told_to_stop_tells_its_devices_and_goes_on_later(
    five: FederationFixture, calm: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet") as run:
        run.start(*ALL)
        run.wait(lambda: len(run.metrics()) >= 2)
        assert run.server.kill(signal.SIGTERM) == 130
        for device in run.devices:
            assert device.ended() == 1
            assert "error: the coordinator stopped: the rounds done so far" in device.output()
        run.start(*ALL)
        run.completed(*ALL)
        assert run.result() == calm.result()


@contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """A disk of 512 KiB."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, timeout=10).returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


def fill(folder: Path) -> Path:
    """Leave no room on the disk."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return filler


def stopped_and_resumed(run: Fleet, calm: Fleet, again: Path | None, says: str) -> None:
    assert run.server.ended() == 1
    errors = [line for line in run.server.output().splitlines() if line]
    assert errors[0].startswith("error: cannot write ")
    assert says in " ".join(errors)
    assert "Traceback" not in run.server.output()
    for device in run.devices:
        assert device.ended() == 1
        assert "error: the coordinator stopped: cannot write " in device.output()
    if again is not None:
        again.unlink()
    done = len(run.metrics())
    run.start(*ALL)
    run.completed(*ALL)
    assert 1 <= done <= ROUNDS
    assert run.result() == calm.result()


def test_a_full_disk_stops_the_run_with_a_line_and_it_goes_on_later(
    five: FederationFixture, calm: Fleet, tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "disk"), fleet(five, tmp_path / "fleet", out=tmp_path / "disk" / "run") as run:
        run.start(*ALL)
        run.wait(lambda: len(run.metrics()) >= 2)
        stopped_and_resumed(run, calm, fill(tmp_path / "disk"), "No space left on device")


def test_so_does_a_limit_on_the_size_of_files(five: FederationFixture, calm: Fleet, tmp_path: Path) -> None:
    with fleet(five, tmp_path / "fleet") as run:
        run.start(*ALL)
        run.wait(lambda: len(run.metrics()) >= 2)
        assert run.server.pid is not None
        size = (run.out / "checkpoint.bin").stat().st_size
        resource.prlimit(run.server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        stopped_and_resumed(run, calm, None, "File too large")
