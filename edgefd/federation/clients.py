"""Clients, proxy set and federation: the data that a run works on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError


@dataclass(frozen=True, eq=False)
class ClientData:
    """One client's private data.

    `x` float32 [n, ...] and `y` int64 [n] to train on; `x_heldout`, `y_heldout` never trained on; `contributed`: int64 ids of
    the proxy rows that the client contributed, ascending, and `contributed_y` int64 their labels, where the client has kept
    them. `rows`, `heldout_rows`: which samples of the training set `x` and `x_heldout` are, where that is known; only a
    simulation knows.
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


@dataclass(frozen=True, eq=False)
class ProxySet:
    """The shared samples: x float32 [P, ...]; row i has id i. `owner` int64 [P]: who contributed it, -1 = public."""

    x: Float32
    owner: Int64

    def __len__(self) -> int:
        return len(self.x)

    @property
    def sha256(self) -> str:
        """Of the samples: clients with another proxy set must be refused, not averaged."""
        return hashlib.sha256(np.ascontiguousarray(self.x).tobytes()).hexdigest()


@dataclass(frozen=True)
class Scale:
    """(x - mean) / std, with the mean and standard deviation of all numbers of the proxy set, which everybody holds."""

    mean: float
    std: float

    def __call__(self, x: npt.NDArray[Any]) -> Float32:
        """Raw samples, uint8 or float32, as a model takes them: float32 of the same shape."""
        out = x.astype(np.float32)
        out -= np.float32(self.mean)
        out /= np.float32(self.std)
        return out


RAW = Scale(0.0, 1.0)


def scale_of(proxy: npt.NDArray[Any]) -> Scale:
    """The scale of raw proxy samples. A constant proxy set is only centred."""
    return Scale(float(proxy.mean(dtype=np.float64)), float(proxy.std(dtype=np.float64)) or 1.0)


@dataclass(frozen=True, eq=False)
class Federation:
    """All clients, what they share, and what only a simulation knows.

    `proxy_labels` (int64 [P]; None for a public proxy set without) are for measurement, and for references that declare
    it; no client sees them. `table` (int64 [clients, classes]) counts the samples each client was dealt, contributed
    and held-out ones included. `kept`: contributed samples are among the private ones as well. `proxy_rows`: which
    samples of the training set the proxy set is made of; None if they are from elsewhere.
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
    """The labels of the proxy set, for those who cannot do without.

    Raises:
        UserError: if there are none.
    """
    if federation.proxy_labels is None:
        raise UserError("this method needs labels of the proxy set: add y to the npz of proxy.path")
    return federation.proxy_labels


def merged(federation: Federation, *, private: bool) -> ClientData:
    """One client that holds the labelled proxy set and, if `private`, everybody's private rows too.

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
