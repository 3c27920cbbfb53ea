"""The Ray engine: the same rounds through Flower's simulation engine, on this machine or on a Ray cluster.

Flower and Ray run in a separate process (`edgefd_server.flower.ray_run`) with its own session; all processes of this
session are ended at the end. The process writes a line of JSON for each round, which this module reads, so the same
code writes the run folder as in a local run.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from edgefd.config.load import with_paths
from edgefd.config.schema import Config
from edgefd.core.addresses import parse_address
from edgefd.core.errors import RunError, UserError, require
from edgefd.core.files import os_errors
from edgefd.core.processes import FLOWER_QUIET, end, family_of, last_line, module_path, reported
from edgefd.core.proxies import direct_to_this_machine
from edgefd.core.yaml_files import dump_yaml
from edgefd.runs.round_metrics import RoundMetrics

_LOG = logging.getLogger(__name__)
_START_SECONDS = 90.0
"""longest time for Ray to start, in seconds"""
_CLIENT = "ray://"
"""start of the address of a cluster that is reached through Ray's client server"""
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""environment in which Ray listens on 127.0.0.1 alone; otherwise its servers listen on all interfaces"""


def check_ray(config: Config) -> None:
    """Check that this engine can run a config.

    Raises:
        UserError: if Flower or Ray is not installed, or the cluster at RAY_ADDRESS does not answer or has a node that
            cannot run the clients of the config.
    """
    require("ray", "flwr", "ray")
    if address := os.environ.get("RAY_ADDRESS"):
        _check_cluster(address, with_paths(config, os.path.abspath))


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
                env=_environment() | {"FLWR_HOME": str(work / "flwr")},
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
    own = {} if "RAY_ADDRESS" in os.environ else _LOOPBACK
    path = {"PYTHONPATH": module_path()}
    return os.environ | FLOWER_QUIET | {"RAY_USAGE_STATS_ENABLED": "0"} | direct_to_this_machine() | own | path


def _check_cluster(address: str, config: Config) -> None:
    """Check that the cluster at an address answers, and that each of its nodes can run clients of the config."""
    try:
        if address != "auto":
            head = parse_address(address.removeprefix(_CLIENT), "RAY_ADDRESS", least_port=1)
            socket.create_connection((head.host, head.port), timeout=5).close()
        checked = subprocess.run(
            [sys.executable, "-m", "edgefd_server.flower.ray_nodes"],
            input=dump_yaml(config.to_dict()),
            env=_environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=_START_SECONDS,
        )
    except OSError as error:
        raise UserError(f"RAY_ADDRESS={address}: no answer: {error}; start the cluster or unset RAY_ADDRESS") from error
    except subprocess.SubprocessError as error:
        where = "this machine runs no Ray cluster" if address == "auto" else "the server there is no Ray cluster"
        raise UserError(f"RAY_ADDRESS={address}: {where} of this version; unset or correct RAY_ADDRESS") from error
    if problem := json.loads(checked.stdout.splitlines()[-1]).get("problem"):
        raise UserError(f"RAY_ADDRESS={address}: {problem}")


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
        if "nodes" in line:
            _LOG.info("Ray: %d nodes with %d cores take part", line["nodes"], line["cores"])
        if "again" in line:
            _LOG.warning("a process or node of Ray died, so client %s runs again: %s", line["again"], line["reason"])
        if "round" in line:
            yield RoundMetrics(**line)
        if line.get("done"):
            return
    raise RunError(f"the Ray engine ended early (exit code {process.returncode}): {last_line(log)}")
