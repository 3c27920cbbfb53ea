"""A gRPC door of the coordinator: one event loop in one thread serves all devices.

A device is its certificate. TLS refuses those that the federation's CA has not signed, that have expired, or that are
missing; the allow-list says which client each of the others is, at every call. What is behind the door says what it
answers; each refusal is counted, logged and sent.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import grpc
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from edgefd.core.errors import UserError
from edgefd.wire.device_link import REASON, is_loopback
from edgefd_server.certs import AllowList
from edgefd_server.grpc_link.refusals import Refusal
from edgefd_server.grpc_link.requests import FRAME
from edgefd_server.monitoring.event_log import Log
from edgefd_server.monitoring.prometheus import ONLINE, LinkMetrics

SERVICE = "edgefd.v1.DeviceLink"

Context = aio.ServicerContext[Any, Any]
Handlers: TypeAlias = "Mapping[str, grpc.RpcMethodHandler[Any, Any]]"  # grpc's own class takes no parameters
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ListenAddress:
    """Where to listen, and as whom. Without certificates nothing is encrypted and nobody is who he says he is."""

    address: str
    certs: Path | None
    insecure: bool = False


class GrpcServer:
    """What all doors do. Use `listening`.

    Args:
        allowed: which certificate is which client; None: there are no certificates.
        metrics: to count in.
        note: writes a line of the log.
        seen: when each client last called (`time.monotonic`).
    """

    def __init__(self, allowed: AllowList | None, metrics: LinkMetrics, note: Log, seen: Mapping[int, float]) -> None:
        self.port = 0
        self._allowed, self._metrics, self._note, self._seen = allowed, metrics, note, seen
        self._loop = asyncio.new_event_loop()
        metrics.online.set_function(self._online)

    # for the coordinator's thread

    def do(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """The result of work in the loop."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # if it was interrupted; else this does nothing

    # in the loop

    def _online(self) -> int:
        return sum(time.monotonic() - seen < ONLINE for seen in list(self._seen.values()))

    async def _answered(
        self, call: str, request: bytes, context: Context, act: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """What `act` returns; a refusal is counted, logged and sent."""
        began = time.monotonic()
        self._metrics.bytes.labels("up").inc(len(request))
        try:
            answer = await act()
        except Refusal as refusal:
            self._metrics.refused.labels(call, refusal.reason).inc()
            line, device = str(refusal), _name(context)
            self._note("refused", call=call, reason=refusal.reason, line=line, device=device, peer=context.peer())
            await context.abort(refusal.status, line, ((REASON, refusal.reason),))
            raise AssertionError("abort raises") from refusal
        finally:
            self._metrics.call_seconds.labels(call).observe(time.monotonic() - began)
        if isinstance(answer, bytes):
            self._metrics.bytes.labels("down").inc(len(answer))
        return answer

    def _who(self, context: Context) -> int | None:
        """The client that the caller's certificate stands for."""
        if self._allowed is None:
            return None
        found = list(context.auth_context().get("x509_pem_cert", ()))
        if not found:
            raise Refusal(grpc.StatusCode.UNAUTHENTICATED, "certificate", "a certificate is needed here")
        try:
            return self._allowed.client_of(bytes(found[0]))
        except PermissionError as error:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "certificate", str(error)) from error
        except UserError as error:
            raise Refusal(grpc.StatusCode.UNAVAILABLE, "allow-list", str(error)) from error


def _name(context: Context) -> str:
    """What the caller's certificate calls it; "" without one."""
    found = list(context.auth_context().get("x509_common_name", ()))
    return bytes(found[0]).decode(errors="replace") if found else ""


class Calls(Protocol):
    """The calls of `DeviceLink`, each of a serialised request."""

    async def join(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.Join`."""
        ...

    async def next_task(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.NextTask`."""
        ...

    async def submit(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.SubmitReport`."""
        ...

    async def contribute(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.ContributeProxy`."""
        ...

    def get_bundle(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """`DeviceLink.GetBundle`."""
        ...


def handlers_of(link: Calls) -> Handlers:
    """Which of a door's functions answers which call."""
    return {
        "Join": grpc.unary_unary_rpc_method_handler(link.join),
        "NextTask": grpc.unary_unary_rpc_method_handler(link.next_task),
        "SubmitReport": grpc.unary_unary_rpc_method_handler(link.submit),
        "GetBundle": grpc.unary_stream_rpc_method_handler(link.get_bundle),
        "ContributeProxy": grpc.unary_unary_rpc_method_handler(link.contribute),
    }


@contextmanager
def listening(
    grpc_server: GrpcServer,
    handlers: Handlers,
    largest: int,
    listen: ListenAddress,
    credentials: grpc.ServerCredentials | None,
) -> Iterator[None]:
    """Listen to devices while the context lasts.

    Args:
        grpc_server: it.
        handlers: of its calls.
        largest: bytes that no honest request exceeds, beside `FRAME`.
        listen: where.
        credentials: what `credentials_of` made of it.

    Raises:
        UserError: if the port is taken.
    """
    thread = threading.Thread(target=grpc_server._loop.run_forever, name="device-link", daemon=True)
    thread.start()
    try:
        server = grpc_server.do(_start(grpc_server, handlers, largest, listen.address, credentials))
        try:
            yield
        finally:
            grpc_server.do(server.stop(1.0))
    finally:
        grpc_server._loop.call_soon_threadsafe(grpc_server._loop.stop)
        thread.join()
        grpc_server._loop.close()


async def _start(
    grpc_server: GrpcServer, handlers: Handlers, largest: int, address: str, credentials: grpc.ServerCredentials | None
) -> aio.Server:
    server = aio.server(options=_options(largest))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, dict(handlers)),))
    state = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    for service in (SERVICE, ""):
        await state.set(service, health_pb2.HealthCheckResponse.SERVING)
    try:
        add = server.add_insecure_port
        grpc_server.port = add(address) if credentials is None else server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise UserError(f"cannot listen on {address}: is the port taken, or the host another machine's?") from error
    await server.start()
    return server


def _options(largest: int) -> list[tuple[str, int]]:
    """Beyond twice the largest request gRPC itself hangs up; up to there the refusal is ours, and counted."""
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
    """TLS that asks every device for a certificate of the CA; None: plaintext.

    Raises:
        UserError: if certificates are missing, or it would be plaintext beyond this machine.
    """
    if listen.certs is None:
        if not (listen.insecure or is_loopback(listen.address)):
            raise UserError(
                f"without --certs everybody can read and answer what passes at {listen.address}: "
                "give --certs DIR (`edgefd certs init` makes one), or --insecure to have it so"
            )
        return None
    AllowList(listen.certs).current()
    try:
        key, certificate, ca = ((listen.certs / n).read_bytes() for n in ("server.key", "server.pem", "ca.pem"))
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}; `edgefd certs init` makes it") from error
    return grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
