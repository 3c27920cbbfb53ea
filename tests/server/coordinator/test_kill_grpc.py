"""The device link as processes: a run whose processes are killed in any phase has the results of an undisturbed one."""

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
    codec = {"name": "simplex15", "changes_above": 0.02}  # the codec with most state on both sides
    return federation_fixture(small(CLIENTS, ROUNDS, sections={"codec": codec}), tmp_path_factory.mktemp("five"))


@pytest.fixture(scope="module")
def undisturbed(five: FederationFixture, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    with fleet(five, tmp_path_factory.mktemp("undisturbed") / "fleet") as run:
        run.start(*ALL)
        run.completed(*ALL)
    assert {event["event"] for event in run.lines()} == {"join", "round", "report", "end"}
    return run


def test_kill_9_of_the_grpc_server_in_every_phase_changes_no_result(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "killed") as run:
        for crash_point in BEGINNING:
            run.server.start(crash_point)
            assert run.server.ended() == KILLED, (crash_point, run.server.output())
        for device in run.devices:
            device.start()
        rounds = []
        for crash_point in (*PHASES, *ENDING):
            run.server.start(crash_point)
            assert run.server.ended() == KILLED, (crash_point, run.server.output())
            rounds.append(len(run.metrics()))
        run.server.start("")
        run.completed(*ALL)
        print(f"{len(BEGINNING) + len(rounds)} kills; rounds done after each: {rounds}")
        assert run.result() == undisturbed.result()
        refused = {line["reason"] for line in run.lines("refused")}
        assert refused <= {"session", "early", "round"}  # refusals of a restarted server


def test_a_round_of_five_waits_for_two_devices_that_were_killed(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet") as run:
        run.start(0, 2, 4)
        points = ((1, 8), (3, 9))  # before and after the save of round 2, write number 4: number 0 is the bundle
        for i, point in points:
            run.devices[i].start(point=point)
        for i in (1, 3):
            assert run.devices[i].ended() == KILLED, run.devices[i].output()
        assert len(run.metrics()) == 2
        for i in (1, 3):
            run.devices[i].start()
        run.completed(*ALL)
        assert run.result() == undisturbed.result()


def test_a_round_that_needs_three_of_five_ends_without_two_devices_that_were_killed(
    five: FederationFixture, tmp_path: Path
) -> None:
    rules = ("coordinator.min_reports=3", "coordinator.deadline_s=0.5")
    with fleet(five, tmp_path / "fleet", *rules) as run:
        run.start(0, 2, 4)
        for i, point in ((1, 8), (3, 9)):
            run.devices[i].start(point=point)
        for i in (1, 3):
            assert run.devices[i].ended() == KILLED, run.devices[i].output()
        run.completed(0, 2, 4)
        clients_of_rounds = responding_clients(run)
        assert len(clients_of_rounds) == ROUNDS
        assert clients_of_rounds[-1] == {0, 2, 4}
        assert all(len(clients) >= 3 for clients in clients_of_rounds)


def responding_clients(run: Fleet) -> list[set[int]]:
    """Return the clients whose reports counted in each round, without the closing round."""
    fractions = [line["kept_per_client"] for line in run.metrics() if not line["closing"]]
    return [{i for i, fraction in enumerate(of_round) if fraction is not None} for of_round in fractions]


def test_devices_may_join_late_leave_and_return(five: FederationFixture, tmp_path: Path) -> None:
    """A round needs three devices, so each change takes effect before the next one. Device 4 never joins."""
    rules = ("coordinator.min_reports=3", "coordinator.deadline_s=0.2", "coordinator.stale_reports=use")
    with fleet(five, tmp_path / "fleet", *rules) as run:
        run.start(0, 1, 2)
        run.wait(lambda: len(responding_clients(run)) >= 2)
        assert run.devices[0].kill(signal.SIGTERM) == 0
        run.devices[3].start()
        run.wait(lambda: responding_clients(run)[-1] == {1, 2, 3})
        assert run.devices[1].kill(signal.SIGTERM) == 0
        run.devices[0].start()
        run.completed(0, 2, 3)
        clients_of_rounds = responding_clients(run)
        assert clients_of_rounds[0] == {0, 1, 2}
        assert {1, 2, 3} in clients_of_rounds
        assert clients_of_rounds[-1] == {0, 2, 3}
        assert "round 2" not in run.devices[3].output()  # it began with the newest teacher


def test_of_two_devices_with_one_certificate_the_newer_one_continues(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet", twin=0) as run:
        run.start(0, 2, 3, 4)
        run.wait(lambda: any(line["client"] == 0 for line in run.lines("report")))
        run.devices[CLIENTS].start()  # round 0 waits for client 1; the twin's report has the same bytes and counts once
        assert run.devices[0].ended() == 1
        assert "two devices use one certificate" in run.devices[0].output()
        run.devices[1].start()
        run.completed(1, 2, 3, 4, CLIENTS)
        result, expected = run.result(), undisturbed.result()
        assert result[:2] == expected[:2]
        assert result[2][CLIENTS] == expected[2][0]
        assert not [line for line in run.lines("refused") if line["reason"] != "superseded"]


def test_devices_give_up_a_killed_server_and_continue_when_it_runs_again(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
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
        assert run.result() == undisturbed.result()


def test_a_server_stopped_by_sigterm_informs_its_devices_and_can_be_resumed(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
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
        assert run.result() == undisturbed.result()


@contextmanager
def tmpfs(folder: Path) -> Iterator[None]:
    """Mount a disk of 512 KiB while the context lasts."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, timeout=10).returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=10)


def fill(folder: Path) -> Path:
    """Fill the disk of a folder, and return the file that does."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return filler


def check_stopped_and_resumed(run: Fleet, undisturbed: Fleet, filler: Path | None, reason: str) -> None:
    """Check that the run stops with an error, and that it can be resumed once the filler is removed."""
    assert run.server.ended() == 1
    errors = [line for line in run.server.output().splitlines() if line and " warning " not in line]
    assert errors[0].startswith("error: cannot write ")
    assert reason in " ".join(errors)
    assert "Traceback" not in run.server.output()
    for device in run.devices:
        assert device.ended() == 1
        assert "error: the coordinator stopped: cannot write " in device.output()
    if filler is not None:
        filler.unlink()
    completed = len(run.metrics())
    run.start(*ALL)
    run.completed(*ALL)
    assert 1 <= completed <= ROUNDS
    assert run.result() == undisturbed.result()


def test_a_full_disk_stops_the_run_with_one_line_and_it_can_be_resumed(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
) -> None:
    with tmpfs(tmp_path / "disk"), fleet(five, tmp_path / "fleet", out=tmp_path / "disk" / "run") as run:
        run.start(*ALL)
        run.wait(lambda: len(run.metrics()) >= 2)
        check_stopped_and_resumed(run, undisturbed, fill(tmp_path / "disk"), "No space left on device")


def test_a_limit_on_the_size_of_files_stops_the_run_with_one_line_and_it_can_be_resumed(
    five: FederationFixture, undisturbed: Fleet, tmp_path: Path
) -> None:
    with fleet(five, tmp_path / "fleet") as run:
        run.start(*ALL)
        run.wait(lambda: len(run.metrics()) >= 2)
        assert run.server.pid is not None
        size = (run.out / "checkpoint.bin").stat().st_size
        resource.prlimit(run.server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        check_stopped_and_resumed(run, undisturbed, None, "File too large")
