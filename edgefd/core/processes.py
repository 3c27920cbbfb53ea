"""Processes that are started for a run: what they report, and ending them with all that they have started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

FLOWER_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""environment of Flower's processes: nothing is reported home, nothing looked up, nothing installed"""


def reported(process: subprocess.Popen[bytes], path: Path, seen: int = 0) -> Iterator[dict[str, Any] | None]:
    """Each whole line of JSON in `path` as it is written, None while there is none, until the process has ended.

    Args:
        process: whose end is the end.
        path: of the lines; it need not exist yet.
        seen: lines that are passed over.
    """
    while True:
        ended = process.poll() is not None
        whole = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        fresh = [line for line in whole[seen:] if line.endswith("\n")]
        seen += len(fresh)
        yield from (json.loads(line) for line in fresh)
        if ended:
            return
        yield None
        time.sleep(0.05)


def last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"


def end(process: subprocess.Popen[bytes], patience: float = 10.0, others: Iterable[int] = ()) -> None:
    """Ask the process to end, then kill whatever is left of its family: processes may outlive their parent.

    Args:
        process: to end.
        patience: seconds that it has to end by itself, and then the others to be gone.
        others: of its family, where it may be dead already: a family is known by its living members.
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
            _kill(pid)
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether that process runs; one that has ended and waits for its parent does not."""
    return pid in family_of({pid})


def family_of(known: set[int]) -> set[int]:
    """Of those processes, their descendants and the members of their sessions: the ones that are alive.

    Linux and macOS both have this ps.
    """
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,sess=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    alive = {int(pid): {int(parent), int(session)} for pid, parent, session, stat in rows if not stat.startswith("Z")}
    found: set[int] = set()
    while fresh := {pid for pid, of in alive.items() if pid not in found and (pid in known or of & (known | found))}:
        found |= fresh
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
