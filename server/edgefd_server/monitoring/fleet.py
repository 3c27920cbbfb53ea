"""Two ways to know the fleet for the status page: from the log of a device link, and from the files of an exchange."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.files import get
from edgefd.rounds.participation import sample_clients
from edgefd.wire.device_link import HOLD
from edgefd.wire.exchange_folder import MAX_TEXT, PLAN, round_folder
from edgefd_server.monitoring.status import Device, FleetSnapshot, Opened, Refused, State

MAX_LINE = 300
"""characters of a refusal that are kept: devices have a say in them"""


@dataclass(frozen=True)
class Moment:
    """What the state of a client follows from."""

    now: float
    began: float
    """the open round"""
    held: float
    """seconds that a call before it may have been waiting for it"""
    deadline: float | None
    """seconds after which the round does not wait for it, if enough others have answered"""
    asked: frozenset[int]
    answered: frozenset[int]
    missed: frozenset[int]
    """clients without whom the round before was closed"""


def state_of(client: int, seen: float | None, at: Moment | None) -> State:
    """What a client does, as far as the coordinator can know. A device that trains does not call.

    Args:
        client: which.
        seen: when it last called.
        at: the open round; None: there is none.
    """
    if at is not None and client in at.answered:
        return "answered"
    if seen is None:
        return "never seen"
    if at is None or client not in at.asked:
        return "waiting"
    overdue = at.deadline is not None and at.now - at.began > at.deadline
    away = seen < at.began - at.held  # it cannot have heard of the round
    busy_elsewhere = client in at.missed and seen < at.began
    return "late" if overdue or away or busy_elsewhere else "working"


def asks(config: Config, n_clients: int, round: int) -> frozenset[int]:
    """The clients that a round asks."""
    closing = round >= config.train.rounds
    return frozenset(range(n_clients) if closing else sample_clients(config.coordinator, config.seed, round, n_clients))


class _Refusals:
    """Counted by reason and by client, with the last line of each."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, str]] = {}
        self.clients: dict[int, tuple[int, str]] = {}

    def add(self, reason: str, line: str, clients: Iterable[int]) -> None:
        line = line[:MAX_LINE]
        self.reasons[reason] = (self.reasons.get(reason, (0, ""))[0] + 1, line)
        for client in clients:
            self.clients[client] = (self.clients.get(client, (0, ""))[0] + 1, line)

    def table(self) -> tuple[Refused, ...]:
        return tuple(Refused(reason, n, last) for reason, (n, last) in sorted(self.reasons.items()))


class CoordinatorFleet:
    """Reads along in the log (`edgefd_server.monitoring.event_log.Log`) of a device link.

    Args:
        config: of the run.
        n_clients: of the federation.
        seen: when each client last called, by `time.monotonic`.
        names: of the devices' certificates, by client.
    """

    def __init__(
        self,
        config: Config,
        n_clients: int,
        seen: Callable[[], Mapping[int, float]],
        names: Callable[[], Mapping[int, str]],
    ) -> None:
        self._config, self._n_clients, self._seen, self._names = config, n_clients, seen, names
        self._lock = threading.Lock()
        self._since_1970 = time.time() - time.monotonic()
        self._round, self._began = -1, 0.0
        self._answered: set[int] = set()
        self._missed: frozenset[int] = frozenset()
        self._totals: dict[int, int] = {}
        self._refusals = _Refusals()
        self._peers: dict[int, str] = {}  # where each client last joined from: without certificates, who is refused

    def note(self, event: str, **fields: Any) -> None:
        """One event of the log."""
        with self._lock:
            match event:
                case "round":
                    before = asks(self._config, self._n_clients, self._round) if self._round >= 0 else frozenset()
                    self._missed = before - self._answered
                    self._round, self._began, self._answered = int(fields["round"]), time.time(), set()
                case "report":
                    client = int(fields["client"])
                    self._answered.add(client)
                    self._totals[client] = self._totals.get(client, 0) + 1
                case "late":
                    client = int(fields["client"])
                    self._totals[client] = self._totals.get(client, 0) + 1
                case "join":
                    self._peers[int(fields["client"])] = fields["peer"]
                case "refused":
                    if "node" in fields:  # of Flower: its door knows whose it is, if anybody's
                        clients = [] if fields["client"] is None else [int(fields["client"])]
                    else:
                        clients = self._whose(fields["device"], fields["peer"])
                    self._refusals.add(fields["reason"], fields["line"], clients)

    def _whose(self, device: str, peer: str) -> list[int]:
        """The clients that a device is: by its certificate, or where there are none, by where it joined from."""
        if device:
            return [client for client, name in self._named()[0].items() if name == device]
        return [client for client, joined in self._peers.items() if joined == peer]

    def snapshot(self) -> FleetSnapshot:
        """As it is now."""
        names, trouble = self._named()
        seen = {client: at + self._since_1970 for client, at in list(self._seen().items())}
        with self._lock:
            opened, at = self._open()
            devices = tuple(
                Device(
                    client,
                    names.get(client, ""),
                    seen.get(client),
                    state_of(client, seen.get(client), at),
                    self._totals.get(client, 0),
                    *self._refusals.clients.get(client, (0, "")),
                )
                for client in range(self._n_clients)
            )
            return FleetSnapshot(opened, devices, self._refusals.table(), trouble)

    def _open(self) -> tuple[Opened | None, Moment | None]:
        if self._round < 0:
            return None, None
        who = asks(self._config, self._n_clients, self._round)
        answered = frozenset(self._answered)
        closing = self._round >= self._config.train.rounds
        opened = Opened(self._round, closing, len(who), len(answered & who), self._began)
        deadline = self._config.coordinator.deadline_s
        return opened, Moment(time.time(), self._began, HOLD, deadline, who, answered, self._missed)

    def _named(self) -> tuple[Mapping[int, str], str]:
        try:
            return self._names(), ""
        except UserError as error:  # the allow-list is being changed; devices are told the same
            return {}, str(error)


