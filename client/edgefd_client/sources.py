"""Where a device's private data comes from. Anything with `load()` will do: see `DataSource`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.data.features import cached_features
from edgefd.data.npz import finite_samples, read_npz
from edgefd.data.splits import split
from edgefd.federation.clients import ClientData, Scale
from edgefd.wire.bundle_manifest import Manifest
from edgefd.wire.bundle_reader import Bundle
from edgefd_client.contribution import Contribution, check_source, own_rows


class DataSource(Protocol):
    """Private labelled samples.

    To read a sensor of your own, write a class with this one method and pass an object of it to `private_data`.
    """

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """(x, y): raw samples [n, ...], uint8 or float, in the units of the federation's data; labels [n], whole."""
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """What an npz may say beside x and y. None = it does not."""

    heldout: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None
    contributed: npt.NDArray[Any] | None
    contributed_y: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class NpzSource:
    """An npz with x and y; if it has them, x_heldout and y_heldout, owned (ids of contributed proxy rows), owned_y."""

    path: Path

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSource`."""
        arrays = read_npz(self.path, ("x", "y"))
        return arrays["x"], arrays["y"]

    def split(self) -> Split:
        """What else it says."""
        arrays = read_npz(self.path, ("x", "y"))
        if ("x_heldout" in arrays) != ("y_heldout" in arrays):
            raise UserError(f"{self.path} must hold both x_heldout and y_heldout, or neither")
        heldout = (arrays["x_heldout"], arrays["y_heldout"]) if "x_heldout" in arrays else None
        if "owned_y" in arrays and "owned" not in arrays:
            raise UserError(f"{self.path} has owned_y, labels of contributed rows, but not owned, their ids")
        return Split(heldout, arrays.get("owned"), arrays.get("owned_y"))


@dataclass(frozen=True)
class ImageFolder:
    """One folder a label, named 0, 1, ...; images become uint8 [channels, height, width]. Needs pillow."""

    path: Path
    shape: tuple[int, ...]

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSource`."""
        try:
            from PIL import Image
        except ImportError:
            raise UserError("reading images needs pillow: pip install pillow") from None
        files = sorted(f for f in self.path.glob("*/*") if f.is_file() and f.parent.name.isdigit())
        if not files:
            raise UserError(f"{self.path} must hold folders 0, 1, ... of images")
        samples = []
        for file in files:
            try:
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("L" if self.shape[0] == 1 else "RGB"))
            except OSError as error:
                raise UserError(f"{file} is not an image: {error}") from error
            sample = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
            if sample.shape != self.shape:
                raise UserError(f"{file} has shape {list(sample.shape)}, the model takes {list(self.shape)}")
            samples.append(sample)
        return np.stack(samples), np.array([int(f.parent.name) for f in files])


@dataclass(frozen=True)
class CsvWindows:
    """A CSV file without header, one window a line: label, then the numbers of one sample."""

    path: Path
    shape: tuple[int, ...]

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `DataSource`."""
        try:
            table = np.loadtxt(self.path, delimiter=",", ndmin=2, dtype=np.float32)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.path} is no table of numbers: {error}") from error
        wanted = 1 + int(np.prod(self.shape))
        if table.shape[1] != wanted:
            raise UserError(f"{self.path} has {table.shape[1]} columns, a label and a sample are {wanted}")
        return table[:, 1:].reshape(-1, *self.shape), table[:, 0]


def source_of(path: Path, manifest: Manifest) -> DataSource:
    """What reads that path: a folder of images, a .csv or an .npz.

    Raises:
        UserError: for anything else.
    """
    if path.is_dir():
        return ImageFolder(path, manifest.sample_shape)
    if path.suffix == ".csv":
        return CsvWindows(path, manifest.sample_shape)
    if path.suffix == ".npz":
        return NpzSource(path)
    raise UserError(f"{path} must be an .npz, a .csv or a folder of images")


