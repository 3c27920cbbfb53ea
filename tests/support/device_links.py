"""For tests: a device link on a free port, raw calls to it, and a wire that can be cut."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from edgefd_proto import edgefd_pb2 as pb
from edgefd_proto.edgefd_pb2_grpc import DeviceLinkStub
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.grpc_link.bundle_files import load_bundle_files
from edgefd_server.grpc_link.device_service import DeviceLink, ListenAddress, open_link
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.event_log import Log
from edgefd_server.monitoring.prometheus import LinkMetrics, make_metrics

from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.rounds.participation import FULL_PARTICIPATION, ParticipationConfig, plans
from edgefd.rounds.validation import largest_report
from edgefd.runs.prepare import terms_of
from edgefd.wire.device_link import PROTOCOL, REASON, terms_message
from tests.support.federations import Dealt

FREE = Rate(1e9, 1e9)


@dataclass(eq=False)
class Opened:
    grpc_server: DeviceLink
    sessions: DeviceSessions
    coordinator: RoundCoordinator
    metrics: LinkMetrics
    terms: FederationTerms
    plan: RoundPlan
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_server.port}"

    def refused(self, call: str, reason: str) -> float:
        return self.metrics.registry.get_sample_value("edgefd_refused_total", {"call": call, "reason": reason}) or 0.0

    def begin(self) -> threading.Thread:
        """Open round 0, and wait for it elsewhere."""

        def wait() -> None:
            with contextlib.suppress(Exception):
                self.coordinator.exchange(self.plan, None)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


def unlogged(event: str, **fields: Any) -> None:
    """Keep no log."""


def sessions_of(
    made: Dealt,
    rate: Rate = FREE,
    timeout: float = 30.0,
    log: Log = unlogged,
    rules: ParticipationConfig = FULL_PARTICIPATION,
    run: str = "test",
) -> tuple[DeviceSessions, RoundPlan]:
    p = made.prepared
    plan = next(plans(p.config.seed, np.arange(len(p.federation.proxy)), p.config.train))
    read = made.read()
    bundle = load_bundle_files(made.bundle, read.manifest, read.digest)
    info = FederationInfo(run, len(made.data), terms_of(p.config, p.federation))
    coordinator = RoundCoordinator(info, timeout, log, rules)
    return DeviceSessions(coordinator, [bundle], largest_report(plan, p.federation.n_classes), rate), plan


@contextmanager
def opened(
    made: Dealt,
    certs: Path | None = None,
    port: int = 0,
    timeout: float = 30.0,
    rate: Rate = FREE,
    rules: ParticipationConfig = FULL_PARTICIPATION,
) -> Iterator[Opened]:
    metrics, lines = make_metrics(), list[dict[str, Any]]()

    def log(event: str, **fields: Any) -> None:
        lines.append({"event": event, **fields})

    sessions, plan = sessions_of(made, rate, timeout, log, rules)
    coordinator = sessions.coordinator
    with open_link(sessions, ListenAddress(f"127.0.0.1:{port}", certs), metrics) as grpc_server:
        yield Opened(grpc_server, sessions, coordinator, metrics, coordinator.info.terms, plan, lines)


class Raw:
    """A device that sends what it likes."""

    def __init__(self, address: str, certs: Path | None = None) -> None:
        if certs is None:
            self.channel = grpc.insecure_channel(address)
        else:
            ca, key, pem = ((certs / n).read_bytes() for n in ("ca.pem", "device.key", "device.pem"))
            self.channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, pem))
        self.stub: Any = DeviceLinkStub(self.channel)  # type: ignore[no-untyped-call]

    def join(self, client: int | None, terms: FederationTerms | None, protocol: int = PROTOCOL) -> pb.JoinReply:
        message = None if terms is None else terms_message(terms)
        reply: pb.JoinReply = self.stub.Join(
            pb.JoinRequest(protocol=protocol, client=client, terms=message), timeout=10
        )
        return reply

    def task(self, session: bytes, after: int = -1, timeout: float = 10, told: bool = False) -> pb.TaskReply:
        request = pb.TaskRequest(session=session, after=after, told=told)
        reply: pb.TaskReply = self.stub.NextTask(request, timeout=timeout)
        return reply

    def submit(self, session: bytes, report: bytes, round: int = 0, run: str = "test") -> pb.SubmitReply:
        reply: pb.SubmitReply = self.stub.SubmitReport(
            pb.SubmitRequest(session=session, run=run, round=round, report=report), timeout=10
        )
        return reply

    def file(self, session: bytes, name: str, offset: int = 0) -> bytes:
        request = pb.BundleRequest(session=session, file=name, offset=offset)
        return b"".join(chunk.data for chunk in self.stub.GetBundle(request, timeout=10))


def refusal(act: Callable[[], object]) -> tuple[grpc.StatusCode, str, str]:
    """Status, reason and line with which a call is refused."""
    try:
        act()
    except grpc.RpcError as error:
        reason = dict(error.trailing_metadata() or ()).get(REASON, "")
        return error.code(), reason, error.details()
    raise AssertionError("it was not refused")


def some(n: int = 4, width: int = 10) -> Knowledge:
    return Knowledge(np.arange(n), np.full((n, width), 1 / width, np.float32), np.ones(n, np.float32))


class Wire:
    """A TCP port in front of another one, which can be cut: `limit` bytes towards the device, or at once by `cut`."""

    def __init__(self, port: int) -> None:
        self.target, self.limit, self.cuts = port, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.up = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.cuts += 1
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            if not self.up:
                device.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.target), timeout=5)
            except OSError:
                device.close()
                continue
            server.settimeout(None)
            self._open += [device, server]
            threading.Thread(target=self._copy, args=(device, server, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(server, device, True), daemon=True).start()

    def _copy(self, source: socket.socket, to: socket.socket, down: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16 * 1024):
                passed += len(data)
                if down and self.limit and passed > self.limit:
                    self.cut()
                    return
                to.sendall(data)
        for end in (source, to):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
