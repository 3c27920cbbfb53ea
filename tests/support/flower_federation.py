"""Processes of a Flower federation on this machine for tests, and a list of those that remain afterwards."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from edgefd_server import certs

from edgefd.core.processes import FLOWER_QUIET, end
from tests.support.federations import ExportedFederation, export_federation, small
from tests.support.fork_server import environment
from tests.support.waiting import free_port

ENVIRONMENT = environment("proto", "server", "client") | FLOWER_QUIET
# A SuperNode finds its other commands through PATH.
ENVIRONMENT["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), ENVIRONMENT["PATH"]])


@dataclass(eq=False)
class FlowerFederation:
    """An exported federation, its certificates, and the processes that a test has started."""

    folder: Path
    exported: ExportedFederation
    started: list[tuple[str, subprocess.Popen[bytes]]] = field(default_factory=list)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def certs(self) -> Path:
        return self.folder / "certs"

    def start(self, name: str, *command: str, **env: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=ENVIRONMENT | env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        self.started.append((name, process))
        return process

    def server(self, name: str, kind: str, *options: str, **env: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "edgefd", "serve", kind, str(self.folder / "config.yaml"), *options]
        command += ["--bundle", str(self.exported.bundle)]
        return self.start(name, *command, "--out", str(self.folder / name), "--timeout", "150", **env)

    def node(self, name: str, client: int, port: int) -> None:
        """Start a client's SuperNode with its own key. `wait` starts it again when it ends."""
        self.nodes[name] = self.supernode(name, client, port, self.key(client))

    def supernode(self, name: str, client: int, port: int, key: Path) -> subprocess.Popen[bytes]:
        """Start an unmodified Flower SuperNode with the data of a client."""
        paths = {
            "bundle": self.exported.bundle,
            "data": self.exported.data[client],
            "state": self.folder / f"{name}-state",
        }
        command = ["--root-certificates", str(self.certs / "ca.pem"), "--superlink", f"127.0.0.1:{port}"]
        command += ["--auth-supernode-private-key", str(key), "--host", "127.0.0.1", "--port", str(free_port())]
        command += ["--node-config", " ".join(f"{k}='{v}'" for k, v in paths.items())]
        supernode = str(Path(sys.executable).parent / "flower-supernode")
        return self.start(name, supernode, *command, FLWR_HOME=str(self.folder / f"{name}-home"))

    def wait(self, server: subprocess.Popen[bytes], port: int, seconds: float = 400.0) -> int:
        """Return the exit code of a coordinator. Nodes that end are started again, as docs/guides/flower.md advises."""
        deadline = time.monotonic() + seconds
        while server.poll() is None:
            assert time.monotonic() < deadline, self.all_logs()
            for name, process in list(self.nodes.items()):
                if process.poll() is not None:
                    time.sleep(10)  # Flower refuses the key of a node that has just ended
                    self.node(name, int(name.removeprefix("node")), port)
            time.sleep(0.2)
        return server.returncode

    def all_logs(self) -> str:
        """Return the exit codes of all processes and the ends of their logs, to explain a failure."""
        exit_codes = [f"{name}: exit code {process.poll()}" for name, process in self.started]
        logs = [f"== {log.stem}\n{log.read_text(errors='replace')[-2000:]}" for log in self.folder.glob("*.log")]
        return "\n".join([*exit_codes, *logs])

    def device(self, name: str, client: int, *options: str) -> subprocess.Popen[bytes]:
        """Start a light device with the data of a client."""
        data, state = str(self.exported.data[client]), str(self.folder / f"{name}-state")
        command = [sys.executable, "-m", "edgefd_client", "run", "--data", data, "--state", state, *options]
        return self.start(name, *command)

    def key(self, client: int) -> Path:
        return self.certs / "devices" / f"node{client}" / "node.key"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def until(self, name: str, pattern: str, seconds: float = 240.0) -> str:
        """Wait until the log of a process matches the pattern, and return the last group, or else the whole match."""
        deadline = time.monotonic() + seconds
        while (match := re.search(pattern, self.log(name))) is None:
            assert time.monotonic() < deadline, self.all_logs()
            time.sleep(0.1)
        return match[match.lastindex or 0]

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.folder / name / "link.jsonl").read_text().splitlines()]
        return [line for line in lines if line["event"] == event]

    def teachers(self, name: str) -> dict[int, str]:
        """Return the digests of the teachers that were sent, by round. A round that is opened again has the same."""
        digests: dict[int, str] = {}
        for line in self.events(name, "round"):
            if "teacher_sha256" in line:
                assert digests.setdefault(line["round"], line["teacher_sha256"]) == line["teacher_sha256"]
        return digests


@contextmanager
def flower_federation(
    folder: Path, nodes: tuple[int, ...], devices: tuple[int, ...] = (), **codec: Any
) -> Iterator[FlowerFederation]:
    """Export a federation of three clients and three rounds, and end the processes of the test with the context."""
    config = small(3, 3, sections={"codec": codec})
    exported = export_federation(config, folder / "federation")
    (folder / "config.yaml").write_text(yaml.safe_dump(config.to_dict()))
    certs.init(folder / "certs", ["localhost", "127.0.0.1"], 2)
    for client in nodes:
        certs.add_node(folder / "certs", f"node{client}", client)
    for client in devices:
        certs.add_device(folder / "certs", f"device{client}", client, 2)
    federation = FlowerFederation(folder, exported)
    try:
        yield federation
    finally:
        for _, process in federation.started:
            end(process)


def processes(*words: str) -> dict[int, str]:
    """Return the other processes that have one of the words in their command line, by process id."""
    listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    alive = {int(row[0]): row[2] for row in rows if len(row) == 3 and not row[1].startswith("Z")}
    return {pid: args for pid, args in alive.items() if pid != os.getpid() and any(word in args for word in words)}


def remaining_processes(*words: str, seconds: float = 15.0) -> dict[int, str]:
    """Return the processes with one of the words in their command line that still run after some seconds."""
    deadline = time.monotonic() + seconds
    while (remaining := processes(*words)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return remaining
