"""Limit how often each peer may call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgefd_server.grpc_link.refusals import Code, Refusal


@dataclass(frozen=True)
class Rate:
    """A bucket of `burst` calls that fills up with `per_second`."""

    per_second: float = 50.0
    burst: float = 100.0


DEFAULT_RATE = Rate()


class Limiter:
    """A bucket for each client. Used from one thread."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.seen: dict[int, float] = {}
        """when each client last called"""
        self._rate, self._clock = rate, clock
        self._calls: dict[int, tuple[float, float]] = {}

    def pay(self, client: int) -> None:
        """Take a call out of the client's bucket.

        Raises:
            Refusal: if there is none left.
        """
        now = self._clock()
        left, at = self._calls.get(client, (self._rate.burst, now))
        left = min(self._rate.burst, left + (now - at) * self._rate.per_second)
        self._calls[client] = (max(left - 1, 0.0), now)
        if left < 1:
            line = f"client {client} calls more than {self._rate.per_second:g} times a second"
            raise Refusal(Code.RESOURCE_EXHAUSTED, "rate", line)
        self.seen[client] = now
