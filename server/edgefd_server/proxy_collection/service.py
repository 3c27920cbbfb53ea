"""The door of a coordinator that collects samples for a proxy set: of the device link's calls it answers one.

It believes nothing: a request is measured before it is parsed, and who calls is found out before anything is done.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import NoReturn

from edgefd_proto import edgefd_pb2 as pb

from edgefd.wire.device_link import rows_a_piece
from edgefd_server.certs import AllowList
from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.rate_limit import Limiter, Rate
from edgefd_server.grpc_link.refusals import refusal_of
from edgefd_server.grpc_link.requests import FRAME, check_version, claimed, parsed
from edgefd_server.grpc_link.server import Context, GrpcServer, ListenAddress, credentials_of, handlers_of, listening
from edgefd_server.monitoring.prometheus import LinkMetrics
from edgefd_server.proxy_collection.store import Collection, Offer

_RATE = Rate()


class Collector:
    """What it answers. No network here. Used from one thread."""

    def __init__(self, collection: Collection, rate: Rate = _RATE) -> None:
        self.collection, self.limiter = collection, Limiter(rate)
        row = collection.wanted.row
        self.largest = rows_a_piece(row) * row
        """bytes of samples in a request"""

    def contribute(self, who: int | None, request: bytes) -> pb.ContributeReply:
        """`DeviceLink.ContributeProxy`. `who` is the client that the certificate stands for; None without any."""
        if who is not None:
            self.limiter.pay(who)
        asked = parsed(pb.ContributeRequest(), request, FRAME + self.largest)
        client = claimed(who, asked, self.collection.wanted.n_clients)
        if who is None:
            self.limiter.pay(client)
        check_version(asked.protocol)
        offer = Offer(asked.rows, asked.dtype, tuple(asked.shape), asked.sha256)
        try:
            have, known = self.collection.take(client, offer, asked.offset, asked.samples)
        except Refused as refused:
            raise refusal_of(refused) from refused
        return pb.ContributeReply(have=have, known=known)

    def early(self, who: int | None) -> NoReturn:
        """All other calls: the device comes again by itself, and the run will have begun."""
        if who is not None:
            self.limiter.pay(who)
        raise refusal_of(Refused("early", "the run has not begun: samples for its proxy set are being collected"))


class CollectLink(GrpcServer):
    """A door to a `Collection`. Use `open_collector`."""

    def __init__(self, collector: Collector, allowed: AllowList | None, metrics: LinkMetrics) -> None:
        super().__init__(allowed, metrics, collector.collection.note, collector.limiter.seen)
        self._collector = collector

    async def contribute(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.ContributeProxy`."""

        async def act() -> bytes:
            reply = self._collector.contribute(self._who(context), request)
            self._metrics.contributions.set(len(self._collector.collection.contributors))
            return reply.SerializeToString()

        return await self._answered("ContributeProxy", request, context, act)

    async def _early(self, call: str, request: bytes, context: Context) -> bytes:
        async def act() -> bytes:
            self._collector.early(self._who(context))

        return await self._answered(call, request, context, act)

    async def join(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.Join`."""
        return await self._early("Join", request, context)

    async def next_task(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.NextTask`."""
        return await self._early("NextTask", request, context)

    async def submit(self, request: bytes, context: Context) -> bytes:
        """`DeviceLink.SubmitReport`."""
        return await self._early("SubmitReport", request, context)

    async def get_bundle(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """`DeviceLink.GetBundle`."""
        yield await self._early("GetBundle", request, context)


@contextmanager
def open_collector(collector: Collector, listen: ListenAddress, metrics: LinkMetrics) -> Iterator[CollectLink]:
    """Listen to devices while the context lasts.

    Args:
        collector: behind the link.
        listen: where, and with which certificates.
        metrics: to count in.

    Raises:
        UserError: if the port is taken, certificates are missing, or it would be plaintext beyond this machine.
    """
    credentials = credentials_of(listen)
    link = CollectLink(collector, None if listen.certs is None else AllowList(listen.certs), metrics)
    with listening(link, handlers_of(link), collector.largest, listen, credentials):
        yield link
