"""The Ray engine: the same rounds through Flower's simulation engine, on this machine or on a Ray cluster.

Flower and Ray run in a separate process (`edgefd_server.flower.ray_run`) with its own session; all processes of this
session are ended at the end. The process writes a line of JSON for each round, which this module reads, so the same
code writes the run folder as in a local run.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from edgefd.config.schema import Config
from edgefd.core.addresses import parse_address
from edgefd.core.errors import RunError, UserError, require
from edgefd.core.files import os_errors
from edgefd.core.processes import FLOWER_QUIET, end, family_of, last_line, module_path, reported
from edgefd.core.proxies import direct_to_this_machine
from edgefd.core.yaml_files import dump_yaml
from edgefd.runs.round_metrics import RoundMetrics

_START_SECONDS = 90.0
"""longest time for Ray to start, in seconds"""


def check_ray() -> None:
    """Check that this engine can run.

    Raises:
        UserError: if Flower or Ray is not installed, or the cluster at RAY_ADDRESS does not answer.
    """
    require("ray", "flwr", "ray")
    if address := os.environ.get("RAY_ADDRESS"):
        _check_reachable(address)


def simulate_ray(config: Config, n_clients: int) -> Generator[RoundMetrics]:
    """Run the rounds and yield the metrics of each.

    Raises:
        UserError: if there is no folder for temporary files.
        RunError: if a client or the engine fails.
    """
    with os_errors("write temporary files", advice="set TMPDIR to a folder"):
        work = Path(tempfile.mkdtemp(prefix="edgefd-"))  # a short path, because Ray creates sockets in it
    try:
        (work / "config.yaml").write_text(dump_yaml(config.to_dict()), encoding="utf-8")
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgefd_server.flower.ray_run", str(work), str(n_clients)],
                env=_environment() | {"FLWR_HOME": str(work / "flwr"), "PYTHONPATH": module_path()},
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


def _environment() -> dict[str, str]:
    return os.environ | FLOWER_QUIET | {"RAY_USAGE_STATS_ENABLED": "0"} | direct_to_this_machine()


def _check_reachable(address: str) -> None:
    head = parse_address(address, "RAY_ADDRESS", least_port=1)
    try:
        socket.create_connection((head.host, head.port), timeout=5).close()
        program = "import ray; ray.init(log_to_driver=False, logging_level='error')"
        subprocess.run([sys.executable, "-c", program], env=_environment(), capture_output=True, check=True, timeout=20)
    except OSError as error:
        raise UserError(f"RAY_ADDRESS={address}: no answer: {error}; start the cluster or unset RAY_ADDRESS") from error
    except subprocess.SubprocessError as error:
        raise UserError(
            f"RAY_ADDRESS={address}: the server there is no Ray cluster of this version; unset or correct RAY_ADDRESS"
        ) from error


def _rounds(process: subprocess.Popen[bytes], work: Path, family: set[int]) -> Iterator[RoundMetrics]:
    """Yield the metrics that the process reports, until it reports its end.

    The ids of its descendants are added to `family`: processes of Ray can outlive the process that started them.
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
