"""`GrpcServer`: base of the coordinator's gRPC front ends. One event loop in one thread serves all devices.

A certificate identifies a device. TLS refuses certificates that are missing, have expired, or were not signed by the
federation's CA. At every call, the allow-list maps the certificate to a client. A subclass answers the calls; every
refusal is logged and sent.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeAlias, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from edgefd.core.addresses import Address, parse_address
from edgefd.core.errors import UserError
from edgefd.wire.device_link import REASON
from edgefd_server.certs import PLAINTEXT_WARNING, AllowList, plaintext_error
from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.refusals import Refusal, status_of
from edgefd_server.grpc_link.requests import FRAME
from edgefd_server.monitoring.event_log import Log
from edgefd_server.monitoring.prometheus import ONLINE, LinkMetrics

SERVICE = "edgefd.v1.DeviceLink"

Context = aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # grpc's own class takes no parameters
Answer = TypeVar("Answer")
Act = Callable[[bytes, Context], Awaitable[Answer]]
"""answers a call, from its serialised request"""

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
        self._calls: dict[str, Act[bytes]] = {}
        """the functions that answer unary calls, by the name of the call"""
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
    def listening(self, largest: int) -> Iterator[Self]:
        """Listen to devices while the context lasts.

        Args:
            largest: bytes that no honest request exceeds, in addition to `FRAME`.

        Raises:
            UserError: if the port is taken.
        """
        thread = threading.Thread(target=self._loop.run_forever, name="device-link", daemon=True)
        thread.start()
        try:
            server = self.do(self._start(largest))
            try:
                yield self
            finally:
                self.do(server.stop(1.0))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    # in the event loop

    async def _start(self, largest: int) -> aio.Server:
        server, address = aio.server(options=_options(largest)), self._listen.address
        handlers = {call: self._unary(call) for call in ("Join", "NextTask", "SubmitReport", "ContributeProxy")}
        handlers["GetBundle"] = grpc.unary_stream_rpc_method_handler(self.get_bundle)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_service = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_service, server)
        for service in (SERVICE, ""):
            await health_service.set(service, health_pb2.HealthCheckResponse.SERVING)
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
        return server

    def _online(self) -> int:
        return sum(time.monotonic() - seen < ONLINE for seen in list(self._seen.values()))

    async def _answer(self, call: str, act: Act[Answer], request: bytes, context: Context) -> Answer:
        """Return the result of `act`. A refusal is logged and sent."""
        began = time.monotonic()
        self._metrics.bytes.labels("up").inc(len(request))
        try:
            answer = await act(request, context)
        except Refused as refused:
            line, device = str(refused), _device_name(context)
            self._note("refused", call=call, reason=refused.reason, line=line, device=device, peer=context.peer())
            await context.abort(status_of(refused), line, ((REASON, refused.reason),))
            raise AssertionError("abort raises") from refused
        finally:
            self._metrics.call_seconds.labels(call).observe(time.monotonic() - began)
        if isinstance(answer, bytes):
            self._metrics.bytes.labels("down").inc(len(answer))
        return answer

    def _unary(self, call: str) -> Handler:
        async def answer(request: bytes, context: Context) -> bytes:
            return await self._answer(call, self._calls.get(call, self._refused), request, context)

        return grpc.unary_unary_rpc_method_handler(answer)

    async def get_bundle(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Refuse `DeviceLink.GetBundle`."""
        yield await self._answer("GetBundle", self._refused, request, context)

    async def _refused(self, request: bytes, context: Context) -> bytes:
        self._refuse(self._certified(context))

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


def _device_name(context: Context) -> str:
    """Return the common name in the caller's certificate; "" without one."""
    names = list(context.auth_context().get("x509_common_name", ()))
    return bytes(names[0]).decode(errors="replace") if names else ""


def _options(largest: int) -> list[tuple[str, int]]:
    """Return the options of the gRPC server.

    gRPC itself ends calls whose request exceeds twice the largest one. Smaller requests that are too large are refused
    by edgefd, which counts them.
    """
    return [
        ("grpc.max_receive_message_length", 2 * (largest + FRAME)),
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
