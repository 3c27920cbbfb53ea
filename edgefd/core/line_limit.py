"""Limit of the lines that a log writes about the same thing, because others decide how often that happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

WINDOW = 60.0
"""seconds after which the lines of a kind are counted from 0 again"""
MAX_KINDS = 1000
"""most kinds that are counted separately; the others are counted together with the last of them"""

Kind = TypeVar("Kind", bound=Hashable)


@dataclass
class _Window:
    began: float
    written: int = 0
    left_out: int = 0


class LineLimit(Generic[Kind]):
    """Counts the lines of each kind. Used from one thread at a time.

    Args:
        lines: lines of a kind that are written in `WINDOW` seconds.
        clock: returns the time in seconds.
    """

    def __init__(self, lines: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._lines, self._clock = lines, clock
        self._windows: dict[Kind, _Window] = {}

    def admits(self, kind: Kind) -> bool:
        """Count a line, and return whether it is to be written. Call `over` first."""
        if kind not in self._windows and len(self._windows) >= MAX_KINDS:
            kind = next(reversed(self._windows))
        window = self._windows.setdefault(kind, _Window(self._clock()))
        if window.written < self._lines:
            window.written += 1
            return True
        window.left_out += 1
        return False

    def over(self, everything: bool = False) -> list[tuple[Kind, int]]:
        """Forget the kinds whose time is over, or all kinds; return how many lines of each were left out, if any."""
        ended = self._clock() - WINDOW
        kinds = [kind for kind, window in self._windows.items() if everything or window.began <= ended]
        counts = [(kind, self._windows.pop(kind).left_out) for kind in kinds]
        return [(kind, count) for kind, count in counts if count]
