"""Nodes of a Ray cluster, each in processes of its own, which listen on 127.0.0.1 alone.

`ray start` refuses to do that: it replaces 127.0.0.1 by an address of the network.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from edgefd.core.processes import family_of
from tests.support.commands import env
from tests.support.waiting import free_port, until

LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""environment of nodes and drivers: a node that is killed is noticed within seconds"""


Node = subprocess.Popen[bytes]


@contextmanager
def ray_cluster(folder: Path, cores: list[int], **environment: str) -> Iterator[tuple[str, list[Node]]]:
    """Start a head without cores and nodes with these cores; yield the address and the processes of the nodes."""
    port = free_port()
    with ExitStack() as stack:
        _wait(folder / "h", stack.enter_context(_node(folder / "h", port, 0, True, **environment)))
        folders = [folder / str(i) for i in range(len(cores))]
        each = zip(folders, cores, strict=True)
        nodes = [stack.enter_context(_node(own, port, n, False, **environment)) for own, n in each]
        for own, node in zip(folders, nodes, strict=True):
            _wait(own, node)
        yield f"127.0.0.1:{port}", nodes


@contextmanager
def _node(folder: Path, port: int, cores: int, head: bool, **environment: str) -> Iterator[Node]:
    """Start a node whose temporary files and working directory are in a folder, and kill it when the context ends."""
    folder.mkdir()
    arguments = [str(folder), str(port), str(cores), str(int(head))]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_node", *arguments],
            cwd=folder,
            env=env(LOOPBACK | environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            kill_node(process)


def _wait(folder: Path, process: Node) -> None:
    until(lambda: (folder / "ready").exists() or process.poll() is not None, 60)
    assert process.poll() is None, (folder / "log").read_text()


def kill_node(process: Node) -> None:
    """Kill all processes of a node at once, as a machine does that loses its power."""
    for pid in sorted(family_of({process.pid})):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait(20)


def main(folder: str, port: str, cores: str, head: str) -> None:
    """Run the processes of a node until this one is killed."""
    from ray._private.node import Node as RayNode
    from ray._private.parameter import RayParams

    address = f"127.0.0.1:{port}"
    parameters = RayParams(
        node_ip_address="127.0.0.1",
        gcs_server_port=int(port) if head == "1" else None,
        gcs_address=None if head == "1" else address,
        num_cpus=int(cores),
        num_gpus=0,
        object_store_memory=100 * 2**20,
        temp_dir=folder,
        min_worker_port=0,
        max_worker_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        dashboard_agent_listen_port=0,
    )
    RayNode(parameters, head=head == "1", shutdown_at_exit=True, spawn_reaper=False)
    Path(folder, "ready").touch()
    signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
