"""`GrpcLink`: a link (`edgefd_client.link.Link`) over gRPC. It needs grpcio and protobuf.

A call that gets no answer is repeated until it gets one. The repeated call has the same bytes, so it counts once.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc
from edgefd_proto import edgefd_pb2 as pb
from edgefd_proto.edgefd_pb2_grpc import DeviceLinkStub

from edgefd.core.addresses import parse_address
from edgefd.core.errors import RunError, UserError
from edgefd.core.proxies import GRPC_VARIABLES, proxy_of, without_password
from edgefd.core.text import shown
from edgefd.federation.changes import digest_of
from edgefd.federation.terms import FederationTerms
from edgefd.rounds.validation import ExpectedTask
from edgefd.wire.device_link import HOLD, PROTOCOL, REASON, identity_message, read_terms
from edgefd_client.certificate_check import check_certificate
from edgefd_client.link import GIVE_UP, Membership, RunEnded, Task, check_terms, read_task, reading

_LOG = logging.getLogger(__name__)

MAX_MESSAGE = 2**20
"""largest message in bytes that a device receives, except for tasks"""
SHORT_TIMEOUT, LONG_TIMEOUT = 20.0, 120.0
"""seconds that a call with little data and a call with much data may take"""
FIRST_PAUSE, MAX_PAUSE = 0.2, 15.0
"""seconds between the first two attempts, and the limit up to which this pause doubles"""
NEXT_RUN_PAUSE = 30.0
"""largest number of seconds between two questions of a device whether the next run has begun"""
_RETRIED_CODES = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
"""statuses that, without a reason of the coordinator, come from the network or from a coordinator that is stopping"""
_TEMPORARY_REASONS = {"rate", "allow-list", "early", "busy", "deadline"}
"""reasons of the coordinator for which the same call can succeed later"""

Result = TypeVar("Result")


def connect(address: str, certs: Path | None, insecure: bool, largest_task: int = 0) -> grpc.Channel:
    """Open a channel to HOST:PORT, with a warning if it is without TLS. Nothing is sent yet.

    A line names the proxy of the environment that the channel uses. A channel to this machine uses none.

    Args:
        address: of the coordinator.
        certs: see `edgefd_client.options.DeviceOptions`.
        insecure: see there too.
        largest_task: size in bytes that no honest task exceeds; 0 if no task is received. gRPC ends a call with a
            larger reply.

    Raises:
        UserError: if the address has another form, certificates are missing or not valid, a connection to another
            machine without TLS is not allowed, or the proxy cannot be used.
    """
    server = parse_address(address, "--server", least_port=1)
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE + largest_task),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Despite its name, this limits the time of one attempt. TLS is slow on lossy links.
        ("grpc.min_reconnect_backoff_ms", 20_000),
        ("grpc.max_reconnect_backoff_ms", 10_000),
        *_proxy_options(server.host),
    ]
    if certs is None:
        if not (insecure or server.is_loopback):
            raise UserError(
                f"refusing to connect to {address} without TLS: pass --certs DIR "
                "(create it with `edgefd certs device`) or --insecure"
            )
        _LOG.warning("the connection is unencrypted and unauthenticated: pass --certs to use TLS")
        return grpc.insecure_channel(address, options)
    try:
        ca, key, certificate = ((certs / name).read_bytes() for name in ("ca.pem", "device.key", "device.pem"))
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; --certs must be a folder created by `edgefd certs device`"
        ) from error
    check_certificate(certs)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate), options)


def _proxy_options(host: str) -> list[tuple[str, int | str]]:
    """Return the options of a channel through the proxy for this host, or without a proxy."""
    proxy = proxy_of(host, GRPC_VARIABLES)
    if proxy is None:
        return [("grpc.enable_http_proxy", 0)]
    _LOG.info(
        "calls to %s go through the proxy %s: set no_proxy=%s to call it directly", host, without_password(proxy), host
    )
    return [("grpc.http_proxy", proxy)]


class GrpcLink:
    """Session of a device with its coordinator. Call `join` first."""

    def __init__(
        self,
        channel: grpc.Channel,
        client: int | None,
        log: Callable[[str], None],
        give_up: float = GIVE_UP,
        certs: Path | None = None,
        facts: Callable[[], pb.DeviceFacts] | None = None,
    ) -> None:
        """Prepare a session on a channel. Nothing is sent yet.

        Args:
            channel: channel of `connect`.
            client: number of this client; None if its certificate determines it.
            log: receives a line when the device waits for the coordinator, or a report arrives too late.
            give_up: seconds without an answer after which a call raises `RunError`.
            certs: the folder of `connect`, which is checked again when the coordinator does not answer.
            facts: returns what the status page shows of this device; None = nothing.
        """
        self._stub = DeviceLinkStub(channel)  # type: ignore[no-untyped-call]
        self._log = log
        self._client = client
        self._give_up = give_up
        self._certs, self._facts = certs, facts
        self._last_contact = 0.0
        """time of the last answer of the coordinator, or of the first attempt of the present call if that is later"""
        self._last_report: tuple[bytes, int] | None = None
        """the last report that was sent, and its round"""
        self._report_may_be_lost = False
        """True if the coordinator may have lost the last report"""
        self._terms: FederationTerms | None = None
        self._reply = pb.JoinReply()

    @property
    def membership(self) -> Membership:
        """The run that the device has joined, see `edgefd_client.link.Link`."""
        return Membership(self._reply.run, read_terms(self._reply.terms))

    @property
    def client(self) -> int:
        """Number of this device's client."""
        return self._reply.client

    @property
    def manifest_sha256(self) -> str:
        """sha256 of the manifest of the bundle that this client must have."""
        return self._reply.manifest_sha256

    def join(self, terms: FederationTerms | None, finished: str | None = None) -> None:
        """Open a session, or open it again if the coordinator has forgotten it.

        Args:
            terms: those of the device's bundle; with None, the session may only download one.
            finished: the run that the device has finished: wait for another one. None = take part in any.

        Raises:
            UserError: if the bundle belongs to another federation.
            RunEnded: if the coordinator now serves another run than that of the session.
            RunError: if the coordinator refuses the device.
        """
        self._terms = terms
        self.retry(self._join)
        while self._reply.run == finished:
            time.sleep(NEXT_RUN_PAUSE * random.uniform(0.5, 1.0))
            self._reply = pb.JoinReply()
            self.retry(self._join)

    def next_task(self, after: int, expected: ExpectedTask) -> Task | None:
        """Wait for the next round, see `edgefd_client.link.Link`. Repeat the last report to a restarted server."""
        held = digest_of(expected.teacher.held)

        def call() -> pb.TaskReply:
            if self._report_may_be_lost and self._last_report is not None:
                self._send_report(*self._last_report)
            request = pb.TaskRequest(session=self._reply.session, after=after, held=held)
            reply: pb.TaskReply = self._stub.NextTask(request, timeout=HOLD + LONG_TIMEOUT)
            return reply

        while True:
            reply = self.retry(call)
            match reply.WhichOneof("what"):
                case "task":
                    teacher = reply.task.teacher if reply.task.HasField("teacher") else None
                    task = read_task(reply.task.plan, teacher, expected, held=reply.task.held)
                    if task.plan.round <= after:
                        raise RunError(f"the coordinator sent round {task.plan.round} after round {after}")
                    return task
                case "end":
                    told = pb.TaskRequest(session=self._reply.session, after=after, told=True)
                    with suppress(grpc.RpcError):  # the coordinator then waits longer; the device needs no answer
                        self._stub.NextTask(told, timeout=SHORT_TIMEOUT)
                    if reply.end.reason:
                        raise RunEnded(f"the coordinator stopped: {shown(reply.end.reason)}")
                    return None
                case None:
                    raise RunError("unexpected reply from the coordinator: expected task, idle or end")

    def submit(self, report: bytes, round: int) -> None:
        """Send a report, see `edgefd_client.link.Link`. Drop a report that is refused because its round has ended."""
        self.retry(lambda: self._send_report(report, round))
        self._last_report = report, round

    def _send_report(self, report: bytes, round: int) -> None:
        request = pb.SubmitRequest(session=self._reply.session, run=self._reply.run, round=round, report=report)
        try:
            self._stub.SubmitReport(request, timeout=LONG_TIMEOUT)
        except grpc.RpcError as error:
            if _reason(error) != "round":
                raise
            if (report, round) != self._last_report:
                self._log(f"round {round}: the report arrived too late")
        self._report_may_be_lost = False

    def contribute(self, request: pb.ContributeRequest) -> pb.ContributeReply:
        """Offer samples for the proxy set, or send some of the offered samples. This needs no session.

        Raises:
            RunError: if the coordinator refuses.
        """
        reply: pb.ContributeReply = self.retry(lambda: self._stub.ContributeProxy(request, timeout=LONG_TIMEOUT))
        return reply

    def pieces(self, file: str, offset: int) -> Iterator[bytes]:
        """Yield the content of a file of the bundle from the given offset on.

        Raises:
            grpc.RpcError: if the download is interrupted; continue from the received bytes within `retry`.
        """
        request = pb.BundleRequest(session=self._reply.session, file=file, offset=offset)
        for chunk in self._stub.GetBundle(request, timeout=LONG_TIMEOUT):
            self._last_contact = time.monotonic()
            yield chunk.data

    def _join(self) -> None:
        request = pb.JoinRequest(protocol=PROTOCOL, client=self._client)
        if self._terms is not None:
            request.terms.CopyFrom(identity_message(self._terms))
        if self._facts is not None:
            request.facts.CopyFrom(self._facts())
        reply: pb.JoinReply = self._stub.Join(request, timeout=SHORT_TIMEOUT)
        with reading():
            terms = read_terms(reply.terms)
        if self._terms is not None:
            check_terms(terms, self._terms, "leave --bundle out to fetch it from the coordinator")
        if self._reply.run not in ("", reply.run):
            raise RunEnded(
                f"the coordinator is at run {shown(reply.run)} now, but this device is in run {shown(self._reply.run)}"
            )
        self._reply, self._report_may_be_lost = reply, True

    def retry(self, call: Callable[[], Result]) -> Result:
        """Repeat `call` until it is neither interrupted nor told to wait, and return its result.

        Raises:
            UserError, RunError: if the coordinator refuses.
            UserError: if it does not answer, and the certificate of this device is not valid.
            RunError: if the coordinator has not answered for `give_up` seconds.
        """
        pause, logged, self._last_contact = FIRST_PAUSE, "", time.monotonic()
        while True:
            try:
                return call()
            except grpc.RpcError as error:
                reason = _reason(error)
                if reason == "session" and self._reply.session:
                    self._reply.session = b""  # a second refusal after joining again is final
                    self.retry(self._join)
                    continue
                line = shown(error.details() or error.code().name)
                if not (reason in _TEMPORARY_REASONS or (not reason and error.code() in _RETRIED_CODES)):
                    kind = UserError if reason in ("terms", "protocol", "client") else RunError
                    raise kind(f"the coordinator refused: {line} ({error.code().name})") from error
            if reason:
                self._last_contact = time.monotonic()
            elif (silence := time.monotonic() - self._last_contact) > self._give_up:
                raise RunError(
                    f"the coordinator has not answered for {silence:.0f} s ({line}): the state is kept; run the same "
                    "command again to resume, or pass --give-up SECONDS to wait longer"
                )
            if line != logged:
                if self._certs is not None and not reason:
                    check_certificate(self._certs)  # it may have expired since the device connected
                self._log(f"waiting for the coordinator: {line}")
                logged = line
            time.sleep(pause * random.uniform(0.5, 1.0))  # the devices of a fleet must not all call at once
            pause = min(2 * pause, MAX_PAUSE)


def _reason(error: grpc.RpcError) -> str:
    """Return the reason that the coordinator gives for a refusal; "" if the error is not from the coordinator."""
    metadata: Iterable[Any] = error.trailing_metadata() or ()
    return next((str(value) for key, value in metadata if key == REASON), "")
