"""Paired measurement: what is compared takes turns, and each turn gives one ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """How many times longer (or larger) `against` is than ours: median over the turns, with the quartiles."""

    case: str
    against: str
    ratio: float
    low: float
    high: float

    def to_dict(self) -> dict[str, str | float]:
        """As JSON."""
        return asdict(self)


def take_turns(work: Mapping[str, Callable[[], object]], turns: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Seconds of each piece of work in each turn; all take part in every turn, in rotating order."""
    names = list(work)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            work[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(case: str, against: str, theirs: list[float], ours: list[float]) -> Ratio:
    """Turn by turn."""
    each = np.array(theirs) / np.array(ours)
    low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
    return Ratio(case, against, float(middle), float(low), float(high))
