"""Samples of another data set as a public proxy set, in the size, colours and range of the private data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.core.seeding import Purpose, make_rng
from edgefd.data.datasets import Dataset, PublicSamples, load_dataset
from edgefd.data.image_arrays import is_image, resized, with_channels
from edgefd.data.sources.source import Source
from edgefd.federation.units import far_from, in_units, some_rows, units_of


@dataclass(frozen=True)
class ProxyData(Source):
    """Data set whose training samples become the proxy set, and how it is read, as in the section `data`."""

    limit: int | None = None
    """number of samples to take, the same ones for every seed (at least 1; None = all)"""
    labels: bool = False
    """whether its labels are those of the private data, for measurements and for methods that need labels of the proxy
    set; it must then have the same classes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}")


def load_proxy_data(choice: ProxyData, private: Dataset) -> PublicSamples:
    """Load the training samples of another data set as samples of the same kind as the private ones.

    Args:
        choice: the data set.
        private: the data set of the clients.

    Raises:
        UserError: if it cannot be loaded, its samples cannot become samples of that kind, or it has other classes.
    """
    try:
        dataset = load_dataset(choice)
    except UserError as error:
        raise UserError(f"proxy.data: {error}") from error
    rows = _chosen_rows(choice, len(dataset.x_train))
    where = f"proxy.data {dataset.name}"
    x, changes = _of_kind(dataset.x_train[rows], private, where)
    if n_private := _n_shared(x, private.x_train):
        changes.append(f"{n_private} of them are also training samples of {private.name}")
    y = _labels(dataset, private, where)[rows] if choice.labels else None
    count = f"{len(rows)} of {len(dataset.x_train)} training samples of {dataset.name} from {dataset.source}"
    return PublicSamples(x, y, ", ".join([count, *changes]), dataset.sha256)


def _chosen_rows(choice: ProxyData, n: int) -> Int64:
    if choice.limit is None:
        return np.arange(n)
    if choice.limit > n:
        raise UserError(f"proxy.data.limit={choice.limit}, but there are {n} training samples: lower it")
    return np.sort(make_rng(0, Purpose.LIMIT).permutation(n)[: choice.limit])


def _of_kind(x: npt.NDArray[Any], private: Dataset, where: str) -> tuple[npt.NDArray[Any], list[str]]:
    """Return samples in the shape, the type and the range of the private ones, and what was changed, in words."""
    shape = private.x_train.shape[1:]
    changes: list[str] = []
    if x.shape[1:] != shape:
        if not (is_image(x.shape[1:]) and is_image(shape)):
            raise UserError(
                f"{where}: its samples have the shape {list(x.shape[1:])}, those of {private.name} {list(shape)}: only "
                "images can be converted"
            )
        if x.shape[1] != shape[0]:
            changes.append("colour converted to grey" if shape[0] == 1 else "grey repeated as three colours")
            x = with_channels(x, shape[0])
        if x.shape[2:] != shape[1:]:
            changes.append(f"resized from {x.shape[2]} x {x.shape[3]} to {shape[1]} x {shape[2]}")
            x = resized(x, (shape[1], shape[2]))
    units = units_of(private.x_train, some_rows(private.x_train))
    if is_image(shape) and (private.x_train.dtype == np.uint8) != (x.dtype == np.uint8):
        x, change = _in_range(x, units.low, units.high)
        changes += change
    x = in_units(x, units, f"{where} against {private.name}")
    far_from(x, units, private.n_classes, where, private.name)  # raises for other units
    return x, changes


def _in_range(x: npt.NDArray[Any], low: float, high: float) -> tuple[npt.NDArray[Any], list[str]]:
    """Convert pixels of 0 to 255 to numbers from 0 to 1, or these to pixels; other ranges stay as they are."""
    if x.dtype == np.uint8:
        fits = low >= 0 and high <= 1
        return (x.astype(np.float32) / 255, ["divided by 255"]) if fits else (x, [])
    if x.min() >= 0 and x.max() <= 1:
        return np.rint(x * 255).astype(np.uint8), ["multiplied by 255"]
    return x, []


def _n_shared(x: npt.NDArray[Any], private: npt.NDArray[Any]) -> int:
    """Return how many samples occur among the private samples: a set of these would not be public."""
    known = {row.tobytes() for row in private.astype(x.dtype, copy=False)}
    return sum(row.tobytes() in known for row in x)


def _labels(dataset: Dataset, private: Dataset, where: str) -> Int64:
    if (dataset.n_classes, dataset.label_names) != (private.n_classes, private.label_names):
        raise UserError(
            f"{where} has {dataset.n_classes} classes, {private.name} has {private.n_classes}, or their names differ: "
            "set proxy.data.labels=false"
        )
    return dataset.y_train
