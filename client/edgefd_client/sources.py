"""Sources of a device's private data: npz, csv, SQLite, image folders, or any object with `load()` (`DataSource`)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32, Int64
from edgefd.core.errors import UserError
from edgefd.data.csv_table import ENDINGS, read_csv
from edgefd.data.features import cached_features
from edgefd.data.images import read_images
from edgefd.data.labels import Names, classes_of
from edgefd.data.model_input import Extract, InputFormat
from edgefd.data.model_input import model_input as convert
from edgefd.data.npz import finite_samples, read_npz
from edgefd.data.splits import lasting_split, split
from edgefd.federation.clients import ClientData
from edgefd.wire.bundle_manifest import Manifest
from edgefd.wire.bundle_reader import Bundle
from edgefd_client.contribution import Contribution, check_source, contributed_proxy_rows
from edgefd_client.retention import KEEP_ALL, Retention, kept_rows
from edgefd_client.sqlite_table import SQLITE_ENDINGS, SqliteTable


class DataSource(Protocol):
    """Source of private labelled samples. It is read again whenever a federation begins, and where samples arrive.

    To read a sensor of your own, write a class with this one method and pass an object of it to `read_samples`.
    """

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return (x, y): raw samples [n, ...], uint8 or float, in the units of the federation's data; labels [n].

        The labels are those of the federation's data: numbers or text. Newer samples are further back.
        """
        ...


@dataclass(frozen=True, eq=False)
class Split:
    """Optional arrays of an npz besides x and y."""

    heldout: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None
    """held-out samples and their labels; None = not in the npz"""
    contributed: npt.NDArray[Any] | None
    """ids of the proxy rows that the device contributed; None = not in the npz"""
    contributed_y: npt.NDArray[Any] | None = None
    """labels of these rows; None = not in the npz"""


