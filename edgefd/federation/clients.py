"""Data of a run: clients, proxy set and federation."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError

Derived = TypeVar("Derived")


@dataclass(frozen=True, eq=False)
class ClientData:
    """Private data of one client.

    Args:
        client: number of the client.
        x: float32 [n, ...], samples to train on.
        y: int64 [n], their labels.
        x_heldout: float32 [m, ...], samples that are never trained on.
        y_heldout: int64 [m], their labels.
        contributed: int64, ascending ids of the proxy rows that the client contributed.
        rows: int64 [n], indices of `x` in the training set; None outside simulations.
        heldout_rows: int64 [m], indices of `x_heldout` in the training set; None outside simulations.
        contributed_y: int64, labels of the contributed rows; None if the client has not kept them.
        name: name of the group, such as a person, whose samples these are; "" if the client is no group.
        unlabelled: float32 [u, ...], further samples without labels, to which only the filter is fitted; None = none.
    """

    client: int
    x: Float32
    y: Int64
    x_heldout: Float32
    y_heldout: Int64
    contributed: Int64
    rows: Int64 | None = None
    heldout_rows: Int64 | None = None
    contributed_y: Int64 | None = None
    name: str = ""
    unlabelled: Float32 | None = None

    @property
    def x_filter(self) -> Float32:
        """Samples to which a filter is fitted, with and without labels: float32 [n + u, ...]."""
        return self.x if self.unlabelled is None else np.concatenate([self.x, self.unlabelled])


@dataclass(frozen=True, eq=False)
class ProxySet:
    """Shared samples: `x` float32 [P, ...], row i has id i; `owner` int64 [P], contributing client or -1 = public."""

    x: Float32
    owner: Int64
    _derived: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.x)

    def derived(self, key: Hashable, compute: Callable[[Float32], Derived]) -> Derived:
        """Return `compute(x)`, computed once: clients of one process share what depends on the proxy set alone.

        `key` names the function and everything else that the result depends on.
        """
        if key not in self._derived:
            self._derived[key] = compute(self.x)
        derived: Derived = self._derived[key]
        return derived

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the samples. A client with another proxy set must be refused, not averaged."""
        return hashlib.sha256(np.ascontiguousarray(self.x).tobytes()).hexdigest()


@dataclass(frozen=True)
class Scale:
    """Scale (x - mean) / std of raw samples; by default with mean and standard deviation of the shared proxy set.

    `mean` and `std` have one number for all values, or one for each column of a table, or for each channel of images
    and windows.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, x: npt.NDArray[Any]) -> Float32:
        """Convert raw samples, uint8 or float32 [n, C, ...], to the input of a model: float32 of the same shape."""
        along_channels = (1, -1, *[1] * (x.ndim - 2))
        out = x.astype(np.float32)
        out -= np.array(self.mean, np.float32).reshape(along_channels)
        out /= np.array(self.std, np.float32).reshape(along_channels)
        return out


RAW = Scale((0.0,), (1.0,))


def scale_of(proxy: npt.NDArray[Any], by_column: bool = False) -> Scale:
    """Return the scale of raw proxy samples [n, C, ...], for all values or by column. Constant values are only centred.

    No party sees all samples of a federation. The proxy set is what everybody shares, so it determines the scale.
    """
    columns = [proxy[:, c] for c in range(proxy.shape[1])] if by_column else [proxy]
    numbers = [(float(x.mean(dtype=np.float64)), float(x.std(dtype=np.float64))) for x in columns]
    # float32 does not resolve smaller deviations: they would be rounding errors
    return Scale(
        tuple(mean for mean, _ in numbers), tuple(std if std > 1e-7 * abs(mean) else 1.0 for mean, std in numbers)
    )


def unit_scale(dtype: np.dtype[Any], mean: Sequence[float] = (0.0,), deviation: Sequence[float] = (1.0,)) -> Scale:
    """Return the scale (u - mean) / deviation, where u = x / 255 for pixels, uint8, and u = x for other samples.

    >>> unit_scale(np.dtype("uint8"))(np.array([[255]], np.uint8))
    array([[1.]], dtype=float32)
    """
    unit = 255.0 if dtype == np.uint8 else 1.0
    return Scale(tuple(unit * m for m in mean), tuple(unit * d for d in deviation))


@dataclass(frozen=True, eq=False)
class Federation:
    """Data of all clients, the shared proxy set, and data that is available only in a simulation.

    Args:
        clients: private data of each client.
        proxy: the shared samples.
        proxy_labels: int64 [P], used for measurement and by reference methods that declare it; no client sees them.
            None for a public proxy set without labels.
        x_test: float32 [t, ...], the test set.
        y_test: int64 [t], its labels.
        n_classes: number of classes.
        scale: standardisation that was applied to all samples.
        table: int64 [clients, classes], number of samples of each client, with contributed and held-out ones.
        raw_samples_disclosed: number of raw private samples that clients have shared with others.
        kept: whether clients also train on the samples that they contributed.
        proxy_rows: indices of the proxy samples in the training set; None if they come from another source.
    """

    clients: tuple[ClientData, ...]
    proxy: ProxySet
    proxy_labels: Int64 | None
    x_test: Float32
    y_test: Int64
    n_classes: int
    scale: Scale
    table: Int64
    raw_samples_disclosed: int
    kept: bool = False
    proxy_rows: Int64 | None = None


def proxy_labels_of(federation: Federation) -> Int64:
    """Return the labels of the proxy set, for methods that require them.

    Raises:
        UserError: if the proxy set has no labels.
    """
    if federation.proxy_labels is None:
        raise UserError(
            "this method needs labels of the proxy set: add y to the npz of proxy.path, or set proxy.data.labels=true"
        )
    return federation.proxy_labels


def merged(federation: Federation, *, private: bool) -> ClientData:
    """Return one client that holds the labelled proxy set and, if `private`, the private rows of all clients.

    Raises:
        UserError: if the proxy set has no labels.
    """
    clients = federation.clients if private else ()
    return ClientData(
        client=0,
        x=np.concatenate([federation.proxy.x, *(c.x for c in clients)]),
        y=np.concatenate([proxy_labels_of(federation), *(c.y for c in clients)]),
        x_heldout=np.concatenate([c.x_heldout for c in federation.clients]),
        y_heldout=np.concatenate([c.y_heldout for c in federation.clients]),
        contributed=np.flatnonzero(federation.proxy.owner >= 0),
    )
