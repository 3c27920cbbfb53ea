"""Snapshots of all devices for the status page.

The state of the devices follows from the events of a coordinator (`CoordinatorFleet`) or from the files of an exchange
folder (`FolderFleet`).
"""

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
from edgefd_server.monitoring.status import DeviceStatus, FleetSnapshot, RefusalCount, RoundStatus, State

MAX_LINE = 300
"""most characters of a refusal message that are kept; devices can influence its text"""


@dataclass(frozen=True)
class RoundTiming:
    """The facts about the open round from which the state of each client follows."""

    now: float
    began: float
    """time at which the round was opened"""
    held: float
    """seconds for which a call that began before the round may have been held open until the round"""
    deadline: float | None
    """seconds after which the round no longer waits for a client if enough others have answered; None = no deadline"""
    sampled: frozenset[int]
    answered: frozenset[int]
    missed: frozenset[int]
    """sampled clients whose report was missing when the previous round was closed"""


def state_of(client: int, seen: float | None, timing: RoundTiming | None) -> State:
    """Return the state of a client as far as the coordinator can know it. A device does not call while it trains.

    Args:
        client: number of the client.
        seen: time of its last call; None if it has never called.
        timing: facts about the open round; None if no round is open.
    """
    if timing is not None and client in timing.answered:
        return "answered"
    if seen is None:
        return "never seen"
    if timing is None or client not in timing.sampled:
        return "waiting"
    overdue = timing.deadline is not None and timing.now - timing.began > timing.deadline
    absent = seen < timing.began - timing.held  # it cannot have received the plan of the round
    in_previous_round = client in timing.missed and seen < timing.began
    return "late" if overdue or absent or in_previous_round else "working"


def sampled_clients(config: Config, n_clients: int, round: int) -> frozenset[int]:
    """Return the clients that are sampled for a round. The closing round samples all clients."""
    closing = round >= config.train.rounds
    return frozenset(range(n_clients) if closing else sample_clients(config.coordinator, config.seed, round, n_clients))


class _RefusalCounter:
    """The number of refusals and the last message, by reason and by client."""

    def __init__(self) -> None:
        self.reasons: dict[str, tuple[int, str]] = {}
        self.clients: dict[int, tuple[int, str]] = {}

    def add(self, reason: str, line: str, clients: Iterable[int]) -> None:
        line = line[:MAX_LINE]
        self.reasons[reason] = (self.reasons.get(reason, (0, ""))[0] + 1, line)
        for client in clients:
            self.clients[client] = (self.clients.get(client, (0, ""))[0] + 1, line)

    def by_reason(self) -> tuple[RefusalCount, ...]:
        return tuple(RefusalCount(reason, n, last) for reason, (n, last) in sorted(self.reasons.items()))


