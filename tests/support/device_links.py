"""A device link on a free port, devices that send arbitrary requests to it, and a wire that can be cut."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from edgefd_client.agent import run_agent
from edgefd_client.bundle_download import fetch_bundle
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_client.link import Link
from edgefd_client.sources import NpzSource, client_data, read_samples
from edgefd_proto import edgefd_pb2 as pb
from edgefd_proto.edgefd_pb2_grpc import DeviceLinkStub
from edgefd_server.coordinator.round_coordinator import RoundCoordinator
from edgefd_server.coordinator.served_run import bundle_files
from edgefd_server.grpc_link.device_service import DeviceLink, open_link
from edgefd_server.grpc_link.rate_limit import Rate
from edgefd_server.grpc_link.server import ListenAddress
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.event_log import Log, tee_log
from edgefd_server.monitoring.prometheus import LinkMetrics, metrics_log

from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.rounds.participation import FULL_PARTICIPATION, ParticipationConfig
from edgefd.runs.terms import terms_of
from edgefd.wire import messages as wire
from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.device_link import PROTOCOL, REASON, terms_message
from tests.support.federations import (
    ExportedFederation,
    ignore_event,
    ignore_line,
    in_threads,
    round_plan,
    unwrapped,
)
from tests.support.open_server import OpenServer

UNLIMITED = Rate(1e9, 1e9)


@dataclass(eq=False)
class OpenLink(OpenServer):
    """An open device link and the parts behind it."""

    grpc_server: DeviceLink
    sessions: DeviceSessions
    coordinator: RoundCoordinator
    metrics: LinkMetrics
    terms: FederationTerms
    plan: RoundPlan
    lines: list[dict[str, Any]] = field(default_factory=list)
    """events of the log"""

    def begin(self) -> threading.Thread:
        """Open round 0, and collect its reports in another thread."""

        def wait() -> None:
            with contextlib.suppress(Exception):
                self.coordinator.exchange(self.plan, range(self.coordinator.info.n_clients), None)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


def sessions_of(
    federation: ExportedFederation,
    rate: Rate = UNLIMITED,
    timeout: float = 30.0,
    log: Log = ignore_event,
    rules: ParticipationConfig = FULL_PARTICIPATION,
    run: str = "test",
    clock: Callable[[], float] = time.monotonic,
) -> tuple[DeviceSessions, RoundPlan]:
    """Return the sessions of a new coordinator of the federation, and the plan of round 0."""
    prepared, plan = federation.prepared, round_plan(federation)
    bundle = bundle_files(federation.bundle, federation.read())
    info = FederationInfo(run, len(federation.data), terms_of(prepared.config, prepared.federation))
    coordinator = RoundCoordinator(info, timeout, log, rules)
    return DeviceSessions(coordinator, [bundle], coordinator.expected(plan).largest, rate, clock), plan


@contextmanager
def open_device_link(
    federation: ExportedFederation,
    certs: Path | None = None,
    port: int = 0,
    timeout: float = 30.0,
    rate: Rate = UNLIMITED,
    rules: ParticipationConfig = FULL_PARTICIPATION,
    run: str = "test",
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[OpenLink]:
    """Serve a federation's device link on a port of this machine while the context lasts; port 0 is any free one."""
    metrics, lines = LinkMetrics(), list[dict[str, Any]]()

    def log(event: str, **fields: Any) -> None:
        lines.append({"event": event, **fields})

    sessions, plan = sessions_of(federation, rate, timeout, tee_log(log, metrics_log(metrics)), rules, run, clock)
    coordinator = sessions.coordinator
    with open_link(sessions, ListenAddress(f"127.0.0.1:{port}", certs), metrics) as grpc_server:
        yield OpenLink(grpc_server, sessions, coordinator, metrics, coordinator.info.terms, plan, lines)


@contextmanager
def run_devices(
    federation: ExportedFederation,
    folder: Path,
    addresses: list[str],
    keys: Path | None,
    wrap: Callable[[Link, int], Link] = unwrapped,
) -> Iterator[None]:
    """Run one agent for each address in threads; each downloads its bundle. Their states are in the folder.

    `keys` is the folder of certificates; None = plaintext. The agent uses its link as `wrap` returns it.
    """

    def run_device(i: int) -> None:
        with connect(addresses[i], keys and keys / "devices" / f"device-{i}", False) as channel:
            link = GrpcLink(channel, None if keys else i, ignore_line)
            link.join(None)
            bundle = read_bundle(fetch_bundle(link, folder / f"state{i}"))
            link.join(bundle.manifest.terms)
            data = client_data(read_samples(NpzSource(federation.data[link.client]), bundle), bundle, link.client)
            run_agent(wrap(link, i), bundle, data, folder / f"state{i}", ignore_line)

    with in_threads(run_device, range(len(addresses))):
        yield


class RawDevice:
    """A device that sends arbitrary requests."""

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

    def next_task(self, session: bytes, after: int = -1, timeout: float = 10, told: bool = False) -> pb.TaskReply:
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
    """Return status, reason and line of text with which a call is refused."""
    try:
        act()
    except grpc.RpcError as error:
        reason = dict(error.trailing_metadata() or ()).get(REASON, "")
        return error.code(), reason, error.details()
    raise AssertionError("the call was not refused")


def uniform_knowledge(n: int = 4, width: int = 10) -> Knowledge:
    """Return uniform soft labels of the first n rows."""
    return Knowledge(np.arange(n), np.full((n, width), 1 / width, np.float32), np.ones(n, np.float32))


def report(
    client: int = 0,
    round: int = 0,
    knowledge: Knowledge | None = None,
    codec: str = "float16",
    metrics: dict[str, float] | None = None,
) -> bytes:
    """Return a serialised report."""
    return wire.encode_report(Report(client, round, knowledge or uniform_knowledge(), metrics or {}), codec)


class CuttableWire:
    """A TCP port that forwards to another one and can be cut, after `limit` bytes to the device or at once by `cut`."""

    def __init__(self, port: int) -> None:
        self.target, self.limit, self.cuts = port, 0, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self.up = True
        """whether new connections are forwarded"""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Close all connections."""
        self.cuts += 1
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def close(self) -> None:
        """Close the port and all connections."""
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

    def _copy(self, source: socket.socket, target: socket.socket, down: bool) -> None:
        forwarded = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16 * 1024):
                forwarded += len(data)
                if down and self.limit and forwarded > self.limit:
                    self.cut()
                    return
                target.sendall(data)
        for connection in (source, target):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
