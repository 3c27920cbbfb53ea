"""`GrpcServer`: base of the coordinator's gRPC front ends. One event loop in one thread serves all devices.

A certificate identifies a device. TLS refuses certificates that are missing, have expired, or were not signed by the
federation's CA. At every call, the allow-list maps the certificate to a client. A subclass answers the calls; every
refusal is logged and sent.

Connections, handshakes, incomplete messages and streams are limited in number and time. The server registers all calls
as streams of requests, which are the same bytes on the wire: so it knows the caller before the message has come.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeAlias, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2

from edgefd.core.addresses import Address, parse_address
from edgefd.core.descriptors import file_limit
from edgefd.core.errors import UserError
from edgefd.wire.device_link import REASON
from edgefd_server.certs import PLAINTEXT_WARNING, AllowList, plaintext_error
from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.open_calls import OpenCall, OpenCalls, Slots
from edgefd_server.grpc_link.refusals import Code, Refusal, status_of
from edgefd_server.grpc_link.requests import FRAME, parse_request
from edgefd_server.monitoring.event_log import Log
from edgefd_server.monitoring.prometheus import ONLINE, LinkMetrics

SERVICE, HEALTH = "edgefd.v1.DeviceLink", "grpc.health.v1.Health"
HANDSHAKE_SECONDS = 20.0
"""seconds within which a new connection must have completed TLS and HTTP/2: as many as a device takes for an attempt"""
IDLE_SECONDS = 300.0
"""seconds without a call after which a connection is closed; a device opens it again by itself"""
AGE_SECONDS, GRACE_SECONDS = 1800.0, 180.0
"""age at which a connection is replaced by a new one, and seconds for its calls to end: what was written for a device
that does not read it is freed with the connection"""
READ_SECONDS = 120.0
"""seconds within which a message must have come: as many as a device takes for a call"""
STREAM_SECONDS = 150.0
"""seconds that a download may take: more than a device takes before it continues with a new call"""
CONNECTIONS = 2048
"""most connections, unless the federation has more than a quarter as many clients"""
PER_DEVICE = 2
"""most calls of one device whose message is incomplete, and most open downloads of one device"""
IN_ALL = 256
"""most such calls, and most downloads, of all devices together, unless `PER_DEVICE` for each client are more"""
REVOCATION_SECONDS = 0.5
"""seconds between two checks of the open calls against the allow-list"""
_LEAST_LIMIT = 4 * 2**20  # gRPC ends the call of a longer message before edgefd can say why
_FAREWELL_SECONDS = 1.0  # for the refusal of a stream that is not read

Context = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # grpc's own class takes no parameters
Answer = TypeVar("Answer")
Act = Callable[[bytes, Context], Awaitable[bytes]]
"""answers a call, from its serialised request; returns the serialised reply"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ListenAddress:
    """An address to listen on. Without certificates, connections are unencrypted and unauthenticated.

    Raises:
        UserError: if it has another form.
    """

    OPTION: ClassVar[str] = "--listen"
    """name of the option in errors"""
    address: str
    """HOST:PORT"""
    certs: Path | None
    """folder of certificates (`edgefd certs init`); None = plaintext"""
    insecure: bool = False
    """whether plaintext is allowed beyond this machine"""

    def __post_init__(self) -> None:
        _ = self.parsed

    @property
    def parsed(self) -> Address:
        """The address as host and port."""
        return parse_address(self.address, self.OPTION)


