"""`Collection`: the raw samples that devices contribute for a proxy set, in a folder.

    collection.json     the requirements on the samples; the folder serves no other config
    clients/003.npz     the samples of client 3, once all of them have come
    proxy.npz           the proxy set, once the collection is over
    owners.npz          the client that contributed each of its samples, for an audit

The first two show which client contributed which samples; the last one does not. Files appear by a rename: after a
kill, a collector still has everything that it confirmed, and a device that was sending begins again.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, make_folder, put, writing
from edgefd.core.npz import npz_bytes
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.build_federation import CONTRIBUTORS, OWNERS
from edgefd.data.npz import read_npz
from edgefd.wire.exchange_folder import MAX_TEXT
from edgefd_server.coordinator.round_coordinator import SHUTDOWN_GRACE, Refused
from edgefd_server.monitoring.event_log import Log, LoggedState

COLLECTION, CLIENTS, PROXY = "collection.json", "clients", "proxy.npz"
MAX_BYTES = 256 * 2**20
"""largest size of a contribution: a collector keeps incomplete ones in memory"""
_LONGEST_WAIT = 3600.0

Samples = npt.NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """The requirements on contributed samples."""

    n_clients: int
    """number of clients that may contribute"""
    seed: int
    """seed of the order of the samples in the proxy set"""
    dtype: str
    """uint8 or float32"""
    shape: tuple[int, ...]
    """shape of one sample"""
    low: float
    """smallest accepted value"""
    high: float
    """largest accepted value: an extreme value would change the scale of all clients' samples"""

    @property
    def row(self) -> int:
        """Bytes of one sample."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Offer:
    """A device's description of its contribution."""

    rows: int
    """number of samples"""
    dtype: str
    shape: tuple[int, ...]
    """shape of one sample"""
    sha256: bytes
    """digest of all samples"""


@dataclass(frozen=True)
class _Contribution:
    rows: int
    sha256: bytes


