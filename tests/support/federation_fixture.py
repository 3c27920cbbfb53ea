"""A server and devices as processes, over real sockets and mTLS, that start fast and are killed when a test wants."""

import contextlib
import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from edgefd_client.state import load_state
from edgefd_server import certs

from edgefd.config.schema import Config
from edgefd.runs.checkpoint import load_checkpoint
from edgefd.wire import messages as wire
from tests.support.federations import ExportedFederation, export_federation
from tests.support.fork_server import ForkServer, environment, fork_server
from tests.support.waiting import free_port

SERVER = "from tests.support.crash_points import main"
DEVICE = """
import edgefd_client.agent, edgefd_client.bundle_download, edgefd_client.grpc_link
from edgefd_client.cli import main
"""
PATIENCE = 90.0


@dataclass(frozen=True, eq=False)
class FederationFixture:
    """The config, data, bundle and certificates that all runs of a federation share."""

    data: ExportedFederation
    config: Path
    certs: Path


def federation_fixture(config: Config, folder: Path) -> FederationFixture:
    """Export a config and create certificates for its devices."""
    data = export_federation(config, folder / "federation")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    certs.init(folder / "certs", ["127.0.0.1"], 10)
    for i in range(len(data.data)):
        certs.add_device(folder / "certs", f"device-{i}", i, 10)
    return FederationFixture(data, path, folder / "certs")


@dataclass(eq=False)
class Program:
    """A fork server and the command that it runs, one run at a time."""

    fork_server: ForkServer
    arguments: list[str]
    log: Path
    pid: int | None = None

    def start(self, *first: str, point: int | None = None) -> None:
        """Start a run, with the arguments `first` before the others. See `ForkServer.start` for `point`."""
        assert self.pid is None
        self.pid = self.fork_server.start([*first, *self.arguments], point)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal, wait until the run has ended, and return the exit code."""
        assert self.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, how)
        return self.ended()

    def ended(self) -> int:
        """Wait until the run has ended, and return its exit code. A run that does not end is killed."""
        assert self.pid is not None
        pid, self.pid = self.pid, None
        until(lambda: gone(pid), f"{self.log}: the process did not end", lambda: os.kill(pid, signal.SIGKILL))
        return self.fork_server.ended()

    def finished(self) -> bool:
        """Return whether no run is in progress."""
        return self.pid is None or gone(self.pid)

    def output(self) -> str:
        """Return the text on stderr of all runs."""
        return self.log.read_text()


@dataclass(frozen=True, eq=False)
class Fleet:
    """One run of a federation: a server and its devices."""

    federation: FederationFixture
    folder: Path
    out: Path
    port: int
    server: Program
    devices: list[Program]

    def metrics(self) -> list[dict[str, Any]]:
        """Return the metrics of the completed rounds."""
        path = self.out / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the events of the log, of one kind or all."""
        path = self.out / "link.jsonl"
        text = path.read_text() if path.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if event in (None, line["event"])]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds."""
        until(condition, self.server.output() + "".join(d.output() for d in self.devices))

    def start(self, *devices: int) -> None:
        """Start the server and, once it listens, those devices."""
        self.server.start("")
        self.wait(lambda: listens(self.port) or self.server.finished())
        for i in devices:
            self.devices[i].start()

    def completed(self, *devices: int) -> None:
        """Wait for the server and those devices, and check that they succeeded and that the run is complete."""
        assert self.server.ended() == 0, self.server.output()
        for i in devices:
            assert self.devices[i].ended() == 0, self.devices[i].output()
        assert json.loads((self.out / "summary.json").read_text())["complete"]

    def result(self) -> tuple[bytes, list[dict[str, Any]], list[str]]:
        """Return what must not depend on kills: last teacher, metrics, and digests of devices' models and reports.

        If only changes are sent, the bytes of teachers depend on kills: a device that has run a round already holds its
        teacher.
        """
        without = {"seconds"}
        if self.federation.data.prepared.config.codec.changes_above is not None:
            without.add("bytes_down")
        saved = load_checkpoint(self.out, self.federation.data.served().expected_teacher)
        assert saved is not None
        assert saved.progress.teacher is not None
        lines = [{k: v for k, v in line.items() if k not in without} for line in self.metrics()]
        return wire.encode(saved.progress.teacher, "float32"), lines, [self._state(i) for i in range(len(self.devices))]

    def _state(self, i: int) -> str:
        saved = load_state(self.folder / f"state{i}", self.federation.data.read().digest)
        assert saved is not None
        digest = hashlib.sha256(saved.report)
        for name in sorted(saved.learner):
            digest.update(saved.learner[name].tobytes())
        return digest.hexdigest()


@contextmanager
def fleet(
    federation: FederationFixture,
    folder: Path,
    *settings: str,
    out: Path | None = None,
    give_up: int = 60,
    twin: int | None = None,
) -> Iterator[Fleet]:
    """Prepare a run without starting it. When the context ends, every process that was started has ended.

    Args:
        federation: its shared files.
        folder: for all files that are written.
        settings: changes of the server's config.
        out: the run folder; None = in `folder`.
        give_up: seconds after which devices give up the coordinator.
        twin: a client that gets a second device, the last one, with the same certificate.
    """
    folder.mkdir()
    port, out = free_port(), out or folder / "run"
    listen = [
        "--listen",
        f"127.0.0.1:{port}",
        "--certs",
        str(federation.certs),
        "--bundle",
        str(federation.data.bundle),
    ]
    command = [
        "serve",
        "grpc",
        str(federation.config),
        *settings,
        *listen,
        "--timeout",
        "60",
        "--out",
        str(out),
        "--resume",
    ]
    with ExitStack() as stack:
        server = _program(stack, SERVER, ("proto", "server", "client"), command, folder / "server.log")
        clients = [*range(len(federation.data.data)), *([] if twin is None else [twin])]
        devices = []
        for i, client in enumerate(clients):
            command = [
                *device(federation, port, client),
                "--give-up",
                str(give_up),
                "--state",
                str(folder / f"state{i}"),
            ]
            devices.append(_program(stack, DEVICE, ("proto", "client"), command, folder / f"device{i}.log"))
        try:
            yield Fleet(federation, folder, out, port, server, devices)
        finally:
            for program in (server, *devices):
                if program.pid is not None:
                    program.kill()


def device(federation: FederationFixture, port: int, client: int) -> list[str]:
    """Return the command of a device. It has no cache of files, so that all devices make the same number of writes."""
    keys, data = federation.certs / "devices" / f"device-{client}", federation.data.data[client]
    return ["run", "--server", f"127.0.0.1:{port}", "--certs", str(keys), "--data", str(data), "--cache", os.devnull]


def _program(stack: ExitStack, imports: str, parts: tuple[str, ...], command: list[str], log: Path) -> Program:
    file = stack.enter_context(log.open("wb"))
    return Program(stack.enter_context(fork_server(imports, environment(*parts), file)), command, log)


def until(condition: Callable[[], bool], what: str, otherwise: Callable[[], None] = lambda: None) -> None:
    """Wait until the condition holds. After `PATIENCE` seconds, call `otherwise` and fail with the text `what`."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            otherwise()
            raise AssertionError(what)
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def listens(port: int) -> bool:
    """Return whether a port of this machine accepts connections."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