class GrpcServer:
    """The common part of the gRPC front ends. It refuses the calls that a front end does not have in `_calls`.

    Args:
        listen: the address, and the folder of certificates.
        metrics: count calls and bytes.
        note: writes an event to the log; refusals are counted there.
        seen: time of each client's last call (`time.monotonic`).
        refuse: raises the refusal of a call, given the client of the caller's certificate.

    Raises:
        UserError: if certificates are missing, or connections beyond this machine would be plaintext.
    """

    def __init__(
        self,
        listen: ListenAddress,
        metrics: LinkMetrics,
        note: Log,
        seen: Mapping[int, float],
        refuse: Callable[[int | None], NoReturn],
    ) -> None:
        self.port = 0
        self._listen, self._credentials = listen, credentials_of(listen)
        self._allowed = None if listen.certs is None else AllowList(listen.certs)
        self._metrics, self._note, self._seen, self._refuse = metrics, note, seen, refuse
        self._calls: dict[str, Act] = {"Check": self.check_health, "unknown": self.refuse_unknown}
        """the functions that answer calls with one reply, by the name of the call"""
        self._files = ExitStack()
        """the files that a front end has opened; they are closed at the end"""
        self._open = OpenCalls()
        self._loop = asyncio.new_event_loop()
        metrics.online.set_function(self._online)

    # for the coordinator's thread

    def do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Run a coroutine in the event loop and return its result."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only if the wait was interrupted

    @contextmanager
    def listening(self, largest: int, n_clients: int) -> Iterator[Self]:
        """Listen to devices while the context lasts.

        Args:
            largest: bytes that no honest request exceeds, in addition to `FRAME`.
            n_clients: number of clients of the federation.

        Raises:
            UserError: if the port is taken.
        """
        in_all = max(IN_ALL, PER_DEVICE * n_clients)
        self._reading, self._streaming = Slots(in_all, PER_DEVICE), Slots(in_all, PER_DEVICE)
        thread = threading.Thread(target=self._loop.run_forever, name="device-link", daemon=True)
        thread.start()
        try:
            server = self.do(self._start(_options(largest, _most_connections(n_clients))))
            try:
                yield self
            finally:
                self.do(self._stop(server))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    # in the event loop

    async def _start(self, options: list[tuple[str, int]]) -> aio.Server:
        server, address = aio.server(options=options), self._listen.address
        handlers = {call: self._unary(call) for call in ("Join", "NextTask", "SubmitReport", "ContributeProxy")}
        handlers["GetBundle"] = self._stream("GetBundle")
        for service, calls in ((SERVICE, handlers), (HEALTH, {"Check": self._unary("Check")})):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, calls),))
        server.add_generic_rpc_handlers((_OtherCalls(self._unary("unknown")),))
        try:
            if self._credentials is None:
                self.port = server.add_insecure_port(address)
            else:
                self.port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise UserError(
                f"cannot listen on {address}: is the port taken, or the host that of another machine?"
            ) from error
        await server.start()
        self._checks = self._loop.create_task(self._end_forbidden())
        return server

    async def _stop(self, server: aio.Server) -> None:
        self._checks.cancel()
        await server.stop(1.0)
        self._files.close()

    async def _end_forbidden(self) -> None:
        while True:
            await asyncio.sleep(REVOCATION_SECONDS)
            self._open.end_forbidden()

    def _online(self) -> int:
        return sum(time.monotonic() - seen < ONLINE for seen in list(self._seen.values()))

    async def _answer(self, call: str, act: Callable[[OpenCall], Awaitable[Answer]], context: Context) -> Answer:
        """Return the result of `act`. A refusal is logged and sent."""
        began = time.monotonic()
        try:
            device = self._device(context)
            with self._open.opened(device, lambda: self._certified(context)) as opened:
                return await act(opened)
        except Refused as refused:
            line, name = str(refused), _device_name(context)
            self._note("refused", call=call, reason=refused.reason, line=line, device=name, peer=context.peer())
            with suppress(TimeoutError, aio.InternalError):  # gRPC cannot send it while a piece is not read
                async with asyncio.timeout(_FAREWELL_SECONDS):
                    await context.abort(status_of(refused), line, ((REASON, refused.reason),))
            raise asyncio.CancelledError from refused  # the device does not read, not even a refusal
        finally:
            self._metrics.call_seconds.labels(call).observe(time.monotonic() - began)

    def _unary(self, call: str) -> Handler:
        async def answer(requests: object, context: Context) -> bytes:
            async def act(opened: OpenCall) -> bytes:
                request = await self._message(opened, context)
                return await self._calls.get(call, self._refused)(request, context)

            reply = await self._answer(call, act, context)
            self._metrics.bytes.labels("down").inc(len(reply))
            return reply

        return grpc.stream_unary_rpc_method_handler(answer)

    def _stream(self, call: str) -> Handler:
        async def answer(requests: object, context: Context) -> None:
            async def act(opened: OpenCall) -> None:
                request = await self._message(opened, context)
                with self._streaming.taken(opened):
                    async with _deadline(STREAM_SECONDS, "the download takes longer than"):
                        await self.send_file(request, context)

            await self._answer(call, act, context)

        return grpc.stream_stream_rpc_method_handler(answer)

    async def _message(self, call: OpenCall, context: Context) -> bytes:
        """Return the message of a call when all of it has come.

        Raises:
            Refusal: if it does not come in time, or the call ends before it.
        """
        with self._reading.taken(call):
            async with _deadline(READ_SECONDS, "the message has not come within"):
                message = await context.read()
        if not isinstance(message, bytes):
            line = "the call ended before its message was complete: the device gave up, or the message is far too long"
            raise Refusal(Code.INVALID_ARGUMENT, "cut", line)
        self._metrics.bytes.labels("up").inc(len(message))
        return message

    async def send_file(self, request: bytes, context: Context) -> None:
        """Refuse `DeviceLink.GetBundle`."""
        await self._refused(request, context)

    async def check_health(self, request: bytes, context: Context) -> bytes:
        """Answer `grpc.health.v1.Health.Check`."""
        service = parse_request(health_pb2.HealthCheckRequest(), request, FRAME).service
        if service not in (SERVICE, ""):
            raise Refusal(Code.NOT_FOUND, "protocol", f"there is no service {service!r}")
        status = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
        return bytes(status.SerializeToString())

    async def refuse_unknown(self, request: bytes, context: Context) -> bytes:
        """Refuse a call that no version of the link has."""
        raise Refusal(Code.UNIMPLEMENTED, "protocol", f"this coordinator has the calls of {SERVICE} only, and health")

    async def _refused(self, request: bytes, context: Context) -> bytes:
        self._refuse(self._certified(context))

    def _device(self, context: Context) -> Hashable:
        """Return who calls: the client of the certificate or, without certificates, the connection."""
        client = self._certified(context)
        return context.peer() if client is None else client

    def _certified(self, context: Context) -> int | None:
        """Return the client of the caller's certificate; None without certificates."""
        if self._allowed is None:
            return None
        certificates = list(context.auth_context().get("x509_pem_cert", ()))
        if not certificates:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "certificate", "this coordinator requires a certificate")
        try:
            return self._allowed.client_of(bytes(certificates[0]))
        except PermissionError as error:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "certificate", str(error)) from error
        except UserError as error:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "allow-list", str(error)) from error


