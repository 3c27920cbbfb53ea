"""`Rows`: samples that are named by their place and copied only where they are needed.

All samples of a simulation are one `SamplePool`. A batch of `Rows` is a list of places in it, so a device that holds
the pool in its memory gathers the batches of many clients itself, and no sample is sent to it again. Everywhere else,
`Rows` behave like the float32 array of the samples: indexing and concatenation give `Rows`, and every other function of
numpy gets an array.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from edgefd.core.arrays import Float32, Int64


class SamplePool:
    """Samples of one shape from several arrays, which are not copied. Row i of the pool is in one of the arrays.

    Args:
        arrays: float32 [n, ...] each, with samples of one shape.
    """

    def __init__(self, arrays: Sequence[Float32]) -> None:
        self.arrays = tuple(arrays)
        self._starts = np.cumsum([0, *(len(array) for array in self.arrays)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.arrays[0].shape[1:]

    def rows(self, array: int) -> Float32:
        """Return the rows of the array with this number. Their type is `Rows`, which stands for a float32 array."""
        start, end = self._starts[array : array + 2]
        return cast(Float32, Rows(self, np.arange(start, end)))

    def gather(self, index: Int64) -> Float32:
        """Return the samples at places in the pool: float32 [n, ...]; an array of the pool itself is not copied."""
        which = np.searchsorted(self._starts, index, side="right") - 1
        if len(index) and (which == which[0]).all():
            array, places = self.arrays[which[0]], index - self._starts[which[0]]
            whole = len(places) == len(array) and bool((np.diff(places) == 1).all())
            chosen_rows: Float32 = array if whole else array[places]
            return chosen_rows
        out: Float32 = np.empty((len(index), *self.shape), np.float32)
        for number in np.unique(which):
            chosen = which == number
            out[chosen] = self.arrays[number][index[chosen] - self._starts[number]]
        return out


class Rows(NDArrayOperatorsMixin):
    """Rows of a pool: `index` int64 [n] holds their places. It stands for an array that nobody changes."""

    def __init__(self, pool: SamplePool, index: Int64) -> None:
        self.pool, self.index = pool, index

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of samples."""
        return (len(self.index), *self.pool.shape)

    @property
    def ndim(self) -> int:
        """Number of axes of the array."""
        return 1 + len(self.pool.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Type of the numbers of a sample."""
        return np.dtype(np.float32)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) or (isinstance(key, np.ndarray) and key.ndim == 1):
            return Rows(self.pool, self.index[key])
        return np.asarray(self)[key]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        out = self.pool.gather(self.index)
        return np.array(out, dtype, copy=True) if copy else np.asarray(out, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*map(_array, inputs), **kwargs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.concatenate and len(args) == 1 and not kwargs and (parts := _of_one_pool(args[0])):
            return Rows(self.pool, np.concatenate([part.index for part in parts]))
        return function(*map(_array, args), **{name: _array(value) for name, value in kwargs.items()})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols such as that of pickle, which must not get those of the array
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def same_rows(first: Float32, second: Float32) -> bool:
    """Return whether both are the same object, or the same rows of one pool."""
    if isinstance(first, Rows) and isinstance(second, Rows):
        return first.pool is second.pool and np.array_equal(first.index, second.index)
    return first is second


def _array(value: Any) -> Any:
    """Return a value with an array in the place of each `Rows`."""
    if isinstance(value, list | tuple):
        return type(value)(map(_array, value))
    return np.asarray(value) if isinstance(value, Rows) else value


def _of_one_pool(parts: Iterable[Any]) -> list[Rows]:
    """Return the parts if all of them are rows of the same pool, otherwise nothing."""
    found = [part for part in parts if isinstance(part, Rows)]
    return found if len(found) == len(list(parts)) and len({id(part.pool) for part in found}) == 1 else []