def client_data(source: DataSource, bundle: Bundle, client: int, given: Contribution | None = None) -> ClientData:
    """What the device trains on and what it holds out, scaled; features, where the bundle has an extractor.

    Held-out samples and contributed rows are those that an npz names. Where none are named, a share of the samples is
    held out, drawn as a simulation draws it, and no row was contributed. What the device has given is looked for in the
    proxy set; as far as it is there, it leaves the private data, or stays only to be trained on.

    Args:
        source: of raw samples and labels.
        bundle: for which they must be.
        client: which client this is.
        given: what `edgefd-client contribute` recorded.

    Raises:
        UserError: for samples of another shape, numbers that are not finite, labels outside the model's classes, ids of
            rows that there are not, fewer than two samples, other data than those that rows were given of.
    """
    manifest = bundle.manifest
    raw, labels = source.load()
    x, y = _scaled(raw, labels, bundle)
    said = source.split() if isinstance(source, NpzSource) else Split(None, None)
    contributed, contributed_y = _contributed(said, len(bundle.proxy), manifest.n_classes)
    shared, private = np.empty(0, np.int64), np.arange(len(x))
    if given is not None:
        if len(contributed):
            raise UserError("the data name owned rows, and the state folder has some that were contributed: not both")
        check_source(given, finite_samples(raw, "the data"))
        contributed, there = own_rows(x[given.rows], bundle.proxy)
        shared = given.rows[there]
        label = {x[row].tobytes(): y[row] for row in shared}
        contributed_y = np.array([label[sample.tobytes()] for sample in bundle.proxy[contributed]], np.int64)
        private = private if given.keep else np.setdiff1d(private, shared)
    if said.heldout is not None:
        held_x, held_y = _scaled(*said.heldout, bundle)
        return ClientData(client, x[private], y[private], held_x, held_y, contributed, contributed_y=contributed_y)
    if len(private) < 2 or np.isin(private, shared).all():
        raise UserError("a device needs 2 or more samples, one to train on and one held out that it did not contribute")
    train, held = split(private, manifest.heldout, manifest.terms.seed, client, shared)
    return ClientData(client, x[train], y[train], x[held], y[held], contributed, contributed_y=contributed_y)


def _contributed(said: Split, n_proxy: int, n_classes: int) -> tuple[Int64, Int64 | None]:
    """Ids of contributed rows, ascending, and their labels, if the data say them."""
    contributed = np.empty(0, np.int64) if said.contributed is None else said.contributed
    if (
        contributed.ndim != 1
        or contributed.dtype.kind not in "ui"
        or ((contributed < 0) | (contributed >= n_proxy)).any()
    ):
        raise UserError(f"owned must be ids of proxy rows, from 0 to {n_proxy - 1}")
    ids, first = np.unique(contributed.astype(np.int64), return_index=True)
    return ids, None if said.contributed_y is None else _labels(said.contributed_y, len(contributed), n_classes)[first]


def private_data(source: DataSource, bundle: Bundle) -> tuple[Float32, Int64]:
    """Scaled samples and labels for the bundle's model.

    Raises:
        UserError: for samples of another shape, numbers that are not finite, labels outside the model's classes.
    """
    return _scaled(*source.load(), bundle)


def prepared(x: npt.NDArray[Any], bundle: Bundle) -> Float32:
    """Raw samples as the bundle's model takes them: through its extractor, if it has one, then scaled.

    Features of the same samples are computed once and kept in the cache folder.

    Raises:
        UserError: if the extractor does not give the model's features.
    """
    manifest = bundle.manifest
    if bundle.extractor is not None:
        x = cached_features(bundle.extractor, x)
        if x.shape[1:] != manifest.shape:
            raise UserError(f"the extractor gives {list(x.shape[1:])} features, the model takes {list(manifest.shape)}")
    return Scale(*manifest.scale)(x)


def _scaled(x: npt.NDArray[Any], y: npt.NDArray[Any], bundle: Bundle) -> tuple[Float32, Int64]:
    manifest, shape = bundle.manifest, bundle.manifest.sample_shape
    if len(x) == 0 or x.shape[1:] != shape or len(x) != len(y) or y.ndim != 1:
        raise UserError(f"data must be samples of shape {list(shape)} with a label each, not {list(x.shape)}")
    if x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise UserError("the samples must be finite numbers")
    return prepared(x, bundle), _labels(y, len(x), manifest.n_classes)


def _labels(y: npt.NDArray[Any], n: int, n_classes: int) -> Int64:
    if y.shape != (n,):
        raise UserError(f"labels must be one each: {n}, not of shape {list(y.shape)}")
    if y.dtype.kind not in "uif" or (y != np.floor(y)).any() or y.min(initial=0) < 0 or y.max(initial=0) >= n_classes:
        raise UserError(f"labels must be whole numbers from 0 to {n_classes - 1}")
    return y.astype(np.int64)
