"""Many devices in one process, for `benchmarks.load`. Each has its own certificate and connection, but no model.

A device joins, then waits for tasks and answers each with a prepared report about every row, until the run ends.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from edgefd_proto import edgefd_pb2 as pb
from edgefd_proto.edgefd_pb2_grpc import DeviceLinkStub
from grpc import aio

from edgefd.core.knowledge import Knowledge
from edgefd.federation.terms import FederationTerms
from edgefd.federation.training import Training
from edgefd.wire import messages as wire
from edgefd.wire.device_link import PROTOCOL, terms_message

CODEC = "float16"
_JOIN, _TASK, _SUBMIT = 300.0, 150.0, 300.0  # seconds


def terms_for(classes: int, rounds: int = 1) -> FederationTerms:
    """Return the terms that the coordinator and the devices of a load run agree on; the coordinator sets the rounds."""
    return FederationTerms("edgefd", {}, CODEC, 0, classes, "", training=Training(rounds=rounds))


def prepared_report(client: int, rows: int, classes: int) -> pb.Report:
    """Create a report of this size. The round is set later."""
    values = np.random.default_rng(client).dirichlet(np.ones(classes), rows).astype(np.float32)
    knowledge = Knowledge(np.arange(rows), values, np.full(rows, 0.5, np.float32))
    return pb.Report(client=client, knowledge=pb.Knowledge.FromString(wire.encode(knowledge, CODEC)))


async def device(address: str, certs: Path, client: int, rows: int, classes: int) -> None:
    """Run one device, from its first call to the end of the run."""
    folder = certs / "devices" / f"d{client}"
    ca, key, pem = ((folder / name).read_bytes() for name in ("ca.pem", "device.key", "device.pem"))
    report = prepared_report(client, rows, classes)
    async with aio.secure_channel(address, grpc.ssl_channel_credentials(ca, key, pem)) as channel:
        stub: Any = DeviceLinkStub(channel)  # type: ignore[no-untyped-call]
        request = pb.JoinRequest(protocol=PROTOCOL, terms=terms_message(terms_for(classes)))
        joined: pb.JoinReply = await stub.Join(request, timeout=_JOIN, wait_for_ready=True)
        after = -1
        while True:
            reply: pb.TaskReply = await stub.NextTask(
                pb.TaskRequest(session=joined.session, after=after), timeout=_TASK
            )
            if reply.HasField("end"):
                acknowledgement = pb.TaskRequest(session=joined.session, after=after, told=True)
                with suppress(grpc.RpcError):  # the coordinator may have ended already
                    await stub.NextTask(acknowledgement, timeout=_TASK)
                return
            if not reply.HasField("task"):
                continue
            plan = pb.RoundPlan.FromString(reply.task.plan)
            if plan.closing:
                report.knowledge.CopyFrom(pb.Knowledge(width=classes, codec=report.knowledge.codec))
            report.round = after = plan.round
            submit = pb.SubmitRequest(
                session=joined.session, run=joined.run, round=after, report=report.SerializeToString(deterministic=True)
            )
            await stub.SubmitReport(submit, timeout=_SUBMIT)


async def fleet(address: str, certs: Path, clients: range, rows: int, classes: int) -> None:
    """Run all devices until each has received the end of the run. The first failure ends all of them."""
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(device(address, certs, client, rows, classes))


def main() -> None:
    """Run the devices that `benchmarks.load` requests."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--address", required=True)
    options.add_argument("--certs", type=Path, required=True)
    for name in ("first", "count", "rows", "classes"):
        options.add_argument(f"--{name}", type=int, required=True)
    chosen = options.parse_args()
    clients = range(chosen.first, chosen.first + chosen.count)
    asyncio.run(fleet(chosen.address, chosen.certs, clients, chosen.rows, chosen.classes))


if __name__ == "__main__":
    main()
