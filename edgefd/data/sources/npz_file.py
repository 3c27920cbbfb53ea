"""Samples in an npz file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.data.labels import is_text
from edgefd.data.npz import read_npz
from edgefd.data.sources.source import IMAGE_KEYS, Samples, Source

KEYS = ("test", "test_fraction", *IMAGE_KEYS)
_PARTS = (("x_train", "y_train"), ("x", "y"))
_TEST = ("x_test", "y_test")


def read_npz_file(source: Source) -> Samples:
    """Read an npz file with x_train, y_train, x_test and y_test, or with x and y.

    It may also hold `group_train` (or `group`), the group of each training sample, and `label_names`, text [C], the
    names of the labels 0, 1, ... Test samples are x_test and y_test of the file, or x and y of the file `source.test`.

    Raises:
        UserError: if the file cannot be read, or an array is missing.
    """
    source.check_used(KEYS, "npz files")
    path = Path(source.name)
    samples = samples_of_arrays(read_npz(path, ()), str(path))
    if source.test is None:
        return samples
    if samples.x_test is not None:
        raise UserError(f"{path} has x_test of its own: remove data.test={source.test}")
    other = read_npz(Path(source.test), ("x", "y"))
    return replace(samples, x_test=other["x"], y_test=other["y"])


def samples_of_arrays(arrays: Mapping[str, npt.NDArray[Any]], source: str) -> Samples:
    """Return the samples in arrays by name, see `read_npz_file`; errors begin with `source`.

    Raises:
        UserError: if an array is missing.
    """
    x, y = next((pair for pair in _PARTS if pair[0] in arrays), _PARTS[0])
    test = [key for key in _TEST if key in arrays]
    missing = [key for key in (x, y, *(_TEST if test else ())) if key not in arrays]
    if missing:
        raise UserError(
            f"{source} lacks {', '.join(missing)}: it must hold x_train, y_train, x_test, y_test, or x and y"
        )
    names = arrays.get("label_names")
    if names is not None and not (
        names.ndim == 1 and all(map(is_text, names.tolist())) and len(np.unique(names)) == len(names)
    ):
        raise UserError(f"{source}: label_names must be an array of different texts, one for each label")
    return Samples(
        arrays[x],
        arrays[y],
        arrays.get("x_test"),
        arrays.get("y_test"),
        group_train=arrays.get("group_train", arrays.get("group")),
        label_names=None if names is None else tuple(names.tolist()),
    )
