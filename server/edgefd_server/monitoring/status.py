"""What the status page shows: a run and its fleet at one moment, as frozen values and as JSON.

No private value is in it: accuracies, shares, bytes, times and refusals are what the run folder and the log hold too.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from edgefd.runs.execute import ProgressHook
from edgefd.runs.prepare import PreparedRun
from edgefd.runs.round_metrics import RoundMetrics

MAX_POINTS = 500
"""rounds in the curves: of a longer run every second, third ... is shown, and the last"""

State = Literal["never seen", "waiting", "working", "answered", "late"]


@dataclass(frozen=True)
class About:
    """What does not change."""

    method: str
    data: str
    model: str
    n_clients: int
    rounds: int
    """numbered from 0; the closing round comes after them and has this number"""


@dataclass(frozen=True)
class Opened:
    """The round that was opened last. It is closed when there is a `Point` of it."""

    round: int
    closing: bool
    asked: int
    reports: int
    began: float
    """seconds since 1970, as all times here"""


@dataclass(frozen=True)
class Device:
    """A client of the federation, whether it has come or not."""

    client: int
    name: str
    """of its certificate; "" without one"""
    seen: float | None
    """when it last called"""
    state: State
    answered: int
    """rounds"""
    refused: int
    """calls or reports"""
    last_refusal: str


@dataclass(frozen=True)
class Refused:
    """Refusals with the same reason, also those of devices that are nobody's."""

    reason: str
    count: int
    last: str


@dataclass(frozen=True)
class FleetSnapshot:
    """The devices and what they do."""

    opened: Opened | None
    devices: tuple[Device, ...]
    refused: tuple[Refused, ...]
    trouble: str = ""
    """why the page may not be up to date"""


@dataclass(frozen=True)
class Point:
    """A round that is done, in the curves. Bytes are summed up from the first round on."""

    round: int
    closing: bool
    heldout: float | None
    test: float | None
    teacher: float | None
    kept: float
    up: int
    down: int
    seconds: float


@dataclass(frozen=True)
class Status:
    """All that the page shows."""

    run: str
    about: About
    fleet: FleetSnapshot
    done: int
    """rounds, the closing one too"""
    seconds: float
    """that they took"""
    points: tuple[Point, ...]
    ended: str | None
    """None: it goes on; "complete", or why it stopped"""

    def to_json(self) -> bytes:
        """In one line."""
        return json.dumps(asdict(self), separators=(",", ":"), allow_nan=False).encode()


def about(prepared: PreparedRun) -> About:
    """Of a run that is about to begin."""
    config = prepared.config
    models = ", ".join(model.name for model in config.model)
    n_clients = len(prepared.federation.clients)
    return About(config.method_name, prepared.dataset.name, models, n_clients, config.train.rounds)


class StatusBoard:
    """Where a run says how far it is. Written by the run's thread, read by the page's."""

    def __init__(self, about: About, snapshot: Callable[[], FleetSnapshot]) -> None:
        self._about, self._look, self._lock = about, snapshot, threading.Lock()
        self._run, self._points = "", list[Point]()
        self._ended: str | None = None

    def begin(self, run: str, done: Sequence[RoundMetrics] = ()) -> None:
        """The name of the run, and the rounds that it has done before."""
        self._run = run
        for metrics in done:
            self._add(metrics)

    def watching(self, watch: ProgressHook) -> ProgressHook:
        """`watch`, with the rounds noted here as they pass."""

        def both(rounds: Iterator[RoundMetrics]) -> Iterator[RoundMetrics]:
            for metrics in watch(rounds):
                self._add(metrics)
                yield metrics

        return both

    def end(self, how: str) -> None:
        """The run is over: `edgefd.wire.exchange_folder.COMPLETE`, or why it stopped."""
        self._ended = how

    def status(self) -> Status:
        """As it is now."""
        fleet = self._look()
        with self._lock:
            points = list(self._points)
        seconds = sum(point.seconds for point in points)
        return Status(self._run, self._about, fleet, len(points), seconds, thinned(points, MAX_POINTS), self._ended)

    def _add(self, m: RoundMetrics) -> None:
        with self._lock:
            up, down = (self._points[-1].up, self._points[-1].down) if self._points else (0, 0)
            self._points.append(
                Point(
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


def thinned(points: Sequence[Point], most: int) -> tuple[Point, ...]:
    """Every k-th point and the last, at most `most`, which is 2 or more."""
    if len(points) <= most:
        return tuple(points)
    step = -(-len(points) // (most - 1))
    return (*points[:-1:step], points[-1])
