"""Samples in objects of a Python session: arrays, datasets of torch, and data sets of the package datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.core.objects import one_line
from edgefd.data.image_arrays import model_layout
from edgefd.data.sources.hugging_face import samples_of_splits
from edgefd.data.sources.npz_file import samples_of_arrays
from edgefd.data.sources.source import IMAGE_KEYS, Samples, Source

KEYS = ("test_fraction", *IMAGE_KEYS)
_FORMS = (
    "data must be a name, a path, a Dataset, the arrays (x_train, y_train, x_test, y_test), a dict of arrays such as "
    '{"x": ..., "y": ...}, a dataset of torch, or a pair of them (train, test)'
)


def read_object(data: object, source: Source) -> Samples:
    """Return the samples of an object.

    Args:
        data: the arrays (x_train, y_train, x_test, y_test); a dict of arrays, with the names of those in an npz file;
            a dataset with `len` and an item (sample, label) for each index, as those of torch, or a pair of them
            (train, test); or a Dataset or DatasetDict of the package datasets.
        source: settings of the source.

    Raises:
        UserError: if the object has another form, or an item cannot be read.
    """
    if type(data).__module__.partition(".")[0] == "datasets":
        return samples_of_splits(data if isinstance(data, dict) else {"train": data}, source)
    source.check_used(KEYS, "objects")
    if isinstance(data, Mapping):
        return samples_of_arrays({str(key): _array(value, str(key)) for key, value in data.items()}, "data")
    parts = list(data) if isinstance(data, tuple | list) else [data]
    if len(parts) == 4:
        x_train, y_train, x_test, y_test = map(_array, parts, ("x_train", "y_train", "x_test", "y_test"))
        return Samples(x_train, y_train, x_test, y_test)
    if len(parts) > 2 or not all(_is_dataset(part) for part in parts):
        raise UserError(f"{_FORMS}, not {data!r:.60}")
    x, y = _items(parts[0], source, "the training set")
    names = getattr(parts[0], "classes", None)
    named = isinstance(names, list | tuple) and y.dtype.kind in "iu" and all(isinstance(name, str) for name in names)
    samples = Samples(x, y, label_names=tuple(names) if named and names else None)
    if len(parts) == 1:
        return samples
    x_test, y_test = _items(parts[1], source, "the test set")
    return replace(samples, x_test=x_test, y_test=y_test)


def _is_dataset(part: object) -> bool:
    return hasattr(part, "__getitem__") and hasattr(part, "__len__") and not isinstance(part, np.ndarray | str | bytes)


def _array(value: Any, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(value)
    except Exception as error:  # lists of several lengths, and objects of other packages such as tensors of torch
        raise UserError(f"{name} is no array: {one_line(error):.200}") from error


def _items(dataset: Any, source: Source, where: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the samples [n, ...] and the labels [n] of a dataset; each item is read once."""
    samples, labels = [], []
    try:
        n = len(dataset)
    except Exception as error:  # a user's dataset may raise anything
        raise UserError(f"{where} has no length: {one_line(error)}") from error
    for i in range(n):
        try:
            x, y = dataset[i]
            samples.append(np.asarray(x))
            labels.append(np.asarray(y).item())
        except Exception as error:  # a user's dataset may raise anything
            raise UserError(
                f"item {i} of {where} is not a pair (sample, label) of numbers: {one_line(error)}"
            ) from error
    if not samples:
        raise UserError(f"{where} is empty")
    if len(shapes := {x.shape for x in samples}) > 1:
        if source.size is None:
            one, other = sorted(shapes)[:2]
            raise UserError(f"{where} has samples of shapes {list(one)} and {list(other)}: set data.image_size")
        samples = [model_layout(x[None], source.channels_last, source.size, source.channels, where)[0] for x in samples]
    if len({x.shape for x in samples}) > 1:
        raise UserError(f"{where} has images in grey and in colour: set data.channels to 1 or 3")
    return np.stack(samples), np.array(labels)
