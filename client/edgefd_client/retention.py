"""Which samples of a growing source a device keeps: the newest ones, or as many of each class."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError


@dataclass(frozen=True)
class Retention:
    """Limits on the samples that a device keeps."""

    newest: int | None = None
    """keep the newest samples only, at most so many; None = all"""
    per_class: int | None = None
    """keep at most so many samples of each class, a random choice of all that have come; None = all"""

    def __post_init__(self) -> None:
        for name, limit in (("--keep", self.newest), ("--keep-per-class", self.per_class)):
            if limit is not None and limit < 2:
                raise UserError(f"{name} must be at least 2 samples, not {limit}")
        if self.newest is not None and self.per_class is not None:
            raise UserError("--keep and --keep-per-class exclude each other: give one of them")

    @property
    def keeps_all(self) -> bool:
        """Whether there is no limit."""
        return self.newest is None and self.per_class is None


KEEP_ALL = Retention()
"""no limit"""


def kept_rows(retention: Retention, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Int64:
    """Return the rows of samples x [n, ...] with labels y [n] to keep, ascending. Newer samples are further back.

    The choice of each class is a reservoir: the samples with the smallest hashes. So it needs no memory, and when
    samples come, it changes only where one of them is chosen.

    >>> kept_rows(Retention(newest=2), np.zeros((5, 1)), np.arange(5)).tolist()
    [3, 4]
    """
    if retention.newest is not None:
        return np.arange(len(x))[-retention.newest :]
    if retention.per_class is None:
        return np.arange(len(x))
    order = np.argsort([hashlib.sha256(sample.tobytes()).digest() for sample in np.ascontiguousarray(x)], kind="stable")
    chosen = [order[y[order] == label][: retention.per_class] for label in np.unique(y)]
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))
