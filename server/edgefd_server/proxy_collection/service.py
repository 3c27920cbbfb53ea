"""The gRPC front end of a coordinator that collects samples for a proxy set.

Of the calls of the device link, it answers only ContributeProxy. No request is trusted: its size is checked before it
is parsed, and the caller is identified before anything is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NoReturn

from edgefd_proto import edgefd_pb2 as pb

from edgefd.wire.device_link import rows_a_piece
from edgefd_server.coordinator.round_coordinator import Refused
from edgefd_server.grpc_link.rate_limit import DEFAULT_RATE, Limiter, Rate
from edgefd_server.grpc_link.requests import FRAME, check_version, identify_client, parse_request
from edgefd_server.grpc_link.server import Context, GrpcServer, ListenAddress
from edgefd_server.monitoring.prometheus import LinkMetrics
from edgefd_server.proxy_collection.store import Collection, Offer


class Collector:
    """Answers to the calls of devices, without the network. Used from one thread.

    The argument `certified` of its functions is the client of the calling device's certificate; None without
    certificates.

    Args:
        collection: takes the samples.
        rate: limit on the calls of each client.
        clock: returns the time in seconds.
    """

    def __init__(
        self, collection: Collection, rate: Rate = DEFAULT_RATE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.collection, self.limiter = collection, Limiter(rate, clock)
        row = collection.wanted.row
        self.largest = rows_a_piece(row) * row
        """bytes of samples that a request may hold"""

    def contribute(self, certified: int | None, request: bytes) -> pb.ContributeReply:
        """Answer `DeviceLink.ContributeProxy`."""
        self.limiter.pay(certified)
        message = parse_request(pb.ContributeRequest(), request, FRAME + self.largest)
        client = identify_client(certified, message, self.collection.wanted.n_clients)
        if certified is None:
            self.limiter.pay(client)
        check_version(message.protocol)
        offer = Offer(message.rows, message.dtype, tuple(message.shape), message.sha256)
        have, known = self.collection.take(client, offer, message.offset, message.samples)
        wanted = self.collection.wanted
        return pb.ContributeReply(have=have, known=known, low=wanted.low, high=wanted.high)

    def early(self, certified: int | None) -> NoReturn:
        """Refuse any other call: the device tries again by itself until the run has begun."""
        self.limiter.pay(certified)
        raise Refused("early", "the run has not begun: this coordinator is still collecting samples for its proxy set")


class CollectLink(GrpcServer):
    """The gRPC front end of a `Collection`. Use `open_collector`."""

    def __init__(self, collector: Collector, listen: ListenAddress, metrics: LinkMetrics) -> None:
        super().__init__(listen, metrics, collector.collection.note, collector.limiter.seen, collector.early)
        self._collector = collector
        self._calls["ContributeProxy"] = self.contribute

    async def contribute(self, request: bytes, context: Context) -> bytes:
        """Answer `DeviceLink.ContributeProxy`."""
        reply = self._collector.contribute(self._certified(context), request)
        self._metrics.contributions.set(len(self._collector.collection.contributors))
        return reply.SerializeToString()


def open_collector(
    collector: Collector, listen: ListenAddress, metrics: LinkMetrics
) -> AbstractContextManager[CollectLink]:
    """Listen to devices while the context lasts.

    Args:
        collector: answers the calls.
        listen: the address, and the folder of certificates.
        metrics: count calls and bytes.

    Raises:
        UserError: if the port is taken, certificates are missing, or it would serve plaintext beyond this machine.
    """
    return CollectLink(collector, listen, metrics).listening(collector.largest, collector.collection.wanted.n_clients)
