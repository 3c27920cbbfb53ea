"""Data sets from any source: by name, from files and folders of a user, or from the Hugging Face hub.

Every result names its data: source, size and sha256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError
from edgefd.data.image_arrays import model_layout
from edgefd.data.labels import number_labels
from edgefd.data.npz import finite_samples
from edgefd.data.sources.csv_file import read_csv_file
from edgefd.data.sources.hugging_face import PREFIX, is_saved_dataset, read_hugging_face
from edgefd.data.sources.image_folder import read_image_folder
from edgefd.data.sources.named import DATASETS, download_hint, find_dataset, read_named
from edgefd.data.sources.npz_file import read_npz_file
from edgefd.data.sources.parquet_file import read_parquet_file
from edgefd.data.sources.source import TEST_FRACTION, Samples, Source
from edgefd.data.test_fraction import split_test
from edgefd.federation.units import far_from, in_units, some_rows, units_of

__all__ = [
    "DATASETS",
    "Dataset",
    "PublicSamples",
    "Source",
    "dataset_of",
    "digest",
    "download_hint",
    "find_dataset",
    "load_dataset",
]

FILES: dict[str, Callable[[Source], Samples]] = {
    ".npz": read_npz_file,
    ".parquet": read_parquet_file,
    ".csv": read_csv_file,
    ".tsv": read_csv_file,
}
"""readers of files, by the end of their names"""


@dataclass(frozen=True, eq=False)
class PublicSamples:
    """Samples of another data set, for the proxy set."""

    x: npt.NDArray[Any]
    """samples of the same kind and shape as those of the data set [P, ...]"""
    y: Int64 | None
    """their labels, int64 [P]; None = they have none that this federation knows"""
    source: str
    """their origin, and how they were changed"""
    sha256: str
    """digest of the whole data set that they come from"""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test samples in model layout: uint8 or float32 [n, C, H, W], [n, C, L] or [n, d]; labels int64 [n].

    `group_train` (int64 [n]) is the group, such as a person, of each training sample; None if the data set has no
    groups, and `group_names` holds the names of the groups 0, 1, ... `source` names the origin, and `sha256` is
    the digest of the arrays. `label_names` holds the label in the source of each class 0 to C - 1; None if the
    labels are these numbers themselves. `proxy` holds samples of another data set for the proxy set, or None.
    `columns` names the columns that the samples of a table consist of; None if the source is no table.
    """

    name: str
    x_train: npt.NDArray[Any]
    y_train: Int64
    x_test: npt.NDArray[Any]
    y_test: Int64
    n_classes: int
    group_train: Int64 | None
    source: str
    sha256: str
    label_names: tuple[str, ...] | None = None
    group_names: tuple[str, ...] | None = None
    proxy: PublicSamples | None = None
    columns: tuple[str, ...] | None = None


def load_dataset(source: str | Source, root: Path | None = None) -> Dataset:
    """Load a data set from its source. This function never downloads named data sets, and never substitutes data.

    Args:
        source: where the samples are and how they are read, or only its `name`: a key of `DATASETS`, the path of a
            file in `FILES`, the path of a folder, or hf:NAME.
        root: folder to search first for named data sets (None = $EDGEFD_DATA); then comes the cache folder of
            `edgefd datasets --download`.

    Raises:
        UserError: if there is no such data set, its files are missing or malformed, or a setting is not for it.
    """
    source = Source(source) if isinstance(source, str) else source
    name = source.name
    if not is_path(name) and not name.startswith(PREFIX):
        samples, title, place = read_named(source, root)
        return dataset_of(title, samples, place, source)
    read, place = FILES.get(Path(name).suffix.lower()), f"file {name}"
    if read is not None and Path(name).is_dir():
        raise UserError(f"{name} is a folder, not a file: name one file in it, or rename a folder of images")
    if name.startswith(PREFIX):
        read, place = read_hugging_face, name
    elif read is None:
        read, place = read_hugging_face if is_saved_dataset(Path(name)) else read_image_folder, f"folder {name}"
    path = Path(name.removeprefix(PREFIX)).resolve()
    return dataset_of(path.stem if place.startswith("file") else path.name, read(source), place, source)


