"""The device link of a run over gRPC: a `GrpcServer` that answers calls with `DeviceSessions`."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.files import opened_plain
from edgefd.wire.device_link import CHUNK, HOLD
from edgefd_server.grpc_link.device_facts import device_facts
from edgefd_server.grpc_link.refusals import Code, Refusal
from edgefd_server.grpc_link.server import Context, GrpcServer, ListenAddress
from edgefd_server.grpc_link.sessions import DeviceSessions
from edgefd_server.monitoring.prometheus import LinkMetrics

_MARGIN = 2.0  # seconds before the device's own deadline at which a poll is answered
_IDLE = pb.TaskReply(idle=pb.Idle()).SerializeToString()


@dataclass(frozen=True, eq=False)
class _Poll:
    """A call of NextTask that waits."""

    after: int
    """the round after which a task is wanted"""
    woken: asyncio.Future[None]
    """done when the call must be answered"""


class DeviceLink(GrpcServer):
    """The gRPC front end of a `RoundCoordinator`. Use `open_link`."""

    def __init__(self, sessions: DeviceSessions, listen: ListenAddress, metrics: LinkMetrics) -> None:
        super().__init__(listen, metrics, sessions.coordinator.note, sessions.seen, sessions.contribute)
        self._calls |= {"Join": self.join, "NextTask": self.next_task, "SubmitReport": self.submit}
        self._sessions, self._coordinator = sessions, sessions.coordinator
        self._polls: dict[int, _Poll] = {}
        """the waiting call of each client that has one"""
        self._descriptors: dict[Path, int] = {}
        """descriptors of the files of the bundles that were read"""
        self._coordinator.watch(self._run_changed)

    # for the coordinator's thread

    def _run_changed(self) -> None:
        self._loop.call_soon_threadsafe(self._wake)

    @property
    def waiting(self) -> set[int]:
        """Clients whose call of NextTask waits for a task. Any thread may read it."""
        return set(self._polls)

    # in the event loop

    def _wake(self) -> None:
        """Wake the polls of the clients that have a task, or all polls when the run has ended."""
        ended = self._coordinator.ended is not None
        for client, poll in self._polls.items():
            if not poll.woken.done() and (ended or self._coordinator.next_task(client, poll.after) is not None):
                poll.woken.set_result(None)

    # calls: the request comes as bytes, because its size is checked before it is parsed

    async def join(self, request: bytes, context: Context) -> bytes:
        """Answer `DeviceLink.Join`."""
        reply = self._sessions.join(self._certified(context), request)
        facts = device_facts(pb.JoinRequest.FromString(request).facts, time.time())
        self._coordinator.note("join", client=reply.client, peer=context.peer(), **facts)
        return reply.SerializeToString()

    async def next_task(self, request: bytes, context: Context) -> bytes:
        """Answer `DeviceLink.NextTask` when there is a task, the run ends, or the device's deadline is near."""
        client, after, held = self._sessions.task_request(self._certified(context), request)
        if (task := self._sessions.next_task(client, after, held)) is None:
            await self._wait(client, after, context)
            self._certified(context)  # the certificate may have been revoked meanwhile
            task = self._sessions.next_task(client, after, held)
        return _IDLE if task is None else task

    async def submit(self, request: bytes, context: Context) -> bytes:
        """Answer `DeviceLink.SubmitReport`."""
        known = self._sessions.submit(self._certified(context), request)
        return pb.SubmitReply(known=known).SerializeToString()

    async def send_file(self, request: bytes, context: Context) -> None:
        """Answer `DeviceLink.GetBundle`."""
        path, offset = self._sessions.file(self._certified(context), request)
        file = self._file(path)
        while piece := os.pread(file, CHUNK, offset):
            offset += len(piece)
            await context.write(pb.BundleChunk(data=piece).SerializeToString())
            self._metrics.bytes.labels("down").inc(len(piece))

    def _file(self, path: Path) -> int:
        """Return the descriptor of a bundle's file, which all downloads share."""
        if path not in self._descriptors:
            try:
                file = opened_plain(path)  # it may have been replaced by a link or a pipe since it was verified
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise Refusal(Code.UNAVAILABLE, "busy", f"cannot read {path.name}: {reason}") from error
            self._descriptors[path] = self._files.enter_context(file).fileno()
        return self._descriptors[path]

    async def _wait(self, client: int, after: int, context: Context) -> None:
        """Wait until the poll is woken or must be answered. A second poll of the same client ends the first."""
        if (older := self._polls.get(client)) is not None and not older.woken.done():
            older.woken.set_result(None)
        poll = self._polls[client] = _Poll(after, self._loop.create_future())
        remaining = context.time_remaining()
        try:
            async with asyncio.timeout(HOLD if remaining is None else max(min(HOLD, remaining - _MARGIN), 0)):
                await poll.woken
        except TimeoutError:
            pass
        finally:
            if self._polls.get(client) is poll:
                del self._polls[client]


def open_link(
    sessions: DeviceSessions, listen: ListenAddress, metrics: LinkMetrics
) -> AbstractContextManager[DeviceLink]:
    """Listen to devices while the context lasts.

    Args:
        sessions: answer the calls.
        listen: the address, and the folder of certificates.
        metrics: count calls and bytes.

    Raises:
        UserError: if the port is taken, certificates are missing, or it would serve plaintext beyond this machine.
    """
    return DeviceLink(sessions, listen, metrics).listening(sessions.largest, sessions.coordinator.info.n_clients)
