"""Reading the reports of the processes that a run starts, and ending them with all of their descendants."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

FLOWER_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""environment of Flower's processes: disables telemetry, the search for updates and the installation of packages"""


def reported(process: subprocess.Popen[bytes], path: Path, seen: int = 0) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of JSON that a process writes, and None whenever there is no new line, until the process ends.

    The file need not exist yet, and a line that is not complete yet is not yielded. The first `seen` lines are skipped.
    """
    while True:
        ended = process.poll() is not None
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        fresh = [line for line in lines[seen:] if line.endswith("\n")]
        seen += len(fresh)
        yield from (json.loads(line) for line in fresh)
        if ended:
            return
        yield None
        time.sleep(0.05)


def module_path() -> str:
    """Return the value of PYTHONPATH with which a process in another folder finds the modules of this one."""
    return os.pathsep.join(map(os.path.abspath, sys.path))


def last_line(log: Path) -> str:
    """Return the last line of the log of a process."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "no output"


def end(process: subprocess.Popen[bytes], patience: float = 10.0, others: Iterable[int] = ()) -> None:
    """Terminate the process, then kill the members of its family that still run: they may outlive their parent.

    Args:
        process: the process to end.
        patience: seconds to wait for the process to end, and then again for the rest of the family.
        others: ids of further members of the family. They are needed if the process may have ended already, because
            a family is found through its living members.
    """
    family = family_of({process.pid, *others})
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    deadline = time.monotonic() + patience
    while (family := family_of(family)) and time.monotonic() < deadline:
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Return whether the process runs. A process that has ended but waits for its parent (a zombie) does not run."""
    return pid in family_of({pid})


def family_of(roots: set[int]) -> set[int]:
    """Return the living ones of these processes, of their descendants and of the members of their sessions.

    It uses options of `ps` that exist on Linux and macOS.
    """
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,sess=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    alive = {int(pid): {int(parent), int(session)} for pid, parent, session, stat in rows if not stat.startswith("Z")}
    family: set[int] = set()
    while fresh := {
        pid for pid, links in alive.items() if pid not in family and (pid in roots or links & (roots | family))
    }:
        family |= fresh
    return family
