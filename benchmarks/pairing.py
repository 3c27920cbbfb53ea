"""Paired measurements: the compared candidates run alternately, and each turn gives one ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Key = TypeVar("Key")


@dataclass(frozen=True)
class Ratio:
    """Time (or size) of `against` divided by that of edgefd: the median over the turns, with the quartiles."""

    case: str
    against: str
    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return the ratio as a line of text."""
        return f"{self.case:55} {self.against:18} {self.ratio:8.3f}  [{self.low:.3f}, {self.high:.3f}]"


def take_turns(
    candidates: Mapping[Key, Callable[[], object]],
    turns: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, list[float]]:
    """Run every candidate once a turn, in rotating order, and return the seconds of each candidate in each turn."""
    names = list(candidates)
    seconds: dict[Key, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = clock()
            candidates[name]()
            if turn >= 0:
                seconds[name].append(clock() - began)
    return seconds


def ratio(case: str, against: str, theirs: list[float], ours: list[float]) -> Ratio:
    """Divide their seconds by ours turn by turn, and summarise the ratios."""
    return summary(case, against, np.array(theirs) / np.array(ours))


def summary(case: str, against: str, ratios: Sequence[float] | np.ndarray) -> Ratio:
    """Return the median of the ratios, with the quartiles."""
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return Ratio(case, against, float(middle), float(low), float(high))
