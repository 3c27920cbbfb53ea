"""The state of a run and its devices, as frozen values and as JSON for the status page.

It holds no private value: accuracies, fractions, bytes, times and refusals are also in the run folder and the event
log.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from edgefd.runs.execute import ProgressHook
from edgefd.runs.round_metrics import RoundMetrics

MAX_POINTS = 500
"""most points in a curve; of a longer run, the page shows every second, third ... round, and the last one"""

State = Literal["never seen", "waiting", "working", "answered", "late"]


@dataclass(frozen=True)
class RunDescription:
    """The properties of a run that do not change."""

    method: str
    data: str
    model: str
    n_clients: int
    rounds: int
    """number of rounds; they are numbered from 0, and the closing round follows them with this number"""
    bytes_once: int | None = None
    """bytes of the bundles of all clients, which the bytes of the rounds do not contain; None = not known"""
    metrics_sent: bool = True
    """whether clients send their held-out accuracy, which they do not under a defence with an epsilon"""


@dataclass(frozen=True)
class RoundStatus:
    """The round that was opened last. It is closed as soon as there is a `MetricPoint` of it."""

    round: int
    closing: bool
    asked: int
    """number of sampled clients"""
    reports: int
    """number of reports from sampled clients"""
    began: float
    """time at which the round was opened, in seconds since 1970, as all times here"""


@dataclass(frozen=True)
class DeviceStatus:
    """The state of one client of the federation, even if it has not connected yet."""

    client: int
    name: str
    """name in the client's certificate; "" without a certificate"""
    seen: float | None
    """time of the client's last call; None if it has never called"""
    state: State
    answered: int
    """number of rounds that the client answered"""
    refused: int
    """number of the client's calls or reports that were refused"""
    last_refusal: str
    facts: str = ""
    """version, free memory and disk, and difference of the clock, as the device stated them when it joined last"""


@dataclass(frozen=True)
class RefusalCount:
    """The refusals with one reason, including those of devices that are not a client of the federation."""

    reason: str
    count: int
    last: str
    """message of the last refusal"""


@dataclass(frozen=True)
class FleetSnapshot:
    """The state of all devices at one moment."""

    opened: RoundStatus | None
    """None before the first round"""
    devices: tuple[DeviceStatus, ...]
    refused: tuple[RefusalCount, ...]
    trouble: str = ""
    """reason why the snapshot may be out of date or incomplete; "" if there is none"""


@dataclass(frozen=True)
class MetricPoint:
    """A completed round in the curves of the status page."""

    round: int
    closing: bool
    heldout: float | None
    test: float | None
    teacher: float | None
    kept: float
    """accepted fraction of the proxy rows, mean over clients"""
    up: int
    """bytes from the clients, summed from the first round on"""
    down: int
    """bytes to the clients, summed from the first round on"""
    seconds: float


@dataclass(frozen=True)
class Status:
    """All information that the status page shows."""

    run: str
    about: RunDescription
    fleet: FleetSnapshot
    done: int
    """number of completed rounds, including the closing round"""
    seconds: float
    """duration of the completed rounds"""
    points: tuple[MetricPoint, ...]
    ended: str | None
    """None while the run continues; "complete", or the reason why the run stopped"""

    def to_json(self) -> bytes:
        """Serialise the status as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()


class StatusBoard:
    """The progress of a run. The run's thread writes it, and the thread of the status page reads it.

    Args:
        description: the properties of the run that do not change.
        snapshot: returns the current state of the devices.
    """

    def __init__(self, description: RunDescription, snapshot: Callable[[], FleetSnapshot]) -> None:
        self._description, self._snapshot, self._lock = description, snapshot, threading.Lock()
        self._run, self._points = "", list[MetricPoint]()
        self._ended: str | None = None

    def begin(self, run: str, done: Sequence[RoundMetrics] = ()) -> None:
        """Set the name of the run, and add the rounds that it completed before it was resumed."""
        self._run = run
        for metrics in done:
            self._add(metrics)

    def watching(self, watch: ProgressHook) -> ProgressHook:
        """Return a hook that does what `watch` does, and adds each round to this board."""

        def watch_and_add(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
            for metrics in watch(rounds):
                self._add(metrics)
                yield metrics

        return watch_and_add

    def end(self, outcome: str) -> None:
        """Set the outcome: `edgefd.wire.exchange_folder.COMPLETE`, or the reason why the run stopped."""
        self._ended = outcome

    def status(self) -> Status:
        """Return the current status."""
        fleet = self._snapshot()
        with self._lock:
            points = list(self._points)
        seconds = sum(point.seconds for point in points)
        shown = thinned(points, MAX_POINTS)
        return Status(self._run, self._description, fleet, len(points), seconds, shown, self._ended)

    def _add(self, m: RoundMetrics) -> None:
        with self._lock:
            up, down = (self._points[-1].up, self._points[-1].down) if self._points else (0, 0)
            self._points.append(
                MetricPoint(
                    round=m.round,
                    closing=m.closing,
                    heldout=m.heldout_accuracy_mean,
                    test=m.accuracy_mean,
                    teacher=m.teacher_accuracy,
                    kept=m.kept_fraction,
                    up=up + m.bytes_up,
                    down=down + m.bytes_down,
                    seconds=m.seconds,
                )
            )


def thinned(points: Sequence[MetricPoint], limit: int) -> tuple[MetricPoint, ...]:
    """Return every k-th point and the last point, at most `limit` points in total (`limit` is 2 or more)."""
    if len(points) <= limit:
        return tuple(points)
    step = -(-len(points) // (limit - 1))
    return (*points[:-1:step], points[-1])
