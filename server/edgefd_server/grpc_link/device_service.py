"""The device link over gRPC: a run's door (`edgefd_server.grpc_link.server`) with a `DeviceSessions` behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefd_proto import edgefd_pb2 as pb

from edgefd.wire.device_link import CHUNK, HOLD
from edgefd_server.certs import AllowList
from edgefd_server.grpc_link.server import Context, GrpcServer, ListenAddress, credentials_of, handlers_of, listening
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.prometheus import LinkMetrics

__all__ = ["DeviceLink", "ListenAddress", "open_link"]

_MARGIN = 2.0  # a poll is answered so long before the device's own deadline
_IDLE = pb.TaskReply(idle=pb.Idle()).SerializeToString()


@dataclass(frozen=True, eq=False)
class _Poll:
    """A call that waits for a task later than `after`."""

    after: int
    woken: asyncio.Future[None]


class DeviceLink(GrpcServer):
    """A door to a `RoundCoordinator`. Use `open_link`."""

    def __init__(self, sessions: DeviceSessions, allowed: AllowList | None, metrics: LinkMetrics) -> None:
        super().__init__(allowed, metrics, sessions.coordinator.note, sessions.seen)
        self._reception, self._desk = sessions, sessions.coordinator
        self._polls: dict[int, _Poll] = {}
        """the call of each client that waits for a task"""
        self._desk.watch(self._news)

    # for the coordinator's thread

    def _news(self) -> None:
        if (opened := self._desk.round) is not None:
            self._metrics.round.set(opened.plan.round)
        self._loop.call_soon_threadsafe(self._wake)

    # in the loop

    def _wake(self) -> None:
        """Answer the polls of those for whom there is something to do."""
        over = self._desk.ended is not None
        for client, poll in self._polls.items():
            if not poll.woken.done() and (over or self._desk.task(client, poll.after) is not None):
                poll.woken.set_result(None)

    # calls: the request comes as bytes, because it is measured before it is parsed

    async def join(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.Join`."""

        async def act() -> bytes:
            reply = self._reception.join(self._who(context), request)
            self._desk.note("join", client=reply.client, peer=context.peer())
            return reply.SerializeToString()

        return await self._answered("Join", request, context, act)

    async def next_task(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.NextTask`: held until there is something to do."""

        async def act() -> bytes:
            client, after = self._reception.asks(self._who(context), request)
            if (task := self._reception.task(client, after)) is None:
                await self._wait(client, after, context)
                self._who(context)  # it may have been revoked meanwhile
                task = self._reception.task(client, after)
            return _IDLE if task is None else task

        return await self._answered("NextTask", request, context, act)

    async def submit(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.SubmitReport`."""

        async def act() -> bytes:
            _, round, known = self._reception.submit(self._who(context), request)
            if not known:
                self._metrics.accepted.inc()
                if (opened := self._desk.round) is not None and opened.plan.round == round:
                    self._metrics.report_seconds.observe(time.monotonic() - opened.began)
            return pb.SubmitReply(known=known).SerializeToString()

        return await self._answered("SubmitReport", request, context, act)

    async def get_bundle(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """`DeviceLink.GetBundle`."""

        async def act() -> tuple[Path, int]:
            return self._reception.file(self._who(context), request)

        path, offset = await self._answered("GetBundle", request, context, act)
        with path.open("rb") as file:
            file.seek(offset)
            while piece := file.read(CHUNK):
                self._metrics.bytes.labels("down").inc(len(piece))
                yield pb.BundleChunk(data=piece).SerializeToString()

    async def contribute(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.ContributeProxy`: too late."""

        async def act() -> bytes:
            self._reception.contribute(self._who(context))

        return await self._answered("ContributeProxy", request, context, act)

    async def _wait(self, client: int, after: int, context: Context) -> None:
        """Until something happens, or it is time to answer. A second poll of the same client ends the first."""
        if (older := self._polls.get(client)) is not None and not older.woken.done():
            older.woken.set_result(None)
        poll = self._polls[client] = _Poll(after, self._loop.create_future())
        left = context.time_remaining()
        try:
            async with asyncio.timeout(HOLD if left is None else max(min(HOLD, left - _MARGIN), 0)):
                await poll.woken
        except TimeoutError:
            pass
        finally:
            if self._polls.get(client) is poll:
                del self._polls[client]


@contextmanager
def open_link(sessions: DeviceSessions, listen: ListenAddress, metrics: LinkMetrics) -> Iterator[DeviceLink]:
    """Listen to devices while the context lasts.

    Args:
        sessions: behind the link.
        listen: where, and with which certificates.
        metrics: to count in.

    Raises:
        UserError: if the port is taken, certificates are missing, or it would be plaintext beyond this machine.
    """
    credentials = credentials_of(listen)
    link = DeviceLink(sessions, None if listen.certs is None else AllowList(listen.certs), metrics)
    with listening(link, handlers_of(link), sessions.largest, listen, credentials):
        yield link
