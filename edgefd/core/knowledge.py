"""`Knowledge`: the data that clients and server exchange."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Bool, Float32, Int64


@dataclass(frozen=True, eq=False)
class Knowledge:
    """Rows of soft labels with one id each: a proxy sample, a class, or 0 for the single row of model parameters.

    Args:
        ids: int64 [n], unique, ascending, non-negative.
        values: float32 [n, d], finite. Usually d = number of classes and each row a probability vector.
        weights: float32 [n], in (0, 1]: the confidence of the sender in each row.

    Raises:
        ValueError: if one of these conditions does not hold, so malformed knowledge is never used.

    >>> k = Knowledge(np.array([2, 5]), np.array([[1, 0], [0.5, 0.5]], np.float32), np.ones(2, np.float32))
    >>> len(k), k.width
    (2, 2)
    """

    ids: Int64
    values: Float32
    weights: Float32

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _frozen(self.ids, np.int64))
        object.__setattr__(self, "values", _frozen(self.values, np.float32))
        object.__setattr__(self, "weights", _frozen(self.weights, np.float32))
        _check(self)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def width(self) -> int:
        """Number of values per row, d."""
        return int(self.values.shape[1])

    def rows(self, mask: Bool) -> Knowledge:
        """Return the rows that a mask, bool [n], marks."""
        return Knowledge(self.ids[mask], self.values[mask], self.weights[mask])

    def equals(self, other: Knowledge) -> bool:
        """Return whether both objects hold the same bits."""
        return (
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.values, other.values)
            and np.array_equal(self.weights, other.weights)
        )


def empty(width: int) -> Knowledge:
    """Return knowledge without rows, of `width` values per row, as sent by a client that accepts no row."""
    return Knowledge(np.empty(0, np.int64), np.empty((0, width), np.float32), np.empty(0, np.float32))


def replaced(old: Knowledge, stays: Bool, new: Knowledge) -> Knowledge:
    """Return new rows and the old rows that stay; `stays`, bool [n], marks them, and none of them may be a new row."""
    ids = np.concatenate([new.ids, old.ids[stays]])
    order = ids.argsort()
    values = np.concatenate([new.values, old.values[stays]])[order]
    return Knowledge(ids[order], values, np.concatenate([new.weights, old.weights[stays]])[order])


def weighted_mean(uploads: Iterable[Knowledge]) -> Knowledge:
    """Return the weighted mean of the uploads for every row that at least one client sent.

    z[i] = sum_c w_c[i] z_c[i] / sum_c w_c[i], over the clients c that sent row i. Rows that no client sent are absent.
    All other rows have weight 1, because the confidence of a client matters only relative to other clients. It does
    not decide how much is learned from a row. Uploads are added one at a time, in float64, so the cost is O(rows sent)
    and the array [clients, rows, classes] is never built.

    Raises:
        ValueError: without uploads, or if they differ in width.

    >>> a = Knowledge(np.array([0, 1]), np.eye(2, dtype=np.float32), np.ones(2, np.float32))
    >>> b = Knowledge(np.array([1]), np.array([[1, 0]], np.float32), np.ones(1, np.float32))
    >>> weighted_mean([a, b]).values
    array([[1. , 0. ],
           [0.5, 0.5]], dtype=float32)
    """
    uploads = list(uploads)
    if not uploads:
        raise ValueError("nothing to aggregate: no uploads")
    widths = {u.width for u in uploads}
    if len(widths) != 1:
        raise ValueError(f"uploads of different widths: {sorted(widths)}")
    ids = np.unique(np.concatenate([u.ids for u in uploads]))
    total = np.zeros((len(ids), widths.pop()), np.float64)
    mass = np.zeros(len(ids), np.float64)
    for upload in uploads:
        rows = np.searchsorted(ids, upload.ids)
        total[rows] += upload.weights[:, None] * upload.values.astype(np.float64)
        mass[rows] += upload.weights
    return Knowledge(ids, (total / mass[:, None]).astype(np.float32), np.ones(len(ids), np.float32))


def _frozen(array: npt.NDArray[np.generic], dtype: type) -> npt.NDArray[np.generic]:
    """Return a read-only view of `dtype`. The array is copied only if necessary."""
    out: npt.NDArray[np.generic] = np.ascontiguousarray(array, dtype=dtype).view()
    out.flags.writeable = False
    return out


def _check(k: Knowledge) -> None:
    if k.ids.ndim != 1 or k.values.ndim != 2 or k.weights.ndim != 1:
        raise ValueError("knowledge needs ids [n], values [n, d] and weights [n]")
    if not len(k.ids) == len(k.values) == len(k.weights):
        raise ValueError(f"knowledge of {len(k.ids)} ids, {len(k.values)} rows and {len(k.weights)} weights")
    if len(k.ids) and (k.ids[0] < 0 or np.any(np.diff(k.ids) <= 0)):
        raise ValueError("knowledge ids must be unique, ascending and not negative")
    if not np.isfinite(k.values).all():
        raise ValueError("knowledge values must be finite")
    if not ((k.weights > 0) & (k.weights <= 1)).all():  # also false for NaN
        raise ValueError("knowledge weights must be in (0, 1]")
