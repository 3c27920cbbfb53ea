"""Random numbers of dropout that depend only on keys, so torch and ONNX Runtime drop the same units.

A random mask of a training step is 1 where u < keep, with u uniform in [0, 1). The numbers u come from Philox, a
counter-based generator (Salmon et al., SC 2011), keyed by (the keys of `Learner.set_noise`, the number of the call of
`train`, the number of the step in it, the number of the mask in the step). No worker, thread or library changes them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from edgefd.core.arrays import Float32

_PREFIX = "noise/"
_NAME = re.compile(r"noise/(0|[1-9][0-9]{0,5})/[0-7]", re.ASCII)


def uniforms(keys: Sequence[int], shape: Sequence[int]) -> Float32:
    """Return numbers in [0, 1), multiples of 2^-24, that depend on the keys: float32 of this shape.

    >>> uniforms((0, 1), (2, 2)).tolist() == uniforms((0, 1), (2, 2)).tolist() != uniforms((0, 2), (2, 2)).tolist()
    True
    """
    n = math.prod(shape)
    raw = np.random.Philox(np.random.SeedSequence(keys)).random_raw(-(-n // 2))
    out: Float32 = (raw.view(np.uint32)[:n] >> 8).astype(np.float32)
    out *= np.float32(2.0**-24)
    return out.reshape(shape)


def noise_input(index: int, axis: int) -> str:
    """Return the name of the input of a training graph for the numbers of mask `index`, whose rows are along `axis`."""
    return f"{_PREFIX}{index}/{axis}"


def noise_inputs(names: Iterable[str]) -> list[str]:
    """Return those of the inputs of a training graph that are the numbers of masks, in the order of the masks."""
    return sorted((name for name in names if _NAME.fullmatch(name)), key=_index_and_axis)


def fits_noise(name: str, shape: Sequence[int | str], batch: int) -> bool:
    """Return whether such an input has a fixed shape with rows of the batch along its axis."""
    _, axis = _index_and_axis(name)
    size = shape[axis] if axis < len(shape) else 0
    return all(isinstance(d, int) for d in shape) and isinstance(size, int) and size > 0 and size % batch == 0


def fill(array: Float32, name: str, rows: int, batch: int, keys: Sequence[int]) -> None:
    """Write the numbers of a mask for the first `rows` of the `batch` rows of a graph. The others stay as they are."""
    index, axis = _index_and_axis(name)
    used = array.shape[axis] // batch * rows
    shape = (*array.shape[:axis], used, *array.shape[axis + 1 :])
    array[(*(slice(None) for _ in range(axis)), slice(used))] = uniforms((*keys, index), shape)


def _index_and_axis(name: str) -> tuple[int, int]:
    index, axis = name.removeprefix(_PREFIX).split("/")
    return int(index), int(axis)
