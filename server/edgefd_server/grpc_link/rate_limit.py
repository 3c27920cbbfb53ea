"""Limit how often each client may call."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from edgefd_server.grpc_link.refusals import Code, Refusal


@dataclass(frozen=True)
class Rate:
    """A token bucket: `burst` calls at once, refilled by `per_second` calls a second."""

    per_second: float = 50.0
    """calls that a client may make per second in the long run"""
    burst: float = 100.0
    """calls that a client may make at once"""


DEFAULT_RATE = Rate()


class Limiter:
    """Rate limits of all clients, with one token bucket for each. Used from one thread."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        self.seen: dict[int, float] = {}
        """time of each client's last call, by the clock"""
        self._rate, self._clock = rate, clock
        self._buckets: dict[int, tuple[float, float]] = {}

    def pay(self, client: int | None) -> None:
        """Take one call out of the client's bucket; None = a client that is not known yet.

        Raises:
            Refusal: if the bucket is empty.
        """
        if client is None:
            return
        now = self._clock()
        tokens, updated = self._buckets.get(client, (self._rate.burst, now))
        tokens = min(self._rate.burst, tokens + (now - updated) * self._rate.per_second)
        self._buckets[client] = (max(tokens - 1, 0.0), now)
        if tokens < 1:
            line = f"client {client} calls more than {self._rate.per_second:g} times a second"
            raise Refusal(Code.RESOURCE_EXHAUSTED, "rate", line)
        self.seen[client] = now