class _OtherCalls(grpc.GenericRpcHandler):
    """Has one handler for all calls that no other handler has: so they are refused with a reason, and counted."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """Implement `grpc.GenericRpcHandler`."""
        return self._handler


def _device_name(context: Context) -> str:
    """Return the common name in the caller's certificate; "" without one."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return bytes(names[0]).decode(errors="replace") if names else ""


@asynccontextmanager
async def _deadline(seconds: float, line: str) -> AsyncIterator[None]:
    """Refuse the call if the context lasts longer than that; the line of text ends with the seconds."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Refusal(Code.DEADLINE_EXCEEDED, "deadline", f"{line} {seconds:g} s") from None


def _most_connections(n_clients: int) -> int:
    """Return how many connections to accept; each is an open file, and half of the files are for other purposes."""
    possible = file_limit() // 2
    if possible < n_clients:
        logger.warning("the limit on open files allows %d connections for %d clients: raise it", possible, n_clients)
    return min(max(CONNECTIONS, 4 * n_clients), possible)


def _options(largest: int, connections: int) -> list[tuple[str, int]]:
    """Return the options of the gRPC server.

    gRPC itself ends calls whose request is far too long. edgefd refuses and counts shorter ones that are too long.
    """
    return [
        ("grpc.max_receive_message_length", max(2 * (largest + FRAME), _LEAST_LIMIT)),
        ("grpc.max_allowed_incoming_connections", connections),
        ("grpc.server_handshake_timeout_ms", round(1000 * HANDSHAKE_SECONDS)),
        ("grpc.max_connection_idle_ms", round(1000 * IDLE_SECONDS)),
        ("grpc.max_connection_age_ms", round(1000 * AGE_SECONDS)),
        ("grpc.max_connection_age_grace_ms", round(1000 * GRACE_SECONDS)),
        ("grpc.max_metadata_size", 16 * 2**10),
        ("grpc.max_concurrent_streams", 16),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.so_reuseport", 0),
    ]


def credentials_of(listen: ListenAddress) -> grpc.ServerCredentials | None:
    """Return TLS credentials that require a certificate of the CA from every device; None for plaintext.

    Raises:
        UserError: if certificates are missing, or connections beyond this machine would be plaintext.
    """
    if listen.certs is None:
        if not (listen.insecure or listen.parsed.is_loopback):
            raise plaintext_error(listen.address)
        return None
    AllowList(listen.certs).current()
    try:
        key, certificate, ca = ((listen.certs / n).read_bytes() for n in ("server.key", "server.pem", "ca.pem"))
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename}: {error.strerror}; create it with `edgefd certs init`"
        ) from error
    return grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)


def warn_if_plaintext(listen: ListenAddress, consequence: str = "") -> None:
    """Log a warning if connections to that address are plaintext.

    Args:
        listen: the address.
        consequence: what this means for the data that are sent, where it means more than for a run.
    """
    if listen.certs is None:
        logger.warning("%s%s", PLAINTEXT_WARNING, consequence and f": {consequence}")