class Collection(LoggedState):
    """The complete and the partial contributions of all clients.

    The front end calls `take` in its own thread. The coordinator calls all other functions.

    Args:
        folder: of the files; no other collector may use it.
        wanted: the requirements on the samples.
        most: samples that one client may contribute.
        log: writes the events; if it cannot write, the collection ends.
        clock: returns the time in seconds.

    Raises:
        UserError: if the folder belongs to another config, or a file in it is damaged.
    """

    def __init__(
        self, folder: Path, wanted: Wanted, most: int, log: Log, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.wanted, self.most = folder, wanted, most
        super().__init__(log)
        self._clock, self._began = clock, clock()
        self._complete = {i: _contribution(x) for i in range(wanted.n_clients) if (x := self._read(i)) is not None}
        self._partial: dict[int, tuple[bytes, bytearray]] = {}
        self._acknowledged = set[int]()
        self._closed = False

    # for the front end

    def take(self, client: int, offer: Offer, offset: int, samples: bytes) -> tuple[int, bool]:
        """Accept samples of a client.

        Samples that do not begin where the previous ones ended are ignored: the device continues from the returned
        number.

        Args:
            client: the sender.
            offer: the device's description of its whole contribution.
            offset: number of the first of these samples.
            samples: bytes of the samples.

        Returns:
            The number of the client's samples received so far, and whether all had been received before.

        Raises:
            Refused: "content": the samples do not meet the requirements or the offer; "conflict": the client has
                contributed other samples; "closed": the collection is over; "early": they cannot be written now.
        """
        # One lock for all of it: confirmed samples must be in the proxy set, even if the deadline passes meanwhile.
        with self._changed:
            if (complete := self._complete.get(client)) is not None:
                if complete.sha256 != offer.sha256:
                    raise Refused("conflict", f"client {client} has contributed {complete.rows} other samples already")
                self._acknowledged.add(client)
                self._changed.notify_all()
                return complete.rows, True
            if self._closed:
                raise Refused("closed", "this coordinator no longer collects samples: the proxy set is complete")
            self._check(offer)
            received = self._append(client, offer, offset, samples)
            if (have := len(received) // self.wanted.row) >= offer.rows:
                del self._partial[client]
                self._save(client, offer, bytes(received))
            return have, False

    def _append(self, client: int, offer: Offer, offset: int, samples: bytes) -> bytearray:
        """Append samples to those received of the offer, and return all of them."""
        row = self.wanted.row
        digest, received = self._partial.get(client, (b"", bytearray()))
        if digest != offer.sha256:
            self._partial[client] = offer.sha256, (received := bytearray())
        if len(samples) % row:
            raise Refused("content", f"{len(samples)} bytes are not whole samples of {row} bytes each")
        if offset * row == len(received):
            if len(received) + len(samples) > offer.rows * row:
                raise Refused("content", f"there are more than the {offer.rows} samples that were offered")
            received += samples
        return received

    def _check(self, offer: Offer) -> None:
        wanted = self.wanted
        if (offer.dtype, offer.shape) != (wanted.dtype, wanted.shape):
            raise Refused(
                "content",
                f"the federation's samples are {wanted.dtype} of shape {list(wanted.shape)}, "
                f"not {offer.dtype[:20]} of shape {list(offer.shape[:8])}: convert them",
            )
        most = max(1, min(self.most, MAX_BYTES // wanted.row))
        if not 1 <= offer.rows <= most:
            raise Refused("content", f"a client may contribute 1 to {most} samples, not {offer.rows}")
        if len(offer.sha256) != 32:
            raise Refused("content", f"a sha256 has 32 bytes, not {len(offer.sha256)}")

    def _save(self, client: int, offer: Offer, data: bytes) -> None:
        wanted = self.wanted
        if hashlib.sha256(data).digest() != offer.sha256:
            raise Refused("content", "the samples differ from those that were offered: they have another sha256")
        x = np.frombuffer(data, np.dtype(wanted.dtype).newbyteorder("<")).reshape(-1, *wanted.shape)
        if not np.isfinite(x).all():
            raise Refused("content", "the samples hold NaN or infinite values")
        if x.min() < wanted.low or x.max() > wanted.high:
            raise Refused("content", f"every value must be from {wanted.low:g} to {wanted.high:g}")
        path = self._path(client)
        try:
            put(path, npz_bytes({"x": x}))
        except OSError as error:
            self.fail(RunError(f"cannot write {path}: {error.strerror}"))
            raise Refused("early", "the samples cannot be stored now: try again later") from error
        self._complete[client] = _Contribution(len(x), offer.sha256)
        self._acknowledged.add(client)
        self._changed.notify_all()
        self.note("contribution", client=client, samples=len(x), bytes=len(data))

    # for the coordinator

    @property
    def contributors(self) -> dict[int, int]:
        """Number of samples of each client whose contribution is complete."""
        with self._changed:
            return {client: self._complete[client].rows for client in sorted(self._complete)}

    def wait(self, least: int, deadline: float) -> None:
        """Wait until all clients have contributed, or at least `least` of them after `deadline` seconds, and close.

        Raises:
            RunError: if fewer have contributed by then, or something cannot be written.
        """
        with self._changed:
            while self._failure is None and len(self._complete) < self.wanted.n_clients:
                remaining = self._began + deadline - self._clock()
                if remaining <= 0:
                    break
                self._changed.wait(min(remaining, _LONGEST_WAIT))
            if self._failure is not None:
                raise self._failure
            if len(self._complete) < least:
                n_clients = self.wanted.n_clients
                missing = ", ".join(str(i) for i in range(n_clients) if i not in self._complete)
                raise RunError(
                    f"{len(self._complete)} of {n_clients} clients contributed within {deadline:g} s, {least} are "
                    f"needed: nothing of client {missing} (link.jsonl lists the refused samples)"
                )
            self._closed = True

    def linger(self) -> None:
        """Wait at most `SHUTDOWN_GRACE` seconds for devices whose answer was lost when an earlier collector was killed.

        When they call again, they learn that their samples have been received.
        """
        until = self._began + SHUTDOWN_GRACE
        with self._changed:
            while not set(self._complete) <= self._acknowledged and (remaining := until - self._clock()) > 0:
                self._changed.wait(remaining)

    def finish(self) -> Path:
        """Write the proxy set and return its path.

        It holds the samples of all clients. The seed determines their order, which does not reveal their owners. These
        are written beside it, for an audit; nothing sends that file to a device.

        Raises:
            RunError: if it cannot be written.
        """
        contributions = {i: x for i in range(self.wanted.n_clients) if (x := self._read(i)) is not None}
        x = np.concatenate(list(contributions.values()))
        owner = np.repeat(np.array(list(contributions), np.int64), [len(part) for part in contributions.values()])
        order = make_rng(self.wanted.seed, Purpose.PROXY).permutation(len(x))
        path = self.folder / PROXY
        with writing(path):
            put(self.folder / OWNERS, npz_bytes({"owner": owner[order]}))
            put(path, npz_bytes({"x": x[order], CONTRIBUTORS: np.array(len(contributions))}))
        return path

    def _path(self, client: int) -> Path:
        return self.folder / CLIENTS / f"{client:03d}.npz"

    def _read(self, client: int) -> Samples | None:
        """Return the samples that a client has contributed; None if its contribution is not complete."""
        path = self._path(client)
        if not path.exists():
            return None
        x = read_npz(path, ("x",))["x"]
        if x.dtype != self.wanted.dtype or x.shape[1:] != self.wanted.shape:
            raise UserError(f"{path} holds {x.dtype} samples of shape {list(x.shape[1:])}: remove it")
        return x


def open_folder(folder: Path, wanted: Wanted) -> None:
    """Write the requirements on the samples into a folder, or check that the folder has the same ones.

    Raises:
        UserError: if the folder has other ones, or cannot be written.
    """
    path, text = folder / COLLECTION, (json.dumps(asdict(wanted), indent=2) + "\n").encode()
    try:
        present = get(path, MAX_TEXT)
        if present is None:
            put(path, text)
        make_folder(folder / CLIENTS, root=folder)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot collect in {folder}: {error}") from error
    if present not in (None, text):
        raise UserError(f"{folder} collects for another config (see {path.name} in it): choose another folder")


def _contribution(x: Samples) -> _Contribution:
    return _Contribution(len(x), hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest())
