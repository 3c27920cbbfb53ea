"""Leases: one holder at a time, dead holders are taken over, whatever the clocks of the machines show."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from edgefd.core import leases
from edgefd.core.errors import InUse
from edgefd.core.leases import DEAD_AFTER_SECONDS, lease
from tests.support.commands import env

HOLD = """
import sys, time
from pathlib import Path
from edgefd.core.leases import lease
with lease(Path(sys.argv[1]), "cell", lambda: None):
    print("held", flush=True)
    time.sleep(600)
"""


def nothing() -> None:
    """Ignore that a lease is lost."""


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def foreign(folder: Path, age: float, number: int = 1) -> Path:
    """Write the lease of a holder on another machine, last touched `age` seconds ago by the clock of the files."""
    path = folder / f".cell.{number}.lease"
    path.write_text(json.dumps({"machine": "another", "holder": "elsewhere, process 7"}))
    touched = path.stat().st_mtime - age
    os.utime(path, (touched, touched))
    return path


def test_a_lease_has_one_holder_and_leaves_nothing(tmp_path: Path) -> None:
    folder, in_use = tmp_path / "new", pytest.raises(InUse, match=f"process {os.getpid()}")
    with lease(folder, "cell", nothing), lease(folder, "cell.1", nothing), in_use, lease(folder, "cell", nothing):
        raise AssertionError
    assert files(folder) == []
    with lease(tmp_path / "new", "cell", nothing):
        assert files(tmp_path / "new") == [".cell.1.lease"]


def test_a_killed_holder_on_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=env({}), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        old = time.time() - 2 * DEAD_AFTER_SECONDS
        os.utime(tmp_path / ".cell.1.lease", (old, old))
        with pytest.raises(InUse, match=f"process {holder.pid}"), lease(tmp_path, "cell", nothing):
            raise AssertionError("it stands still, but it is alive")
        holder.kill()
        holder.wait(20)
        with lease(tmp_path, "cell", nothing):
            assert files(tmp_path) == [".cell.2.lease"]


@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
def test_a_holder_on_another_machine_is_dead_when_its_touch_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew: float
) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    foreign(tmp_path, DEAD_AFTER_SECONDS / 2)
    with pytest.raises(InUse, match="elsewhere, process 7"), lease(tmp_path, "cell", nothing):
        raise AssertionError
    foreign(tmp_path, DEAD_AFTER_SECONDS + 5)
    with lease(tmp_path, "cell", nothing):
        assert files(tmp_path) == [".cell.2.lease"]


def test_a_holder_that_was_taken_over_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.01)
    lost = threading.Event()
    with lease(tmp_path, "cell", lost.set):
        time.sleep(0.05)
        assert not lost.is_set()
        foreign(tmp_path, 0, number=2)  # as another machine does: a new file, then the old one is removed
        (tmp_path / ".cell.1.lease").unlink()
        assert lost.wait(20)
    assert files(tmp_path) == [".cell.2.lease"]


def test_a_lease_that_began_anew_during_the_take_over_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path, DEAD_AFTER_SECONDS + 5, number=3)

    def found_dead(path: Path) -> bool:
        path.unlink()  # its holder wakes up and ends; a third process takes the lease, from 1 again
        foreign(tmp_path, 0)
        return True

    monkeypatch.setattr(leases, "_is_dead", found_dead)
    with pytest.raises(InUse, match="elsewhere"), lease(tmp_path, "cell", nothing):
        raise AssertionError
    assert files(tmp_path) == [".cell.1.lease"]


def test_a_lease_that_began_anew_under_the_same_name_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(tmp_path, 0)
    newer = json.dumps({"machine": "another", "holder": "elsewhere, process 8", "token": "2"})

    def found_ended(path: Path) -> bool:
        path.unlink()  # its holder ends; a third process takes the lease and its name
        path.write_text(newer)
        return True

    monkeypatch.setattr(leases, "_is_dead", found_ended)
    with pytest.raises(InUse, match="process 8"), lease(tmp_path, "cell", nothing):
        raise AssertionError
    assert files(tmp_path) == [".cell.1.lease"]
    assert (tmp_path / ".cell.1.lease").read_text() == newer


def contend(folder: Path, count: int, out: Path) -> None:
    """Enter the same lease `count` times; write down each time when another process is in it."""
    entered = 0
    while entered < count:
        try:
            with lease(folder, "cell", nothing):
                inside = os.open(out / "inside", os.O_CREAT | os.O_EXCL)  # raises if another process is inside
                os.close(inside)
                (out / "inside").unlink()
                entered += 1
        except InUse:
            time.sleep(0.001)
    (out / str(os.getpid())).touch()


def test_processes_that_contend_for_a_lease_never_hold_it_together(tmp_path: Path) -> None:
    folder, out = tmp_path / "leases", tmp_path / "out"
    out.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=contend, args=(folder, 40, out)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert files(folder) == []