class CoordinatorFleet:
    """The state of the devices, derived from the events (`edgefd_server.monitoring.event_log.Log`) of a coordinator.

    Args:
        config: configuration of the run.
        n_clients: number of clients in the federation.
        seen: returns the time of each client's last call, on the clock of `time.monotonic`.
        names: returns the names in the devices' certificates, by client.
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
        self._refusals = _RefusalCounter()
        # The address from which each client last joined. Without certificates, a refused call is attributed by it.
        self._peers: dict[int, str] = {}

    def note(self, event: str, **fields: Any) -> None:
        """Process one event. This method is a `Log`."""
        with self._lock:
            match event:
                case "round":
                    self._open_round(int(fields["round"]))
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
                    if "node" in fields:  # from Flower: the Grid driver knows the client of the node, if it has one
                        clients = [] if fields["client"] is None else [int(fields["client"])]
                    else:
                        clients = self._clients_of(fields["device"], fields["peer"])
                    self._refusals.add(fields["reason"], fields["line"], clients)

    def _open_round(self, round: int) -> None:
        sampled = sampled_clients(self._config, self._n_clients, self._round) if self._round >= 0 else frozenset[int]()
        self._missed = sampled - self._answered
        self._round, self._began, self._answered = round, time.time(), set()

    def _clients_of(self, device: str, peer: str) -> list[int]:
        """Return the clients of a device: by its certificate or, without one, by the address from which it joined."""
        if device:
            return [client for client, name in self._read_names()[0].items() if name == device]
        return [client for client, joined in self._peers.items() if joined == peer]

    def snapshot(self) -> FleetSnapshot:
        """Return the current state of the devices."""
        names, trouble = self._read_names()
        seen = {client: at + self._since_1970 for client, at in list(self._seen().items())}
        with self._lock:
            opened, timing = self._current_round()
            devices = tuple(
                DeviceStatus(
                    client,
                    names.get(client, ""),
                    seen.get(client),
                    state_of(client, seen.get(client), timing),
                    self._totals.get(client, 0),
                    *self._refusals.clients.get(client, (0, "")),
                )
                for client in range(self._n_clients)
            )
            return FleetSnapshot(opened, devices, self._refusals.by_reason(), trouble)

    def _current_round(self) -> tuple[RoundStatus | None, RoundTiming | None]:
        if self._round < 0:
            return None, None
        sampled = sampled_clients(self._config, self._n_clients, self._round)
        answered = frozenset(self._answered)
        closing = self._round >= self._config.train.rounds
        opened = RoundStatus(self._round, closing, len(sampled), len(answered & sampled), self._began)
        deadline = self._config.coordinator.deadline_s
        return opened, RoundTiming(time.time(), self._began, HOLD, deadline, sampled, answered, self._missed)

    def _read_names(self) -> tuple[Mapping[int, str], str]:
        """Return the names by client, and an error message or ""."""
        try:
            return self._names(), ""
        except UserError as error:  # the allow-list is being changed; the devices get the same message
            return {}, str(error)


class FolderFleet:
    """The state of the devices, derived from an exchange folder (`edgefd.wire.exchange_folder`).

    The only trace of a device in the folder is its reports.

    Args:
        config: configuration of the run.
        n_clients: number of clients in the federation.
        exchange: path of the exchange folder.
    """

    def __init__(self, config: Config, n_clients: int, exchange: Path) -> None:
        self._config, self._n_clients, self._exchange = config, n_clients, exchange
        self._next = 0  # earlier rounds are in the totals: they cannot get another report
        self._totals: dict[int, int] = {}
        self._seen: dict[int, float] = {}
        self._refusals = _RefusalCounter()
        self._counted: dict[tuple[int, int], float] = {}  # file time of each counted refusal, by round and client
        self._last = FleetSnapshot(None, self._devices({}, None), ())

    def snapshot(self) -> FleetSnapshot:
        """Return the current state. If the folder cannot be read, return the last known state and the reason."""
        try:
            self._last = self._read()
        except OSError as error:
            return replace(self._last, trouble=f"cannot read {self._exchange}: {error.strerror}")
        return self._last

    def _read(self) -> FleetSnapshot:
        newest = self._next
        while self._plan(newest + 1).exists():
            newest += 1
        if not self._plan(newest).exists():
            return self._last
        reports = {round: self._reports(round) for round in range(self._next, newest + 1)}
        began = self._plan(newest).stat().st_mtime
        sampled = sampled_clients(self._config, self._n_clients, newest)
        missed: frozenset[int] = frozenset()
        if newest - 1 in reports:
            in_time = {client for client, at in reports[newest - 1].items() if at <= began}
            missed = sampled_clients(self._config, self._n_clients, newest - 1) - in_time
        answered = frozenset(reports[newest]) & sampled
        # A waiting device leaves no trace in the folder, so every device may have read the plan (held = infinity).
        deadline = self._config.coordinator.deadline_s
        timing = RoundTiming(time.time(), began, math.inf, deadline, sampled, answered, missed)
        devices = self._devices(reports, timing)
        self._add_to_totals(reports, newest - 1)  # late reports can still arrive for the round before the newest
        closing = newest >= self._config.train.rounds
        opened = RoundStatus(newest, closing, len(sampled), len(answered), began)
        return FleetSnapshot(opened, devices, self._refusals.by_reason())

    def _plan(self, round: int) -> Path:
        return round_folder(self._exchange, round) / PLAN

    def _add_to_totals(self, reports: Mapping[int, Mapping[int, float]], end: int) -> None:
        for round in range(self._next, end):
            for client in reports[round]:
                self._totals[client] = self._totals.get(client, 0) + 1
        self._next = max(self._next, end)

    def _devices(
        self, reports: Mapping[int, Mapping[int, float]], timing: RoundTiming | None
    ) -> tuple[DeviceStatus, ...]:
        return tuple(
            DeviceStatus(
                client,
                "",
                self._seen.get(client),
                state_of(client, self._seen.get(client), timing),
                self._totals.get(client, 0) + sum(client in of_round for of_round in reports.values()),
                *self._refusals.clients.get(client, (0, "")),
            )
            for client in range(self._n_clients)
        )

    def _reports(self, round: int) -> dict[int, float]:
        """Return the file time of each client's accepted report of a round. Count the refused reports as refusals."""
        folder = round_folder(self._exchange, round) / "reports"
        reports, refused = dict[int, float](), dict[int, float]()
        for name, at in _file_times(folder):
            stem, suffix = os.path.splitext(name)
            if suffix in (".bin", ".refused") and stem.isdecimal() and int(stem) < self._n_clients:
                (reports if suffix == ".bin" else refused)[int(stem)] = at
        for client, at in reports.items():
            self._seen[client] = max(at, self._seen.get(client, at))
        for client, at in refused.items():
            counted = self._counted.get((round, client)) == at
            if not counted and (line := _read_line(folder / f"{client}.refused")) is not None:
                self._counted[round, client] = at
                self._refusals.add("report", line, [client])
        return {client: at for client, at in reports.items() if client not in refused}


def _file_times(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the name and modification time of each file. A folder that does not exist counts as empty."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        with suppress(FileNotFoundError):  # the file was deleted in the meantime
            yield entry.name, entry.stat().st_mtime


def _read_line(path: Path) -> str | None:
    """Return the content of a small text file, or None if the file does not exist any more."""
    try:
        blob = get(path, MAX_TEXT)
    except ValueError as error:
        return str(error)
    return None if blob is None else blob.decode(errors="replace").strip()
