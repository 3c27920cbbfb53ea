"""For tests: a server and devices as processes, over real sockets and mTLS, that start fast and die when told."""

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
from edgefd_server.coordinator.checkpoint import load_checkpoint

from edgefd.config.schema import Config
from edgefd.wire import messages as wire
from tests.support.federations import Dealt, dealt
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
    """What all runs of a federation share."""

    made: Dealt
    config: Path
    certs: Path


def ground(config: Config, folder: Path) -> FederationFixture:
    made = dealt(config, folder / "federation")
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    certs.init(folder / "certs", ["127.0.0.1"], 10)
    for i in range(len(made.data)):
        certs.add_device(folder / "certs", f"device-{i}", i, 10)
    return FederationFixture(made, path, folder / "certs")


@dataclass(eq=False)
class Program:
    """A zygote and what it is to run; one run at a time."""

    fork_server: ForkServer
    arguments: list[str]
    log: Path
    pid: int | None = None

    def start(self, *first: str, point: int | None = None) -> None:
        assert self.pid is None
        self.pid = self.fork_server.start([*first, *self.arguments], point)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        assert self.pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, how)
        return self.ended()

    def ended(self) -> int:
        """The exit code, when it has ended; one that does not end is killed."""
        assert self.pid is not None
        pid, self.pid = self.pid, None
        until(lambda: gone(pid), f"{self.log}: the process does not end", lambda: os.kill(pid, signal.SIGKILL))
        return self.fork_server.ended()

    def over(self) -> bool:
        """Whether it has ended, or never began."""
        return self.pid is None or gone(self.pid)

    def said(self) -> str:
        return self.log.read_text()


@dataclass(frozen=True, eq=False)
class Fleet:
    """One run of a federation: a server and its devices."""

    ground: FederationFixture
    folder: Path
    out: Path
    port: int
    server: Program
    devices: list[Program]

    def metrics(self) -> list[dict[str, Any]]:
        """Of the rounds that are done."""
        path = self.out / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Of the log, of one kind or all."""
        path = self.out / "link.jsonl"
        text = path.read_text() if path.exists() else ""
        found = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in found if event in (None, line["event"])]

    def wait(self, condition: Callable[[], bool]) -> None:
        """Until something is so."""
        until(condition, self.server.said() + "".join(d.said() for d in self.devices))

    def start(self, *devices: int) -> None:
        """The server and, once it listens, those devices."""
        self.server.start("")
        self.wait(lambda: listens(self.port) or self.server.over())
        for i in devices:
            self.devices[i].start()

    def completed(self, *devices: int) -> None:
        """The server and those devices end well, and the run is complete."""
        assert self.server.ended() == 0, self.server.said()
        for i in devices:
            assert self.devices[i].ended() == 0, self.devices[i].said()
        assert json.loads((self.out / "summary.json").read_text())["complete"]

    def result(self) -> tuple[bytes, list[dict[str, Any]], list[str]]:
        """What must not depend on who was killed when: last teacher, metrics, devices' models and last reports."""
        saved = load_checkpoint(self.out)
        assert saved is not None
        assert saved.teacher is not None
        lines = [{k: v for k, v in line.items() if k != "seconds"} for line in self.metrics()]
        return wire.encode(saved.teacher, "float32"), lines, [self._state(i) for i in range(len(self.devices))]

    def _state(self, i: int) -> str:
        saved = load_state(self.folder / f"state{i}", self.ground.made.read().digest)
        assert saved is not None
        digest = hashlib.sha256(saved.report)
        for name in sorted(saved.learner):
            digest.update(saved.learner[name].tobytes())
        return digest.hexdigest()


@contextmanager
def fleet(
    ground: FederationFixture,
    folder: Path,
    *settings: str,
    out: Path | None = None,
    give_up: int = 60,
    twin: int | None = None,
) -> Iterator[Fleet]:
    """Nothing is started yet; all that is started has ended when the context is over.

    Args:
        ground: the federation.
        folder: for all that is written.
        settings: of the server's config.
        out: the run folder, if it is to be elsewhere.
        give_up: of the devices.
        twin: a client of which there is one more device, the last, with the same certificate.
    """
    folder.mkdir()
    port, out = free_port(), out or folder / "run"
    listen = ["--listen", f"127.0.0.1:{port}", "--certs", str(ground.certs), "--bundle", str(ground.made.bundle)]
    command = ["server", str(ground.config), *settings, *listen, "--timeout", "60", "--out", str(out), "--resume"]
    with ExitStack() as stack:
        server = _program(stack, SERVER, ("proto", "server", "client"), command, folder / "server.log")
        clients = [*range(len(ground.made.data)), *([] if twin is None else [twin])]
        devices = []
        for i, client in enumerate(clients):
            command = [*device(ground, port, client), "--give-up", str(give_up), "--state", str(folder / f"state{i}")]
            devices.append(_program(stack, DEVICE, ("proto", "client"), command, folder / f"device{i}.log"))
        try:
            yield Fleet(ground, folder, out, port, server, devices)
        finally:
            for program in (server, *devices):
                if program.pid is not None:
                    program.kill()


def device(ground: FederationFixture, port: int, client: int) -> list[str]:
    """A device's command."""
    keys, data = ground.certs / "devices" / f"device-{client}", ground.made.data[client]
    return ["run", "--server", f"127.0.0.1:{port}", "--certs", str(keys), "--data", str(data)]


def _program(stack: ExitStack, imports: str, parts: tuple[str, ...], command: list[str], log: Path) -> Program:
    file = stack.enter_context(log.open("wb"))
    return Program(stack.enter_context(fork_server(imports, environment(*parts), file)), command, log)


def until(condition: Callable[[], bool], what: str, otherwise: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            otherwise()
            raise AssertionError(what)
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process is no more: its zygote has seen its end, or will."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
