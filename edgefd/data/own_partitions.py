"""Partitions by functions and classes of a user, and by the partitioners of flwr-datasets."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgefd.core.arrays import Int64
from edgefd.core.errors import UserError, hint, require
from edgefd.core.objects import load_object, one_line
from edgefd.data.partitions import checked_parts

FLWR_DATASETS = "flwr_datasets"
"""module in the names of the partitioners of flwr-datasets, such as flwr_datasets:DirichletPartitioner"""
_LABEL, _GROUP, _ROW = "label", "group", "row"
_BY_GROUP = ("NaturalIdPartitioner", "GroupedNaturalIdPartitioner")  # they split by `group`, all others by `label`


@dataclass(frozen=True, eq=False)
class Rows:
    """The samples that a partition splits."""

    y: Int64
    """labels, int64 [n]"""
    group: np.ndarray | None
    """group of each sample [n], such as the name of a person; None if the data set has no groups"""
    seed: int
    """seed of the run"""
    rng: np.random.Generator
    """generator of the partition, seeded by the seed of the run"""


def load_partition(name: str) -> Any:
    """Return the function or class that the name of a partition stands for.

    Raises:
        UserError: if it cannot be imported, or flwr-datasets is not installed or has no such partitioner.
    """
    module, _, attribute = name.partition(":")
    if module != FLWR_DATASETS:
        return load_object(name, "partition")
    require("partitioners", "datasets", "flwr_datasets")
    from flwr_datasets import partitioner as partitioners

    if attribute not in (known := sorted(set(partitioners.__all__) - {"Partitioner"})):
        raise UserError(f"partition.name: flwr-datasets has no partitioner {attribute!r}: {hint(attribute, known)}")
    return getattr(partitioners, attribute)


def settings_of(target: Any, name: str, arguments: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Return the arguments of a function or class, with the seed and the column to split by if it takes them.

    Args:
        target: a class, whose instances split; or a function (labels, rng, **settings).
        name: the name of the partition, for errors.
        arguments: the settings of the config.
        seed: the seed of the run, which becomes the argument `seed` of a class unless `arguments` sets it.

    Raises:
        UserError: if there is no such setting, or one that is needed is missing.
    """
    if not isinstance(target, type) and not inspect.isroutine(target) and not arguments:
        return {}  # an object that is ready to split
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except ValueError:  # compiled code may not tell its parameters
        return dict(arguments)
    if not isinstance(target, type):
        parameters = parameters[2:]  # labels and generator
    any_key = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if unknown := [key for key in arguments if key not in named and not any_key]:
        raise UserError(f"partition.{unknown[0]}: {name} has no such setting: {hint(unknown[0], named)}")
    settings = dict(arguments)
    if isinstance(target, type):
        column = _GROUP if target.__name__ in _BY_GROUP else _LABEL
        settings = {k: v for k, v in {"seed": seed, "partition_by": column}.items() if k in named} | settings
    if missing := [key for key, p in named.items() if p.default is p.empty and key not in settings]:
        raise UserError(f"partition {name} needs the setting {missing[0]}: set partition.{missing[0]}")
    return settings


def split_by(target: Any, name: str, arguments: Mapping[str, Any], rows: Rows) -> list[Int64]:
    """Split rows by a function (labels, rng, **settings), a class of such functions, or a partitioner.

    A partitioner is an object with the interface of `flwr_datasets.partitioner.Partitioner`: it gets a
    `datasets.Dataset` with the columns label and, if the data set has groups, group. Its rows are in random order, as
    those of Flower's FederatedDataset are.

    Raises:
        UserError: if a setting is wrong, the partition fails, or it does not return index arrays like those that
            `partitions.from_file` accepts.
    """
    settings = settings_of(target, name, arguments, rows.seed)
    with _one_line_errors(name):
        if isinstance(target, type):
            target, settings = target(**_with_arrays(settings)), {}
        if not hasattr(target, "load_partition"):
            parts = [np.asarray(part) for part in target(rows.y.copy(), rows.rng, **settings)]
            return checked_parts(parts, len(rows.y), f"partition {name}")
        parts = _by_partitioner(copy.deepcopy(target), name, rows)
    return checked_parts(parts, len(rows.y), f"partition {name}")


def _by_partitioner(partitioner: Any, name: str, rows: Rows) -> list[Int64]:
    require("partitioners", "datasets")
    import datasets

    order = rows.rng.permutation(len(rows.y))
    columns = {_LABEL: rows.y[order], **({} if rows.group is None else {_GROUP: rows.group[order]})}
    by = getattr(partitioner, "_partition_by", _LABEL)
    if by not in columns:
        raise UserError(
            f"partition.partition_by: the samples have no column {by!r}: {hint(str(by), columns)}"
            + ("; the data set has no groups" if rows.group is None else "")
        )
    with _quiet(datasets):
        partitioner.dataset = datasets.Dataset.from_dict({**columns, _ROW: order})
        parts = [partitioner.load_partition(i) for i in range(partitioner.num_partitions)]
    if not all(_ROW in part.column_names and _LABEL in part.column_names for part in parts):
        raise UserError(f"partition {name} splits the columns of a table, not its samples: use another partitioner")
    return [np.asarray(part[_ROW], np.int64) for part in parts]


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"partition {name} failed: {one_line(error)}") from error


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Print neither the progress bars of `datasets` nor a warning for each repeated draw of a partitioner."""
    disabled: Callable[[], bool] = datasets.are_progress_bars_disabled
    were_shown = not disabled()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if were_shown:
            datasets.enable_progress_bars()


def _with_arrays(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with lists of lists, which YAML has for matrices, as arrays."""
    return {
        key: np.array(value) if isinstance(value, list) and value and isinstance(value[0], list) else value
        for key, value in settings.items()
    }