@dataclass(frozen=True)
class NpzSource:
    """An npz with x and y. Optional: x_heldout and y_heldout, owned (ids of contributed proxy rows) and owned_y."""

    path: Path

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Read x and y, see `DataSource`."""
        arrays = read_npz(self.path, ("x", "y"))
        return arrays["x"], arrays["y"]

    def split(self) -> Split:
        """Read the optional arrays."""
        arrays = read_npz(self.path, ("x", "y"))
        if ("x_heldout" in arrays) != ("y_heldout" in arrays):
            raise UserError(f"{self.path} must hold both x_heldout and y_heldout, or neither")
        heldout = (arrays["x_heldout"], arrays["y_heldout"]) if "x_heldout" in arrays else None
        if "owned_y" in arrays and "owned" not in arrays:
            raise UserError(f"{self.path} has owned_y, labels of contributed rows, but not owned, their ids")
        return Split(heldout, arrays.get("owned"), arrays.get("owned_y"))


@dataclass(frozen=True)
class ImageFolder:
    """Folders of images named by label, see `edgefd.data.images.read_images`. Needs pillow."""

    path: Path
    shape: tuple[int, ...]
    label_names: Names = None
    by_time: bool = False
    """whether the images are in the order in which they were written, and not in that of their paths"""
    max_age: int | None = None
    """days since an image was written after which it is not read; None = no limit"""

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Read the images, see `DataSource`."""
        return read_images(self.path, self.shape, self.label_names, self._chosen)

    def _chosen(self, files: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
        if not self.by_time and self.max_age is None:
            return files
        times = {file: file.stat().st_mtime for file, _ in files}
        oldest = -math.inf if self.max_age is None else time.time() - 86_400 * self.max_age
        young = [each for each in files if times[each[0]] >= oldest]
        return sorted(young, key=lambda each: times[each[0]]) if self.by_time else young


@dataclass(frozen=True)
class CsvTable:
    """A CSV file with one sample in each line, see `edgefd.data.csv_table.read_csv`."""

    path: Path
    shape: tuple[int, ...]
    n_classes: int
    label_names: Names = None

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Read the table, see `DataSource`."""
        x, y = read_csv(self.path, math.prod(self.shape), self.n_classes, self.label_names)
        return x.reshape(-1, *self.shape), y


def source_of(
    path: Path, manifest: Manifest, query: str | None = None, by_time: bool = False, max_age: int | None = None
) -> DataSource:
    """Return the source for a path: a folder of images, a .csv, an .npz or an SQLite file.

    Args:
        path: the file or folder.
        manifest: of the bundle.
        query: SELECT statement for an SQLite file.
        by_time: see `ImageFolder`.
        max_age: see `ImageFolder`.

    Raises:
        UserError: if the path is none of these, or an option is not for it.
    """
    is_sqlite = path.suffix.lower() in SQLITE_ENDINGS and not path.is_dir()
    if is_sqlite != (query is not None):
        raise UserError(f"--query and an SQLite file ({', '.join(SQLITE_ENDINGS)}) as --data need each other: {path}")
    if max_age is not None and (max_age < 1 or not path.is_dir()):
        raise UserError("--max-age is a number of days, 1 or more, for a folder of images: in a query, compare times")
    if query is not None:
        return SqliteTable(path, query, manifest.sample_shape)
    if path.is_dir():
        return ImageFolder(path, manifest.sample_shape, manifest.label_names, by_time, max_age)
    if path.suffix.lower() in ENDINGS:
        return CsvTable(path, manifest.sample_shape, manifest.n_classes, manifest.label_names)
    if path.suffix.lower() == ".npz":
        return NpzSource(path)
    raise UserError(f"{path} must be an .npz, a .csv (.tsv, .txt), an SQLite file (.db) or a folder of images")


@dataclass(frozen=True, eq=False)
class Samples:
    """The private samples of a device, checked and scaled. With an extractor, they are its features."""

    raw: npt.NDArray[Any]
    """the samples as the source gave them"""
    x: Float32
    y: Int64
    named: Split
    """the other arrays of an npz"""
    heldout: tuple[Float32, Int64] | None
    """held-out samples and labels, scaled; None = not in the source"""
    unlabelled: Float32 | None = None
    """samples without labels, scaled; None = not in the source"""


def read_samples(source: DataSource, bundle: Bundle, retention: Retention = KEEP_ALL) -> Samples:
    """Read the private samples of a device and check them against the units of the federation.

    Raises:
        UserError: for samples or labels that `scaled` refuses.
    """
    waiting = None
    if isinstance(source, SqliteTable):
        raw, labels, waiting = source.load_all()
    else:
        raw, labels = source.load()
    if not retention.keeps_all:
        rows = kept_rows(retention, raw, np.asarray(labels))
        raw, labels = raw[rows], np.asarray(labels)[rows]
    x, y = scaled(raw, labels, bundle, str(getattr(source, "path", "the data")))
    named = source.split() if isinstance(source, NpzSource) else Split(None, None)
    heldout = None if named.heldout is None else scaled(*named.heldout, bundle, "x_heldout")
    unlabelled = None
    if waiting is not None and len(waiting):
        rows = kept_rows(Retention(retention.newest or retention.per_class), waiting, np.zeros(len(waiting)))
        unlabelled = model_input(waiting[rows], bundle, str(getattr(source, "path", "the data")))
    return Samples(raw, x, y, named, heldout, unlabelled)


def client_data(
    samples: Samples, bundle: Bundle, client: int, contribution: Contribution | None = None, growing: bool = False
) -> ClientData:
    """Return the training data and held-out data of a device.

    Held-out samples and contributed rows are those that an npz names. If it names none, a share of the samples is held
    out, drawn as a simulation draws it, and no row counts as contributed. The samples of a recorded contribution are
    looked up in the proxy set. Those that are in it are removed from the private data. With `keep` they remain, but for
    training only: they are never held out.

    Args:
        samples: of `read_samples`.
        bundle: of the federation.
        client: number of the client.
        contribution: recorded contribution; None = none.
        growing: whether each sample must stay on its side of the split when others come (`lasting_split`).

    Raises:
        UserError: for ids of rows that do not exist, fewer than two samples, or data that do not contain the recorded
            contribution.
    """
    manifest, x, y, named = bundle.manifest, samples.x, samples.y, samples.named
    contributed, contributed_y = _contributed(named, len(bundle.proxy), manifest)
    shared, private = np.empty(0, np.int64), np.arange(len(x))
    if contribution is not None:
        if len(contributed):
            raise UserError(
                "the data name contributed rows (owned), and the state folder has a record of contributed samples: "
                "use only one of both"
            )
        check_source(contribution, finite_samples(samples.raw, "the data"))
        contributed, used = contributed_proxy_rows(x[contribution.rows], bundle.proxy)
        shared = contribution.rows[used]
        label = {x[row].tobytes(): y[row] for row in shared}
        contributed_y = np.array([label[sample.tobytes()] for sample in bundle.proxy[contributed]], np.int64)
        private = private if contribution.keep else np.setdiff1d(private, shared)
    if samples.heldout is not None:
        held_x, held_y = samples.heldout
        split_data = x[private], y[private], held_x, held_y
        return ClientData(client, *split_data, contributed, contributed_y=contributed_y, unlabelled=samples.unlabelled)
    if len(private) < 2 or np.isin(private, shared).all():
        raise UserError(
            "a device needs 2 or more samples: one to train on, and one to hold out that it did not contribute"
        )
    if growing:
        train, held = lasting_split(private, x, manifest.heldout, shared)
        if not len(held):
            raise UserError("a device with --growing needs 2 different samples or more: they are all equal")
    else:
        train, held = split(private, manifest.heldout, manifest.terms.seed, client, shared)
    split_data = x[train], y[train], x[held], y[held]
    return ClientData(client, *split_data, contributed, contributed_y=contributed_y, unlabelled=samples.unlabelled)


def _contributed(named: Split, n_proxy: int, manifest: Manifest) -> tuple[Int64, Int64 | None]:
    """Return the ids of contributed rows, ascending, and their labels if the data name them."""
    contributed = np.empty(0, np.int64) if named.contributed is None else named.contributed
    if (
        contributed.ndim != 1
        or contributed.dtype.kind not in "ui"
        or ((contributed < 0) | (contributed >= n_proxy)).any()
    ):
        raise UserError(f"owned must be ids of proxy rows, from 0 to {n_proxy - 1}")
    ids, first = np.unique(contributed.astype(np.int64), return_index=True)
    if named.contributed_y is None:
        return ids, None
    y = classes_of(named.contributed_y, len(contributed), manifest.n_classes, manifest.label_names, "owned_y")
    return ids, y[first]


def model_input(
    x: npt.NDArray[Any], bundle: Bundle, source: str = "the data", extract: Extract = cached_features
) -> Float32:
    """Check raw samples against the units of the federation, and convert them to the input of the bundle's model.

    An extractor, if there is one, computes features. Then the scale is applied. A log line warns if the result lies far
    from the proxy set. Nothing of it is sent.

    Args:
        x: raw samples [n, ...].
        bundle: of the model.
        source: the beginning of errors.
        extract: computes features [n, d] with a graph. By default, those of the same samples are computed once and
            stored in the cache folder, because a device trains on the same samples again and again.

    Raises:
        UserError: for samples of another shape, kind or range, or that are not finite; the message begins with
            `source`. Also if the output of the extractor does not have the shape of the model's input.
    """
    m = bundle.manifest
    expected = InputFormat(m.sample_shape, m.shape, m.units, m.scale, m.n_classes)
    return convert(x, expected, bundle.extractor, source, extract)


def scaled(x: npt.NDArray[Any], y: npt.NDArray[Any], bundle: Bundle, source: str = "the data") -> tuple[Float32, Int64]:
    """Return scaled samples and labels for the bundle's model.

    Raises:
        UserError: for samples that `model_input` refuses, and labels outside the model's classes.
    """
    manifest = bundle.manifest
    return model_input(x, bundle, source), classes_of(y, len(x), manifest.n_classes, manifest.label_names, source)
