"""`Collection`: the raw samples that devices contribute for a proxy set, in a folder.

    collection.json     what is collected; the folder serves no other config
    clients/003.npz     what client 3 contributed, once all of it is there
    proxy.npz           the proxy set, when it is over

The first two say who contributed what, the last does not. Files appear by a rename: a collector that is killed has all
that it confirmed, and a device that was sending begins again.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, npz_bytes, put
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.build_federation import CONTRIBUTORS
from edgefd.data.npz import read_npz
from edgefd.wire.exchange_folder import MAX_TEXT
from edgefd_server.coordinator.round_coordinator import SHUTDOWN_GRACE, Refused
from edgefd_server.monitoring.event_log import Log

COLLECTION, CLIENTS, PROXY = "collection.json", "clients", "proxy.npz"
_LONGEST_WAIT = 3600.0

Samples = npt.NDArray[Any]


@dataclass(frozen=True)
class Wanted:
    """What contributions must be like."""

    n_clients: int
    seed: int
    """of the order in the proxy set"""
    dtype: str
    """uint8 or float32"""
    shape: tuple[int, ...]
    """of one sample"""
    low: float
    high: float
    """every number is from `low` to `high`: one that is far off would change the scale of everybody's samples"""

    @property
    def row(self) -> int:
        """Bytes of a sample."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Offer:
    """What a device says of its contribution."""

    rows: int
    dtype: str
    shape: tuple[int, ...]
    sha256: bytes


@dataclass(frozen=True)
class _Kept:
    rows: int
    sha256: bytes


class Collection:
    """What has come, and what is still coming. `take` is called by a door, in its thread; all else by the coordinator.

    Args:
        folder: of the files, with no other collector at work in it.
        wanted: what is collected.
        most: samples that one client may contribute.
        log: of what happens; where it cannot write, collecting ends.
        clock: in seconds.

    Raises:
        UserError: if the folder is of another config, or something in it is damaged.
    """

    def __init__(
        self, folder: Path, wanted: Wanted, most: int, log: Log, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.wanted, self.most = folder, wanted, most
        self._log, self._clock, self._began = log, clock, clock()
        self._changed = threading.Condition()
        self._kept = {i: _kept(x) for i in range(wanted.n_clients) if (x := self._read(i)) is not None}
        self._coming: dict[int, tuple[bytes, bytearray]] = {}
        self._told = set[int]()
        self._closed = False
        self._failure: RunError | None = None

    # what a door does

    def take(self, client: int, offer: Offer, offset: int, samples: bytes) -> tuple[int, bool]:
        """How many of the client's samples are there now, and whether all were before.

        Samples that do not begin where the last ones ended are passed over: the device goes on from what is returned.

        Raises:
            Refused: "content": they are not what is wanted, or not what was offered; "conflict": the client has
                contributed others; "closed": it is over; "early": they cannot be written now.
        """
        # All of it at once: what is confirmed must be in the proxy set, also if the deadline passes meanwhile.
        with self._changed:
            if (kept := self._kept.get(client)) is not None:
                if kept.sha256 != offer.sha256:
                    raise Refused("conflict", f"client {client} has contributed {kept.rows} other samples already")
                self._told.add(client)
                self._changed.notify_all()
                return kept.rows, True
            if self._closed:
                raise Refused("closed", "no samples are collected here any more: the proxy set is made")
            self._check(offer)
            coming = self._more(client, offer, offset, samples)
            if (have := len(coming) // self.wanted.row) >= offer.rows:
                del self._coming[client]
                self._keep(client, offer, bytes(coming))
            return have, False

    def _more(self, client: int, offer: Offer, offset: int, samples: bytes) -> bytearray:
        """All that has come of the offer, with these samples."""
        row = self.wanted.row
        digest, coming = self._coming.get(client, (b"", bytearray()))
        if digest != offer.sha256:
            self._coming[client] = offer.sha256, (coming := bytearray())
        if len(samples) % row:
            raise Refused("content", f"{len(samples)} bytes are not whole samples of {row} bytes each")
        if offset * row == len(coming):
            if len(coming) + len(samples) > offer.rows * row:
                raise Refused("content", f"there are more than the {offer.rows} samples that were offered")
            coming += samples
        return coming

    def _check(self, offer: Offer) -> None:
        wanted = self.wanted
        if (offer.dtype, offer.shape) != (wanted.dtype, wanted.shape):
            raise Refused(
                "content",
                f"the federation's samples are {wanted.dtype} of shape {list(wanted.shape)}, "
                f"not {offer.dtype[:20]} of shape {list(offer.shape[:8])}",
            )
        if not 1 <= offer.rows <= self.most:
            raise Refused("content", f"a client may contribute 1 to {self.most} samples, not {offer.rows}")
        if len(offer.sha256) != 32:
            raise Refused("content", f"a sha256 has 32 bytes, not {len(offer.sha256)}")

    def _keep(self, client: int, offer: Offer, data: bytes) -> None:
        wanted = self.wanted
        if hashlib.sha256(data).digest() != offer.sha256:
            raise Refused("content", "the samples are not those that were offered: they have another sha256")
        x = np.frombuffer(data, np.dtype(wanted.dtype).newbyteorder("<")).reshape(-1, *wanted.shape)
        if not np.isfinite(x).all():
            raise Refused("content", "the samples hold NaN or infinite values")
        if x.min() < wanted.low or x.max() > wanted.high:
            raise Refused("content", f"every value must be from {wanted.low:g} to {wanted.high:g}")
        path = self._path(client)
        try:
            put(path, npz_bytes({"x": x}))
        except OSError as error:
            self._fail(RunError(f"cannot write {path}: {error.strerror}"))
            raise Refused("early", "the samples cannot be kept now: come again") from error
        self._kept[client] = _Kept(len(x), offer.sha256)
        self._told.add(client)
        self._changed.notify_all()
        self.note("contribution", client=client, samples=len(x), bytes=len(data))

    # what the coordinator does

    @property
    def contributors(self) -> dict[int, int]:
        """How many samples are there, by client."""
        with self._changed:
            return {client: self._kept[client].rows for client in sorted(self._kept)}

    def wait(self, least: int, deadline: float) -> None:
        """Until every client has contributed, or after `deadline` seconds `least` have; then no more are taken.

        Raises:
            RunError: if there are fewer by then, or something cannot be written.
        """
        with self._changed:
            while self._failure is None and len(self._kept) < self.wanted.n_clients:
                left = self._began + deadline - self._clock()
                if left <= 0:
                    break
                self._changed.wait(min(left, _LONGEST_WAIT))
            if self._failure is not None:
                raise self._failure
            if len(self._kept) < least:
                silent = ", ".join(str(i) for i in range(self.wanted.n_clients) if i not in self._kept)
                raise RunError(
                    f"{len(self._kept)} of {self.wanted.n_clients} clients contributed within {deadline:g} s, {least} "
                    f"are needed: nothing of client {silent} (link.jsonl says what was refused)"
                )
            self._closed = True

    def linger(self) -> None:
        """Let devices that were not answered because a collector died learn that their samples are there."""
        with self._changed:
            while not set(self._kept) <= self._told and (left := self._began + SHUTDOWN_GRACE - self._clock()) > 0:
                self._changed.wait(left)

    def finish(self) -> Path:
        """Write the proxy set: everybody's samples, in an order by the seed that says nothing of whose they are.

        Raises:
            RunError: if it cannot be written.
        """
        found = [x for i in range(self.wanted.n_clients) if (x := self._read(i)) is not None]
        x = np.concatenate(found)
        order = make_rng(self.wanted.seed, Purpose.PROXY).permutation(len(x))
        path = self.folder / PROXY
        try:
            put(path, npz_bytes({"x": x[order], CONTRIBUTORS: np.array(len(found))}))
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error
        return path

    def note(self, event: str, **fields: object) -> None:
        """Write a line of the log. If that fails, collecting ends with the reason."""
        try:
            self._log(event, **fields)
        except RunError as error:
            self._fail(error)

    def _fail(self, error: RunError) -> None:
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _path(self, client: int) -> Path:
        return self.folder / CLIENTS / f"{client:03d}.npz"

    def _read(self, client: int) -> Samples | None:
        """What a client has contributed."""
        path = self._path(client)
        if not path.exists():
            return None
        x = read_npz(path, ("x",))["x"]
        if x.dtype != self.wanted.dtype or x.shape[1:] != self.wanted.shape:
            raise UserError(f"{path} holds {x.dtype} samples of shape {list(x.shape[1:])}: remove it")
        return x


def open_folder(folder: Path, wanted: Wanted) -> None:
    """Say in the folder what it is for, or see that it is for that.

    Raises:
        UserError: if it is for something else, or cannot be written.
    """
    path, text = folder / COLLECTION, (json.dumps(asdict(wanted), indent=2) + "\n").encode()
    try:
        found = get(path, MAX_TEXT)
        if found is None:
            put(path, text)
        (folder / CLIENTS).mkdir(mode=0o700, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot collect in {folder}: {error}") from error
    if found not in (None, text):
        raise UserError(f"{folder} collects for another config ({path.name} says what): choose another folder")


def _kept(x: Samples) -> _Kept:
    return _Kept(len(x), hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest())
