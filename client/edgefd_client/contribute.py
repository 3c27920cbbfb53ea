"""Giving raw private samples for the proxy set, before a run: nothing is sent unless the user says `--yes`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.arrays import Int64
from edgefd.core.errors import RunError, UserError
from edgefd.data.npz import finite_samples, whole_labels
from edgefd.wire.device_link import PROTOCOL, rows_a_piece
from edgefd_client.contribution import RECORD, Contribution, choose, load_contribution, save_contribution
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_client.sources import NpzSource
from edgefd_client.state import exclusive_lock


@dataclass(frozen=True)
class Asked:
    """What the user asked for."""

    server: str
    certs: Path | None
    insecure: bool
    client: int | None
    data: Path
    state: Path
    fraction: float
    seed: int
    keep: bool
    yes: bool
    give_up: int


def contribute(asked: Asked, say: Callable[[str], None]) -> None:
    """Send a fraction of the private samples to a coordinator that collects them.

    Raises:
        UserError: if the user has not said yes, or asks for what cannot be; nothing was sent.
        RunError: if the coordinator refuses, or the record cannot be written.
    """
    if not 0 < asked.fraction < 1:
        raise UserError(f"--fraction is the share of the samples that is given away: in (0, 1), not {asked.fraction:g}")
    if asked.seed < 0:
        raise UserError(f"--seed must be 0 or more, not {asked.seed}")
    if asked.give_up < 1:
        raise UserError("--give-up must be at least 1 second")
    if asked.client is None and asked.certs is None:
        raise UserError("--client must be given: which client of the federation this is")
    if asked.client is not None and asked.client < 0:
        raise UserError("--client is 0, 1, ...: which client of the federation this is")
    x, y = raw_data(asked.data)
    given = choose(x, y, asked.fraction, asked.seed, asked.keep)
    what = f"{len(given.rows)} of {len(x)} RAW private samples, without labels,"
    whom = f"to the coordinator at {asked.server}, and from there to every client of the federation"
    if not asked.yes:
        raise UserError(f"this would send {what} {whom}; nobody can take them back. Nothing was sent: --yes sends them")
    with exclusive_lock(asked.state), connect(asked.server, asked.certs, asked.insecure) as channel:
        before = load_contribution(asked.state)
        if before is not None and not before.equals(given):
            raise UserError(
                f"{asked.state / RECORD}: this device has offered {len(before.rows)} other samples already, or with "
                "another --keep; give the --data, --fraction, --seed and --keep of then to send those again"
            )
        if asked.certs is None:
            print("warning: without --certs nothing is encrypted and nobody proves who he is", file=sys.stderr)
        say(f"sending {what} {whom}")
        known = send(GrpcLink(channel, asked.client, say, asked.give_up), x[given.rows], given, asked)
    say("the coordinator had them already" if known else "the coordinator has them")


def raw_data(path: Path) -> tuple[npt.NDArray[Any], Int64]:
    """Samples, uint8 or float32, and labels, to choose by.

    Raises:
        UserError: if it is no npz of such.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path}: samples are contributed from an .npz with x and y")
    x, y = NpzSource(path).load()
    x = finite_samples(x, str(path))
    return x, whole_labels(y, len(x), str(path))


def send(link: GrpcLink, x: npt.NDArray[Any], given: Contribution, asked: Asked) -> bool:
    """Hand over the samples x; whether they were there already. The first call, which may be refused, holds none."""
    row = x[0].nbytes
    request = pb.ContributeRequest(
        protocol=PROTOCOL,
        client=asked.client,
        rows=len(x),
        dtype=str(x.dtype),
        shape=x.shape[1:],
        sha256=bytes.fromhex(given.sha256),
    )
    reply = link.contribute(request)
    save_contribution(asked.state, given)
    raw = np.ascontiguousarray(x)
    while reply.have < len(x):
        request.offset = reply.have
        request.samples = raw[reply.have : reply.have + rows_a_piece(row)].tobytes()
        reply = link.contribute(request)
    if reply.have > len(x):
        raise RunError(f"the coordinator says that it has {reply.have} samples of {len(x)}")
    return reply.known
