"""`ResidentSamples`: the samples of a pool in the memory of a device, which gathers batches from them itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from edgefd.core.arrays import Float32
from edgefd.learners.device import Device
from edgefd.learners.resident_rows import Rows, SamplePool

_LARGEST_SHARE = 0.5
"""largest share of the free memory of a device that samples take"""


class ResidentSamples:
    """The samples of a pool, copied to a device once."""

    def __init__(self, pool: SamplePool, device: Device) -> None:
        self._pool = pool
        self._samples = torch.empty(len(pool), *pool.shape, device=device.torch)
        start = 0
        for array in pool.arrays:
            self._samples[start : start + len(array)] = torch.from_numpy(np.ascontiguousarray(array))
            start += len(array)

    def gather(self, arrays: Sequence[Float32]) -> Tensor | None:
        """Return the samples of k arrays as [k, n, ...], filled up with any rows; None unless all are of this pool."""
        rows = [cast(Rows, x) for x in arrays if isinstance(x, Rows) and x.pool is self._pool]
        if len(rows) < len(arrays):
            return None
        index = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for places, x in zip(index, rows, strict=True):
            places[: len(x)] = x.index
        return self._samples[torch.from_numpy(index).to(self._samples.device)]


def resident(pool: SamplePool, device: Device) -> ResidentSamples | None:
    """Return the samples of a pool on a device; None if they would take more than half of its free memory."""
    n_bytes = 4 * len(pool) * int(np.prod(pool.shape))
    return ResidentSamples(pool, device) if n_bytes <= _LARGEST_SHARE * device.free_bytes() else None
