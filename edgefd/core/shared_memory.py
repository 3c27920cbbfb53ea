"""Arrays that forked worker processes share with their parent."""

from __future__ import annotations

import math
import mmap

import numpy as np

from edgefd.core.arrays import Float32


def shared_zeros(shape: tuple[int, ...]) -> Float32:
    """Return a float32 array of zeros that this process and its forks share."""
    size = math.prod(shape)
    memory = mmap.mmap(-1, max(4 * size, 1))
    return np.frombuffer(memory, np.float32, count=size).reshape(shape)
