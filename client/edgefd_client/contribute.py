"""Contribution of raw private samples to the proxy set before a run. Nothing is sent without `--yes`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.arrays import Int64
from edgefd.core.errors import RunError, UserError
from edgefd.data.labels import plain_labels
from edgefd.data.npz import finite_samples
from edgefd.wire.device_link import PROTOCOL, rows_a_piece
from edgefd_client.contribution import RECORD, Contribution, choose, load_contribution, save_contribution
from edgefd_client.grpc_link import GrpcLink, connect
from edgefd_client.link import GIVE_UP
from edgefd_client.options import DeviceOptions
from edgefd_client.sources import NpzSource
from edgefd_client.state import exclusive_lock, new_state

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ContributeOptions(DeviceOptions):
    """Options of `edgefd-client contribute`; `data` is an npz."""

    server: str
    fraction: float
    """share of the samples of each class to contribute, in (0, 1)"""
    seed: int
    """seed of the choice of samples"""
    keep: bool
    """also train on the contributed samples"""
    yes: bool
    """consent of the user: without it, nothing is sent"""

    def check(self) -> None:
        """Check the numbers, see `DeviceOptions`."""
        if not 0 < self.fraction < 1:
            raise UserError(
                f"--fraction is the share of the samples to contribute: it must be in (0, 1), not {self.fraction:g}"
            )
        if self.seed < 0:
            raise UserError(f"--seed must be 0 or more, not {self.seed}")
        super().check()


def contribute(options: ContributeOptions, log: Callable[[str], None]) -> None:
    """Send a fraction of the private samples to a coordinator that collects them; without consent, only print how many.

    `log` receives the lines that the command prints.

    Raises:
        UserError: if an option is not valid; nothing was sent.
        RunError: if the coordinator refuses, or the record cannot be written.
    """
    options.check()
    x, y = raw_data(options.data)
    contribution = choose(x, y, options.fraction, options.seed, options.keep)
    samples = f"{len(contribution.rows)} of {len(x)} RAW private samples, without labels,"
    recipients = f"to the coordinator at {options.server}, and from there to every client of the federation"
    if not options.yes:
        log(f"this would send {samples} {recipients}")
        log("they cannot be taken back; nothing was sent: pass --yes to send them")
        return
    with (
        new_state(options.state),
        exclusive_lock(options.state),
        connect(options.server, options.certs, bool(options.insecure)) as channel,
    ):
        before = load_contribution(options.state)
        if before is not None and not before.equals(contribution):
            raise UserError(
                f"{options.state / RECORD}: this device has offered {len(before.rows)} other samples already, or with "
                "another --keep; repeat the former --data, --fraction, --seed and --keep to send those again"
            )
        log(f"sending {samples} {recipients}")
        link = GrpcLink(channel, options.client, _LOG.warning, options.give_up or GIVE_UP, options.certs)
        known = send(link, x[contribution.rows], contribution, options)
    log("the coordinator had them already" if known else "the coordinator has them")


def raw_data(path: Path) -> tuple[npt.NDArray[Any], Int64]:
    """Read samples (uint8 or float32) and the labels by which they are chosen.

    Raises:
        UserError: if the file is not an npz with valid x and y.
    """
    if path.suffix != ".npz":
        raise UserError(f"{path}: samples can be contributed only from an .npz with x and y")
    x, y = NpzSource(path).load()
    x = finite_samples(x, str(path))
    return x, np.unique(plain_labels(y, len(x), str(path)), return_inverse=True)[1].astype(np.int64)


def send(link: GrpcLink, x: npt.NDArray[Any], contribution: Contribution, options: ContributeOptions) -> bool:
    """Send the samples x. The first call, which the coordinator may refuse, contains no sample.

    Returns:
        True if the coordinator had all samples already.

    Raises:
        UserError: if the values are outside the range that the coordinator accepts; no sample was sent.
        RunError: if the coordinator refuses, or the record cannot be written.
    """
    n_bytes = x[0].nbytes
    request = pb.ContributeRequest(
        protocol=PROTOCOL,
        client=options.client,
        rows=len(x),
        dtype=str(x.dtype),
        shape=x.shape[1:],
        sha256=bytes.fromhex(contribution.sha256),
    )
    reply = link.contribute(request)
    low, high = float(x.min()), float(x.max())
    if low < reply.low or high > reply.high:
        raise UserError(
            f"the samples are from {low:g} to {high:g}, but the coordinator accepts {reply.low:g} to {reply.high:g}: "
            "nothing was sent; convert the samples to the units of the federation"
        )
    save_contribution(options.state, contribution)
    raw = np.ascontiguousarray(x)
    while reply.have < len(x):
        request.offset = reply.have
        request.samples = raw[reply.have : reply.have + rows_a_piece(n_bytes)].tobytes()
        reply = link.contribute(request)
    if reply.have > len(x):
        raise RunError(
            f"unexpected reply from the coordinator: it has {reply.have} samples, but only {len(x)} were offered"
        )
    return reply.known
