"""The self-test of a bundle: one training step, and checksums of the state after it.

An array of more than 64 numbers is not stored itself, but as weighted sums of up to 64 of its neighbours. The weights
are at least 1: a number that deviates changes a sum by at least its deviation. The weights differ, so several
deviations, such as those of a gradient that sums to 0, do not cancel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.core.npz import npz_arrays, npz_bytes
from edgefd.learners.graphs import State

_MOST_SUMMED = 64
_WEIGHTS = 1 + np.random.PCG64(0).random_raw(_MOST_SUMMED) / 2.0**64  # float64 in [1, 2); the raw stream is stable
_MOMENTS = "optimizer/exp_avg_sq/"  # second moments of Adam


@dataclass(frozen=True, eq=False)
class SelfTest:
    """One training step on the first rows of the proxy set, and its result."""

    targets: Float32
    """float32 [rows, C]: the soft labels that the step learns"""
    lr: float
    """learning rate"""
    second_moment: float
    """value of all second moments of Adam before the step, about the square of a gradient. If they were zero, the first
    step would divide rounding errors by themselves, and CPUs of different kinds round differently"""
    loss: float
    """loss of the step"""
    largest: Float32
    """float32 [arrays]: largest magnitude in each array of the state after the step"""
    sums: Float32
    """float32: the checksums of the arrays, one after another"""

    def start(self, init: State) -> State:
        """Return the state before the step."""
        return {n: np.full_like(v, self.second_moment) if n.startswith(_MOMENTS) else v for n, v in init.items()}


def checksums(array: np.ndarray) -> np.ndarray:
    """Return the weighted sums of neighbours, float64: of 1 number for arrays of up to 64, of at most 64 numbers.

    >>> checksums(np.ones(3)).shape, checksums(np.ones(100)).shape, checksums(np.ones((100, 1000))).shape
    ((3,), (50,), (1563,))
    """
    numbers = array.reshape(-1).astype(np.float64)
    n = _summed(len(numbers))
    padded = np.concatenate([numbers, np.zeros(-len(numbers) % n)])
    return padded.reshape(-1, n) @ _WEIGHTS[:n]


def n_checksums(size: int) -> int:
    """Return the number of checksums of an array of that size."""
    return -(-size // _summed(size))


def _summed(size: int) -> int:
    return min(max(-(-size // _MOST_SUMMED), 1), _MOST_SUMMED)


def selftest_bytes(test: SelfTest) -> bytes:
    """Return the self-test as selftest.npz."""
    return npz_bytes({name: np.asarray(value, np.float32) for name, value in vars(test).items()})


def read_selftest(blob: bytes, state: Iterable[np.ndarray], batch: int, n_classes: int) -> SelfTest:
    """Return the self-test in selftest.npz.

    Args:
        blob: the file.
        state: the arrays of the state, in their order.
        batch: largest number of rows.
        n_classes: number of classes C.

    Raises:
        ValueError: if it is not a self-test of such a state.
    """
    sizes = [array.size for array in state]
    n_sums = sum(map(n_checksums, sizes))
    limit = 4 * (n_sums + len(sizes) + batch * n_classes) + 4096  # and the headers
    arrays = npz_arrays(blob, limit)
    targets = arrays.get("targets", np.empty((0, 0)))
    rows = len(targets) if targets.ndim else 0
    shapes = {"targets": (rows, n_classes), "largest": (len(sizes),), "sums": (n_sums,)}
    shapes |= {"lr": (), "second_moment": (), "loss": ()}
    if {name: array.shape for name, array in arrays.items()} != shapes or not 0 < rows <= batch:
        raise ValueError("it does not hold one training step of this model")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("it must hold finite float32 numbers")
    numbers = {name: float(arrays[name]) for name in ("lr", "second_moment", "loss")}
    return SelfTest(targets=targets, largest=arrays["largest"], sums=arrays["sums"], **numbers)
