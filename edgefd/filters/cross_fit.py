"""Cross-fitting: a density of the reference set in which no row influences its own score."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.filters.log_density import LogDensity


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """A log density that is fitted on two halves of the reference set.

    A row of one half is scored by the other half. Any other row is scored by the mean of both halves. The rows that a
    filter scores are those of the reference set: a density fitted on all of them is too high at each of them.
    """

    half_of: dict[bytes, int]
    """half of each row of the reference set, by a digest of the row"""
    halves: tuple[LogDensity, LogDensity]

    def __call__(self, rows: Float32, projected: Float32) -> Float64:
        """Return log q of rows, float64 [n], from the rows themselves and their projection."""
        first, second = (half(projected) for half in self.halves)
        half_of = np.array([self.half_of.get(_key(row), -1) for row in rows])
        return np.select([half_of == 0, half_of == 1], [second, first], (first + second) / 2)


def cross_fit(
    rows: Float32, projected: Float32, fit: Callable[[Float32], LogDensity], rng: np.random.Generator
) -> CrossFitted:
    """Fit a density on each half of the reference set `rows`, float32 [m, d], in a random division.

    A single row is in both halves.
    """
    order, middle = rng.permutation(len(rows)), len(rows) // 2
    first, second = np.sort(order[: max(1, middle)]), np.sort(order[middle:])
    half_of = {_key(rows[i]): h for h, half in enumerate((first, second)) for i in half}
    return CrossFitted(half_of, (fit(projected[first]), fit(projected[second])))


def _key(row: Float32) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