class FolderFleet:
    """Looks at an exchange folder (`edgefd.wire.exchange_folder`). Devices there are known by their reports alone.

    Args:
        config: of the run.
        n_clients: of the federation.
        exchange: the folder.
    """

    def __init__(self, config: Config, n_clients: int, exchange: Path) -> None:
        self._config, self._n_clients, self._exchange = config, n_clients, exchange
        self._next = 0  # the rounds before this one are in the totals: nothing comes in for them any more
        self._totals: dict[int, int] = {}
        self._seen: dict[int, float] = {}
        self._refusals = _Refusals()
        self._known: dict[tuple[int, int], float] = {}  # refusals that are counted, by round and client
        self._last = FleetSnapshot(None, self._devices({}, None), ())

    def snapshot(self) -> FleetSnapshot:
        """As it is now. Where the folder cannot be read, as it was, and why."""
        try:
            self._last = self._look()
        except OSError as error:
            return replace(self._last, trouble=f"cannot read {self._exchange}: {error.strerror}")
        return self._last

    def _look(self) -> FleetSnapshot:
        newest = self._next
        while self._plan(newest + 1).exists():
            newest += 1
        if not self._plan(newest).exists():
            return self._last
        taken = {round: self._taken(round) for round in range(self._next, newest + 1)}
        began = self._plan(newest).stat().st_mtime
        asked = asks(self._config, self._n_clients, newest)
        missed: frozenset[int] = frozenset()
        if newest - 1 in taken:
            in_time = {client for client, at in taken[newest - 1].items() if at <= began}
            missed = asks(self._config, self._n_clients, newest - 1) - in_time
        answered = frozenset(taken[newest]) & asked
        # A device that waits is silent here, so that any of them may have heard of the round.
        at = Moment(time.time(), began, math.inf, self._config.coordinator.deadline_s, asked, answered, missed)
        devices = self._devices(taken, at)
        self._count(taken, newest - 1)  # late reports still come for the one before the newest
        closing = newest >= self._config.train.rounds
        opened = Opened(newest, closing, len(asked), len(answered), began)
        return FleetSnapshot(opened, devices, self._refusals.table())

    def _plan(self, round: int) -> Path:
        return round_folder(self._exchange, round) / PLAN

    def _count(self, taken: Mapping[int, Mapping[int, float]], before: int) -> None:
        for round in range(self._next, before):
            for client in taken[round]:
                self._totals[client] = self._totals.get(client, 0) + 1
        self._next = max(self._next, before)

    def _devices(self, taken: Mapping[int, Mapping[int, float]], at: Moment | None) -> tuple[Device, ...]:
        return tuple(
            Device(
                client,
                "",
                self._seen.get(client),
                state_of(client, self._seen.get(client), at),
                self._totals.get(client, 0) + sum(client in reports for reports in taken.values()),
                *self._refusals.clients.get(client, (0, "")),
            )
            for client in range(self._n_clients)
        )

    def _taken(self, round: int) -> dict[int, float]:
        """When each client's report of a round was written; those that are refused are counted as such."""
        here = round_folder(self._exchange, round) / "reports"
        reports, refused = dict[int, float](), dict[int, float]()
        for name, at in _times(here):
            stem, suffix = os.path.splitext(name)
            if suffix in (".bin", ".refused") and stem.isdecimal() and int(stem) < self._n_clients:
                (reports if suffix == ".bin" else refused)[int(stem)] = at
        for client, at in reports.items():
            self._seen[client] = max(at, self._seen.get(client, at))
        for client, at in refused.items():
            if self._known.get((round, client)) != at and (line := _line(here / f"{client}.refused")) is not None:
                self._known[round, client] = at
                self._refusals.add("report", line, [client])
        return {client: at for client, at in reports.items() if client not in refused}


def _times(folder: Path) -> Iterator[tuple[str, float]]:
    """The files that are there, and when each was written."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        with suppress(FileNotFoundError):  # taken away meanwhile
            yield entry.name, entry.stat().st_mtime


def _line(path: Path) -> str | None:
    """What a small text file says; None if it was taken away."""
    try:
        blob = get(path, MAX_TEXT)
    except ValueError as error:
        return str(error)
    return None if blob is None else blob.decode(errors="replace").strip()
