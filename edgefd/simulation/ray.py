"""The Ray engine: the same rounds through Flower's simulation engine, on this machine or on a Ray cluster.

Flower and Ray run in a process of their own (`edgefd_server.ray_run`), in a session of its own, which is ended with all
that is in it. It writes a line of JSON for each round, which is read here: so the run folder is written by the same
code as that of a local run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from edgefd.config import Config
from edgefd.errors import RunError, UserError, require
from edgefd.metrics import RoundMetrics

_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_START_SECONDS = 90.0


def check_ray() -> None:
    """Whether this engine can be used.

    Raises:
        UserError: if Flower or Ray is not installed, or the cluster of RAY_ADDRESS does not answer.
    """
    require("ray", "flwr", "ray")
    if address := os.environ.get("RAY_ADDRESS"):
        _check_reachable(address)


def simulate_ray(config: Config, n_clients: int) -> Iterator[RoundMetrics]:
    """Run the rounds; the metrics of each as it ends.

    Raises:
        RunError: if a client or the engine fails.
    """
    work = Path(tempfile.mkdtemp(prefix="edgefd-"))  # short: Ray puts sockets in it
    try:
        (work / "config.yaml").write_text(yaml.safe_dump(config.to_dict(), sort_keys=False), encoding="utf-8")
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgefd_server.ray_run", str(work), str(n_clients)],
                env=os.environ | _QUIET | {"FLWR_HOME": str(work / "flwr"), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield from _rounds(process, work)
        finally:
            _end(process)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"RAY_ADDRESS={address}: must be host:port of the cluster's head node")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        join = "import ray; ray.init(log_to_driver=False, logging_level='error')"
        subprocess.run(
            [sys.executable, "-c", join], env=os.environ | _QUIET, capture_output=True, check=True, timeout=20
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"RAY_ADDRESS={address}: nothing answers there: {error}") from error
    except subprocess.SubprocessError as error:
        raise UserError(f"RAY_ADDRESS={address}: what answers there is no Ray cluster of this version") from error


def _rounds(process: subprocess.Popen[bytes], work: Path) -> Iterator[RoundMetrics]:
    """What the process reports, until it says that it is done."""
    deadline = time.monotonic() + _START_SECONDS
    started = False
    for line in _lines(process, work / "lines.jsonl"):
        if line is None:
            if not started and time.monotonic() > deadline:
                raise RunError(f"Ray did not start within {_START_SECONDS:g} s: {_tail(work)}")
            continue
        started = True
        if "error" in line:
            raise RunError(line["error"])
        if "round" in line:
            yield RoundMetrics(**line)
        if line.get("done"):
            return
    raise RunError(f"the Ray engine ended early (exit code {process.returncode}): {_tail(work)}")


def _lines(process: subprocess.Popen[bytes], path: Path) -> Iterator[dict[str, Any] | None]:
    """Each whole line as it is written, None while there is none, until the process has ended."""
    seen = 0
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


def _tail(work: Path) -> str:
    lines = (work / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """Ask the process to end, then kill whatever is left of its family: Ray's processes outlive their parent."""
    family = _family({process.pid})
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    deadline = time.monotonic() + patience
    while (family := _family(family)) and time.monotonic() < deadline:
        for pid in family:
            _kill(pid)
        time.sleep(0.05)


def _family(known: set[int]) -> set[int]:
    """Of those processes, their descendants and the members of their sessions: the ones that are alive.

    Ray runs on Linux and macOS; both have this ps.
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
