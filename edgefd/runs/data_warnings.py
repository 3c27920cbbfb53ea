"""Warnings about the data of a run: unequal scales, clients far from the proxy set, filters that accept no row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.data.datasets import Dataset
from edgefd.federation.clients import Federation
from edgefd.federation.method import Method
from edgefd.federation.units import MAX_CHANNELS, channel_statistics, far_from, some_rows, units_of
from edgefd.filters.shift import OTHER_KIND, describe_shift, effective_share, proxy_shift, proxy_spaces

_NARROW = 1 / 30
_FRACTION = 0.25
_LISTED = 3


def data_warnings(dataset: Dataset, federation: Federation) -> tuple[str, ...]:
    """Return a sentence for each warning about the data; none for data in one unit.

    Clients are compared with the proxy set as a device compares its own data (`edgefd.federation.units.far_from`).

    Raises:
        UserError: if the samples of a client are in other units than the proxy set.
    """
    units = units_of(dataset.x_train, federation.proxy.x)
    scale = federation.scale.mean, federation.scale.std
    parts = [(f"client {c.client}", c.x) for c in federation.clients] + [("the test set", federation.x_test)]
    far = [far_from(x, units, dataset.n_classes, name, scale=scale) for name, x in parts]
    lines = [line for line in (uneven_columns(dataset, federation), *far) if line is not None]
    more = [f"{len(lines) - _LISTED} more of {len(parts)} parts of the data lie far from the proxy set"]
    return (*lines[:_LISTED], *(more if len(lines) > _LISTED else []))


def proxy_shifts(federation: Federation) -> tuple[float | None, ...]:
    """Return the shift of the proxy set from the data of each client (`edgefd.filters.shift`)."""
    spaces = federation.proxy.derived(proxy_spaces, proxy_spaces)
    return tuple(
        proxy_shift(c.x, c.x_heldout, spaces, effective_share(c.y, federation.n_classes)) for c in federation.clients
    )


def shift_warnings(shifts: Sequence[float | None]) -> tuple[str, ...]:
    """Return a sentence about the clients whose data are of another kind than the proxy set; none if there are none."""
    far = {client: shift for client, shift in enumerate(shifts) if shift is not None and shift >= OTHER_KIND}
    if not far:
        return ()
    worst = max(far, key=far.__getitem__)
    return (
        f"the proxy set has few rows like those of {len(far)} of {len(shifts)} clients. Client {worst}, for example: "
        f"{describe_shift(far[worst])}",
    )


def acceptance_warnings(acceptance: Mapping[int, Float32], method: Method) -> tuple[str, ...]:
    """Return a sentence about those of these clients whose filter accepts no proxy row; none if there are none."""
    if not (method.exchanges and method.message.of_proxy_rows):
        return ()
    silent = [client for client, weights in acceptance.items() if not (weights > 0).any()]
    if not silent:
        return ()
    rows = len(acceptance[silent[0]])
    return (
        f"client {silent[0]} accepts 0 of {rows} proxy rows, as do {len(silent)} of {len(acceptance)} clients in all: "
        "they answer for no row, and classes that only they have reach no other client",
    )


def uneven_columns(dataset: Dataset, federation: Federation) -> str | None:
    """Describe the column (or channel) whose large numbers make the other columns almost constant after scaling.

    With one scale for all values, it is the largest column that determines the scale. None if every column has a scale
    of its own, or fewer than a quarter of the columns vary by less than a thirtieth of the scale.
    """
    x = dataset.x_train
    if len(federation.scale.mean) > 1 or not 1 < x.shape[1] <= MAX_CHANNELS:
        return None
    mean, std = map(np.array, channel_statistics(some_rows(x)))
    (spread,) = federation.scale.std
    varying = std[std > 0]
    if not len(varying) or (varying < _NARROW * spread).mean() < _FRACTION:
        return None
    worst = int(np.maximum(np.abs(mean), std).argmax())
    name = "column" if x.ndim == 2 else "channel"
    return (
        f"{dataset.name}: {name} {worst} (from 0) has mean {mean[worst]:.6g} and deviation {std[worst]:.4g}, but half "
        f"of the {name}s have a deviation of {np.median(varying):.3g} or less: divided by one scale ({spread:.4g}), "
        f"they hardly vary; set data.scale=columns, or scale the {name}s yourself"
    )
