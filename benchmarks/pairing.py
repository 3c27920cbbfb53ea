"""Paired measurements: the compared candidates run alternately, and each turn gives one ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Ratio:
    """Time (or size) of `against` divided by that of edgefd: the median over the turns, with the quartiles."""

    case: str
    against: str
    ratio: float
    low: float
    high: float

    def to_dict(self) -> dict[str, str | float]:
        """Return the ratio as a dict of JSON values."""
        return asdict(self)


def take_turns(candidates: Mapping[str, Callable[[], object]], turns: int, warm_up: int = 1) -> dict[str, list[float]]:
    """Run every candidate once a turn, in rotating order, and return the seconds of each candidate in each turn."""
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_up, turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.perf_counter()
            candidates[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(case: str, against: str, theirs: list[float], ours: list[float]) -> Ratio:
    """Divide their seconds by ours turn by turn, and summarise the ratios."""
    each = np.array(theirs) / np.array(ours)
    low, middle, high = np.quantile(each, [0.25, 0.5, 0.75])
    return Ratio(case, against, float(middle), float(low), float(high))
