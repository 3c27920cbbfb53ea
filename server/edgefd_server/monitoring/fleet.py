"""Snapshots of all devices for the status page: their state follows from the events of the coordinator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from edgefd.config.schema import Config
from edgefd.core.errors import UserError
from edgefd.core.text import shown
from edgefd.rounds.participation import sample_clients
from edgefd.wire.device_link import HOLD
from edgefd_server.monitoring.status import DeviceStatus, FleetSnapshot, RefusalCount, RoundStatus, State

Key = TypeVar("Key")

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


class CoordinatorFleet:
    """The state of the devices, derived from the events (`edgefd_server.monitoring.event_log.Log`) of a coordinator.

    Args:
        config: configuration of the run.
        n_clients: number of clients in the federation.
        seen: returns the time of each client's last call, on the clock of `time.monotonic`.
        names: returns the names in the devices' certificates, by client.
        held: seconds for which a call of a device may be held open.
    """

    def __init__(
        self,
        config: Config,
        n_clients: int,
        seen: Callable[[], Mapping[int, float]],
        names: Callable[[], Mapping[int, str]],
        held: float = HOLD,
    ) -> None:
        self._config, self._n_clients, self._seen, self._names, self._held = config, n_clients, seen, names, held
        self._lock = threading.Lock()
        self._since_1970 = time.time() - time.monotonic()
        self._round, self._began = -1, 0.0
        self._answered: set[int] = set()
        self._missed: frozenset[int] = frozenset()
        self._totals: dict[int, int] = {}
        # The number of refusals, and the last message.
        self._by_reason: dict[str, tuple[int, str]] = {}
        self._by_client: dict[int, tuple[int, str]] = {}
        # The address from which each client last joined. Without certificates, a refused call is attributed by it.
        self._peers: dict[int, str] = {}
        self._facts: dict[int, str] = {}

    def note(self, event: str, **fields: Any) -> None:
        """Process one event. This method is a `Log`."""
        with self._lock:
            match event:
                case "round":
                    self._open_round(int(fields["round"]))
                case "report" | "late":
                    client = int(fields["client"])
                    self._totals[client] = self._totals.get(client, 0) + 1
                    if event == "report":
                        self._answered.add(client)
                case "join":
                    self._peers[int(fields["client"])] = fields["peer"]
                    if facts := facts_line(fields):  # a device that downloads its bundle joins without facts first
                        self._facts[int(fields["client"])] = facts
                case "refused":
                    if "client" in fields:  # from Flower or a folder: the front end knows the client, if there is one
                        clients = [] if fields["client"] is None else [int(fields["client"])]
                    else:
                        clients = self._clients_of(fields["device"], fields["peer"])
                    _count(self._by_reason, [fields["reason"]], fields["line"])
                    _count(self._by_client, clients, fields["line"])

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
                    shown(names.get(client, ""), MAX_LINE),
                    seen.get(client),
                    state_of(client, seen.get(client), timing),
                    self._totals.get(client, 0),
                    *self._by_client.get(client, (0, "")),
                    self._facts.get(client, ""),
                )
                for client in range(self._n_clients)
            )
            refused = tuple(RefusalCount(reason, n, last) for reason, (n, last) in sorted(self._by_reason.items()))
            return FleetSnapshot(opened, devices, refused, trouble)

    def _current_round(self) -> tuple[RoundStatus | None, RoundTiming | None]:
        if self._round < 0:
            return None, None
        sampled = sampled_clients(self._config, self._n_clients, self._round)
        answered = frozenset(self._answered)
        closing = self._round >= self._config.train.rounds
        opened = RoundStatus(self._round, closing, len(sampled), len(answered & sampled), self._began)
        deadline = self._config.coordinator.deadline_s
        return opened, RoundTiming(time.time(), self._began, self._held, deadline, sampled, answered, self._missed)

    def _read_names(self) -> tuple[Mapping[int, str], str]:
        """Return the names by client, and an error message or ""."""
        try:
            return self._names(), ""
        except UserError as error:  # the allow-list is being changed; the devices get the same message
            return {}, str(error)


def facts_line(facts: Mapping[str, Any]) -> str:
    """Return what a device has stated about itself when it joined, in words; "" if it has stated nothing.

    >>> facts_line({"version": "1.2", "free_memory_mib": 300, "clock_offset": -3.0, "client": 0})
    '1.2, memory 300 MiB free, clock -3.0 s'
    """
    parts = [str(facts["version"])] if "version" in facts else []
    for name, what in (("free_memory_mib", "memory"), ("free_disk_mib", "disk")):
        parts += [f"{what} {facts[name]} MiB free"] if name in facts else []
    parts += [f"clock {facts['clock_offset']:+.1f} s"] if "clock_offset" in facts else []
    return ", ".join(parts)


def _count(counts: dict[Key, tuple[int, str]], keys: Iterable[Key], line: str) -> None:
    """Count a refusal for each of the keys."""
    for key in keys:
        counts[key] = (counts.get(key, (0, ""))[0] + 1, shown(line, MAX_LINE))
