"""The Ray engine: the same rounds through Flower's simulation engine, on this machine or on a Ray cluster.

Flower and Ray run in a process of their own (`edgefd_server.flower.ray_run`), in a session of its own, which is ended with all
that is in it. It writes a line of JSON for each round, which is read here: so the run folder is written by the same
code as that of a local run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from edgefd.config.schema import Config
from edgefd.core.errors import RunError, UserError, require
from edgefd.core.processes import FLOWER_QUIET, end, family_of, last_line, reported
from edgefd.runs.round_metrics import RoundMetrics

_QUIET = FLOWER_QUIET | {"RAY_USAGE_STATS_ENABLED": "0"}
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
                [sys.executable, "-m", "edgefd_server.flower.ray_run", str(work), str(n_clients)],
                env=os.environ | _QUIET | {"FLWR_HOME": str(work / "flwr"), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        family: set[int] = set()
        try:
            yield from _rounds(process, work, family)
        finally:
            end(process, others=family)
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


def _rounds(process: subprocess.Popen[bytes], work: Path, family: set[int]) -> Iterator[RoundMetrics]:
    """What the process reports, until it says that it is done.

    `family` learns which processes are its own: Ray's may outlive the one that started them.
    """
    deadline = time.monotonic() + _START_SECONDS
    started, log = False, work / "log"
    for line in reported(process, work / "lines.jsonl"):
        if line is None:
            if not started and time.monotonic() > deadline:
                raise RunError(f"Ray did not start within {_START_SECONDS:g} s: {last_line(log)}")
            continue
        started = True
        family |= family_of({process.pid})
        if "error" in line:
            raise RunError(line["error"])
        if "round" in line:
            yield RoundMetrics(**line)
        if line.get("done"):
            return
    raise RunError(f"the Ray engine ended early (exit code {process.returncode}): {last_line(log)}")