def is_path(name: str) -> bool:
    """Return whether the name of a data set is the path of a file or of a folder, and no name in `DATASETS`."""
    if name.startswith(PREFIX):
        return False
    folder = os.sep in name or name.startswith("~") or (name != "" and Path(name).exists())
    return Path(name).suffix.lower() in FILES or (folder and name not in DATASETS)


def dataset_of(name: str, samples: Samples, source: str, settings: Source | None = None) -> Dataset:
    """Return the samples of a source as a `Dataset`: with a test set, numbered labels and channels first.

    Args:
        name: of the data set.
        samples: of the source.
        source: the origin of the data; errors begin with it.
        settings: size, colours and axes of the samples, and size of a test set; None = the defaults.

    Raises:
        UserError: if samples or labels are malformed, or do not belong together.
    """
    s, how = samples, settings or Source()
    _check_shapes(s, source)
    if s.x_test is None:
        s = replace(s, x_train=finite_samples(s.x_train, source))  # errors name the row in the source
        fraction = TEST_FRACTION if how.test_fraction is None else how.test_fraction
        s = split_test(s, fraction, source)
        source = f"{source}, {fraction:g} of {'each class' if s.group_train is None else 'the clients'} as test set"
    elif how.test_fraction is not None:
        raise UserError(f"{source} has a test set of its own: remove data.test_fraction")
    if how.size is not None:
        source = f"{source}, resized to {how.size[0]} x {how.size[1]}"
    assert s.x_test is not None
    assert s.y_test is not None
    x_train, x_test = (
        model_layout(finite_samples(x, where), how.channels_last, how.size, how.channels, where)
        for x, where in ((s.x_train, f"{source}, x_train"), (s.x_test, f"{source}, x_test"))
    )
    if x_train.shape[1:] != x_test.shape[1:]:
        train, test = (f"{x.dtype} {list(x.shape[1:])}" for x in (x_train, x_test))
        raise UserError(
            f"{source}: train samples are {train}, test samples {test}: give both in the same kind and shape"
        )
    y_train, y_test, label_names = number_labels(s.y_train, s.y_test, s.label_names, source)
    units = units_of(x_train, some_rows(x_train))
    x_test = in_units(x_test, units, f"{source}, x_test against x_train")
    far_from(x_test, units, int(y_train.max()) + 1, f"{source}, x_test", "x_train")  # raises for other units
    groups, group_names = None, None
    if s.group_train is not None:
        values, numbers = np.unique(s.group_train, return_inverse=True)
        groups, group_names = numbers.astype(np.int64), tuple(map(str, values.tolist()))
    dataset = Dataset(
        name=name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        n_classes=int(y_train.max()) + 1,
        group_train=groups,
        source=source,
        sha256="",
        label_names=label_names,
        columns=s.columns,
        group_names=group_names,
    )
    return replace(dataset, sha256=digest(dataset))


def _check_shapes(s: Samples, source: str) -> None:
    """Check that there are as many labels and groups as samples, and that the groups are numbers or text."""
    for x, y in ((s.x_train, s.y_train), (s.x_test, s.y_test)):
        if x is not None and not x.ndim:
            raise UserError(f"{source}: x must be rows of samples [n, ...], not one number or object")
        if x is not None and y is not None and x.shape[:1] != y.shape[:1]:
            n = len(x)
            raise UserError(f"{source}: {n} samples need {n} labels, not an array of shape {list(y.shape)}")
    group = s.group_train
    if group is None:
        return
    if group.shape != s.x_train.shape[:1]:
        raise UserError(
            f"{source}: {len(s.x_train)} samples need {len(s.x_train)} groups, not an array of shape "
            f"{list(group.shape)}: name one group, such as a client, for each sample"
        )
    if group.dtype.kind not in "biufSU":
        raise UserError(f"{source}: groups must be numbers or text, not {group.dtype}: convert them to text")
    if group.dtype.kind == "f" and not np.isfinite(group).all():
        row = int(np.argmin(np.isfinite(group)))
        raise UserError(f"{source}: the group of sample {row} (from 0) is {group[row]}, which names no group")


def digest(dataset: Dataset) -> str:
    """Return the sha256 of the arrays: the same data in another file format have the same digest."""
    sha256 = hashlib.sha256()
    for array in (dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test, dataset.group_train):
        if array is not None:
            sha256.update(np.ascontiguousarray(array).data)
    return sha256.hexdigest()
