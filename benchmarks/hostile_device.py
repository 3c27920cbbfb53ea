"""A hostile device for `benchmarks.hostile`: it has a valid certificate, and attacks until the run ends.

In each round it submits every report of `hostile_reports`. All the time, it opens connections that never speak, streams
that it does not read and calls that it never completes, and makes calls that fill the log.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from edgefd_proto import edgefd_pb2 as pb
from edgefd_proto.edgefd_pb2_grpc import DeviceLinkStub
from grpc import aio

from edgefd.wire.bundle_reader import read_bundle
from edgefd.wire.device_link import PROTOCOL, identity_message

WIDE = 2**26 - 1
"""number of values per row that a report claims to expand to"""
IDLE, STREAMS, HALF_OPEN = 300, 64, 64
"""connections, streams and calls that are open at the same time"""
ESCAPES = "\x1b[2J\x1b]0;title\x07"
"""codes that clear a terminal and set its title"""
_OWN_SOCKET = [("grpc.use_local_subchannel_pool", 1)]  # otherwise channels of one process share a connection


def hostile_reports(client: int, plan: pb.RoundPlan, classes: int) -> Iterator[bytes]:
    """Yield a report of each kind that a coordinator must refuse or must not believe."""

    def report(metrics: dict[str, float] | None = None, **fields: Any) -> bytes:
        knowledge = pb.Knowledge(**{"id_gaps": plan.id_gaps, "width": classes} | fields)
        return pb.Report(
            client=client, round=plan.round, knowledge=knowledge, metrics=metrics or {}
        ).SerializeToString()

    def full(number: float, kind: str = "<f2") -> bytes:
        return np.full(len(plan.id_gaps) * classes, number, kind).tobytes()

    def uniform() -> bytes:
        return full(1 / classes)

    one_row = {"id_gaps": plan.id_gaps[:1], "width": WIDE}
    half, single = pb.CODEC_FLOAT16, pb.CODEC_FLOAT32
    yield report(**one_row, codec=half, kept=1, values=bytes(4), classes=bytes(4))
    yield report(**one_row, codec=pb.CODEC_LABEL, values=bytes(4))
    yield report(codec=single, values=full(1e30, "<f4"))
    for number in (6e4, -1.0, 0.0, np.nan):
        yield report(codec=half, values=full(number))
    logits = np.random.default_rng(plan.round).normal(0, 5, (len(plan.id_gaps), classes))
    yield report(codec=half, values=logits.astype("<f2").tobytes())
    yield report(id_gaps=[2**32 - 1] * 4, codec=half, values=bytes(8 * classes))
    for metrics in ({"correct/zz": 1.0}, {"bin_count/0": 1.0}, {"accuracy": 1.0}, {"train_loss": 1.7e308}):
        yield report(metrics, codec=half, values=uniform())
    yield pb.Report(client=client + 1, round=plan.round, knowledge=pb.Knowledge(width=classes)).SerializeToString()
    yield np.random.default_rng(plan.round).bytes(1000)
    yield bytes(3 * 2**20)


class HostileDevice:
    """One device with a valid certificate of a client."""

    def __init__(self, address: str, certs: Path, bundle: Path) -> None:
        self._address = address
        ca, key, pem = ((certs / name).read_bytes() for name in ("ca.pem", "device.key", "device.pem"))
        self._credentials = grpc.ssl_channel_credentials(ca, key, pem)
        self._terms = identity_message(read_bundle(bundle).manifest.terms)
        self._joined = pb.JoinReply()
        self.refused: dict[str, int] = {}
        """number of refused calls by the reason of the coordinator"""

    async def run(self) -> None:
        """Attack until the coordinator says that the run is over, or has gone."""
        async with aio.secure_channel(self._address, self._credentials) as channel:
            stub: Any = DeviceLinkStub(channel)  # type: ignore[no-untyped-call]
            request = pb.JoinRequest(protocol=PROTOCOL, terms=self._terms)
            self._joined = await stub.Join(request, timeout=60, wait_for_ready=True)
            floods = [self._idle_connections(), self._unread_streams(), self._half_open_calls(), self._noise(stub)]
            tasks = [asyncio.create_task(flood) for flood in floods]
            try:
                await self._report(stub)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _report(self, stub: Any) -> None:
        after = -1
        while True:
            request = pb.TaskRequest(session=self._joined.session, after=after)
            reply = await self._called(lambda request=request: stub.NextTask(request, timeout=60))
            if reply is None:
                await asyncio.sleep(0.2)
            elif reply.HasField("end"):
                return
            elif reply.HasField("task"):
                plan = pb.RoundPlan.FromString(reply.task.plan)
                after = plan.round
                for report in hostile_reports(self._joined.client, plan, self._joined.terms.n_classes):
                    await self._called(lambda report=report, after=after: self._submit(stub, report, after))

    def _submit(self, stub: Any, report: bytes, round: int) -> Any:
        fields = {"session": self._joined.session, "run": self._joined.run, "round": round, "report": report}
        return stub.SubmitReport(pb.SubmitRequest(**fields), timeout=10)

    async def _called(self, call: Callable[[], Any]) -> Any:
        """Return the reply of a call, or None if it is refused."""
        try:
            return await call()
        except grpc.RpcError as error:
            metadata = dict(error.trailing_metadata() or ())  # type: ignore[attr-defined]
            reason = metadata.get("edgefd-reason") or error.code().name  # type: ignore[attr-defined]
            self.refused[reason] = self.refused.get(reason, 0) + 1
            if reason == "rate":
                await asyncio.sleep(0.05)
            return None

    async def _idle_connections(self) -> None:
        host, _, port = self._address.rpartition(":")
        while True:
            opened = []
            for _ in range(IDLE):
                with suppress(OSError, TimeoutError):
                    opened.append(await asyncio.wait_for(asyncio.open_connection(host, int(port)), 2))
            await asyncio.sleep(3)
            for _, writer in opened:
                writer.close()

    async def _unread_streams(self) -> None:
        request = pb.BundleRequest(session=self._joined.session, file="proxy.xz")
        await self._held(lambda stub: stub.GetBundle(request, timeout=20), STREAMS)

    async def _half_open_calls(self) -> None:
        async def never() -> AsyncIterator[pb.SubmitRequest]:
            await asyncio.sleep(20)
            yield pb.SubmitRequest()

        method = "/edgefd.v1.DeviceLink/SubmitReport"

        def call(stub: Any) -> Any:
            return stub.channel.stream_unary(method, pb.SubmitRequest.SerializeToString)(never(), timeout=20)

        await self._held(call, HALF_OPEN)

    async def _held(self, call: Callable[[Any], Any], count: int) -> None:
        """Keep `count` calls open, 16 on each connection, and open them again when they end."""
        while True:
            channels = [aio.secure_channel(self._address, self._credentials, _OWN_SOCKET) for _ in range(count // 16)]
            stubs = []
            for channel in channels:
                stub: Any = DeviceLinkStub(channel)  # type: ignore[no-untyped-call]
                stub.channel = channel
                stubs.append(stub)
            calls = [call(stubs[i % len(stubs)]) for i in range(count)]
            await asyncio.sleep(5)
            for each in calls:
                each.cancel()
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _noise(self, stub: Any) -> None:
        """Make calls that the coordinator refuses, up to 100 a second, with escape codes in every text."""
        while True:
            bundle = pb.BundleRequest(session=self._joined.session, file=ESCAPES)
            await self._called(lambda bundle=bundle: _all(stub.GetBundle(bundle, timeout=5)))
            request = pb.SubmitRequest(session=self._joined.session, run=ESCAPES, report=b"")
            await self._called(lambda request=request: stub.SubmitReport(request, timeout=5))
            await asyncio.sleep(0.01)


async def _all(stream: Any) -> None:
    async for _ in stream:
        pass


def main() -> None:
    """Attack, and print the number of refused calls by reason."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--address", required=True)
    options.add_argument("--certs", type=Path, required=True)
    options.add_argument("--bundle", type=Path, required=True)
    chosen = options.parse_args()
    device = HostileDevice(chosen.address, chosen.certs, chosen.bundle)
    try:
        asyncio.run(device.run())
    finally:
        print(f"refused calls by reason: {device.refused}", flush=True)


if __name__ == "__main__":
    main()
