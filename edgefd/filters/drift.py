"""How far the data of a client have moved since its filter was fitted: a cheap score that decides when to fit it again.

A fit costs clusters of all rows; the score costs their mean. It needs no row of the earlier data, only a summary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32, Int64

DRIFT = 0.05
"""drift from which a filter and its threshold are fitted again; two samples of 800 rows each of the same source differ
by about as much"""
_SMALLEST = 1e-3  # standard deviation of a value that hardly varies; samples are scaled


@dataclass(frozen=True, eq=False)
class DataSummary:
    """The data that a filter was fitted to, as far as the drift depends on them."""

    shares: Float32
    """share of each class, float32 [C]"""
    mean: Float32
    """mean of each value of a sample, float32 [D]"""
    std: Float32
    """standard deviation of each value of a sample, float32 [D]"""
    contributed: Int64
    """ids of the proxy rows that the client contributed, int64"""


def summary_of(x: Float32, y: Int64, n_classes: int, contributed: Int64) -> DataSummary:
    """Return the summary of samples x [n, ...] with labels y, which may be fewer: some samples have none."""
    rows = x.reshape(len(x), -1)
    shares = (np.bincount(y, minlength=n_classes) / max(len(y), 1)).astype(np.float32)
    return DataSummary(shares, rows.mean(0), rows.std(0), contributed)


def drift(before: DataSummary, now: DataSummary) -> float:
    """Return how far data have moved, from 0 (not at all) on.

    It is the larger one of the total variation distance of the class shares, and of the distance of the means in
    standard deviations, as a root mean square over the values of a sample. If a class is new or gone, or other rows are
    contributed, it is at least 1: then the filter must change.
    """
    if not np.array_equal(before.contributed, now.contributed) or before.mean.shape != now.mean.shape:
        return 1.0
    if ((before.shares > 0) != (now.shares > 0)).any():
        return 1.0
    classes = float(np.abs(before.shares - now.shares).sum()) / 2
    spread = np.maximum(np.sqrt((before.std**2 + now.std**2) / 2), _SMALLEST)
    return max(classes, float(np.sqrt((((before.mean - now.mean) / spread) ** 2).mean())))
