"""Columns of a table: which of them are samples, labels and clients, and their values as `Samples`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError, hint
from edgefd.data.labels import LABEL_NAMES, shown_names
from edgefd.data.sources.source import Samples, Source

KEYS = ("label", "features", "client", "test", "test_fraction")
INDEX_NAMES = ("", "Unnamed: 0", "__index_level_0__")
"""names that pandas gives to the index of a table in files"""
Kind = Literal["number", "array", "image", "text", "other"]
"""what a column holds: numbers, arrays of numbers, images, text, or values that no sample can consist of"""


class Table(Protocol):
    """A table whose columns are read one by one."""

    @property
    def place(self) -> str:
        """Where the table is; errors begin with it."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns."""
        ...

    def kind(self, name: str) -> Kind:
        """Return what a column holds."""
        ...

    def values(self, name: str) -> npt.NDArray[Any]:
        """Return a column: numbers [n, ...], or text and None, object [n]."""
        ...


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used."""

    label: str
    features: tuple[str, ...]
    client: str | None


def samples_of_tables(train: Table, test: Table | None, columns: Columns) -> Samples:
    """Return the samples of a table, and of a table of test samples with the same columns.

    A sample is one row: the numbers of its columns, float32 [d], or the array in its only column.

    Raises:
        UserError: if a column is missing, a value is missing, or a column of samples does not hold numbers.
    """
    if test is not None:
        check_names(test)
        for name in (columns.label, *columns.features):
            column_of(test, name, "label" if name == columns.label else "features")
    group = None
    if columns.client is not None:
        group = train.values(columns.client)
        _check_present(group, columns.client, train)
        if group.dtype.kind == "f" and group.ndim == 1 and (group == np.floor(group)).all():
            group = group.astype(np.int64)  # the client 3 of a CSV file is not named 3.0
        group = group.astype(str) if group.dtype.kind == "O" else group
    y = train.values(columns.label)
    x = _samples(train, columns.features)
    if test is None:
        return Samples(x, y, group_train=group, columns=columns.features)
    x_test = _samples(test, columns.features)
    return Samples(x, y, x_test, test.values(columns.label), group, columns=columns.features)


def samples_in_columns(table: Table, columns: Sequence[str]) -> npt.NDArray[Any]:
    """Return the samples in some columns of a table, such as new rows without labels; see `samples_of_tables`.

    Raises:
        UserError: if a column is missing or occurs twice, a value is missing, or a column does not hold numbers.
    """
    check_names(table)
    for name in columns:
        if name not in table.names:
            raise UserError(f"{table.place} has no column {name!r}, which the model takes: {hint(name, table.names)}")
    return _samples(table, columns)


def check_names(table: Table) -> None:
    """Check that each name of a column occurs once.

    Raises:
        UserError: if one occurs twice.
    """
    names = [name.strip() for name in table.names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{table.place}: {names.count(twice[0])} columns are named {twice[0]!r}: rename all but one")


def columns_of(table: Table, source: Source, label: str | None = None) -> Columns:
    """Return the columns that the settings name, or that are found.

    Args:
        table: the table of training samples.
        source: the settings.
        label: the column of labels if the settings name none; None = found by its name.

    Raises:
        UserError: if a name occurs twice, there is no such column, or the columns cannot be found.
    """
    check_names(table)
    names = [name.strip() for name in table.names]
    found = source.label or label or next((name for name in LABEL_NAMES if name in names), None)
    if found is None:
        raise UserError(f"{table.place}: which column holds the labels? Set data.label to one of {shown_names(names)}")
    found = column_of(table, found, "label")
    client = None if source.client is None else column_of(table, source.client, "client")
    if client == found:
        raise UserError(f"{table.place}: data.client and data.label both name the column {found!r}: change one")
    others = [name for name in names if name not in (found, client)]
    return Columns(found, _chosen(table, source.features, others) or _found(table, others), client)


def check_same_names(train: Sequence[str] | None, test: Sequence[str] | None, place: str) -> None:
    """Check that test labels have the names of training labels in the same order, if both have names.

    Raises:
        UserError: if they differ: the numbers of the labels would mean other classes.
    """
    if train is not None and test is not None and list(train) != list(test):
        raise UserError(
            f"{place}: the labels 0, 1, ... are named {shown_names(list(test))}, but those of the training samples "
            f"{shown_names(list(train))}: give both the same names in the same order"
        )


def column_of(table: Table, name: str, key: str) -> str:
    """Return the name of a column that a setting names.

    Raises:
        UserError: if there is no such column.
    """
    if name not in table.names:
        raise UserError(f"{table.place} has no column {name!r} (data.{key}): {hint(name, table.names)}")
    return name


def _chosen(table: Table, patterns: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that names and patterns choose, each once."""
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matching = [pattern] if pattern in others else [name for name in others if fnmatchcase(name, pattern)]
        if not matching and pattern in table.names:
            raise UserError(f"data.features: {pattern!r} is the column of labels or clients: remove it from the list")
        if not matching:
            raise UserError(f"{table.place} has no column {pattern!r} (data.features): {hint(pattern, others)}")
        chosen |= dict.fromkeys(matching)
    for name in chosen:
        if table.kind(name) in ("text", "other"):
            raise UserError(f"{table.place}: column {name!r} does not hold numbers: remove it from data.features")
    return tuple(chosen)


def _found(table: Table, others: Sequence[str]) -> tuple[str, ...]:
    """Return the only column of images or arrays, or all columns of numbers if no other column is left."""
    if not others:
        raise UserError(f"{table.place} has no columns besides those of labels and clients: add the samples")
    if index := [name for name in others if name in INDEX_NAMES]:
        raise UserError(
            f"{table.place}: the column {index[0]!r} is named like the row numbers that pandas writes: remove it "
            "(index=False), or list the columns of the samples in data.features"
        )
    by_kind: dict[Kind, list[str]] = {}
    for name in others:
        by_kind.setdefault(table.kind(name), []).append(name)
    numbers, arrays, images = (by_kind.get(kind, []) for kind in ("number", "array", "image"))
    if len(images) == 1:
        return (images[0],)
    if numbers and set(by_kind) == {"number"}:
        return tuple(numbers)
    if len(arrays) == 1 and not numbers and not images:
        return (arrays[0],)
    candidates = shown_names([*images, *arrays, *numbers]) if (images or arrays or numbers) else "none holds numbers"
    reason = "columns hold images, arrays or numbers"
    if rest := by_kind.get("text", []) + by_kind.get("other", []):
        reason = f"{shown_names(rest)} {'holds' if len(rest) == 1 else 'hold'} no numbers"
    raise UserError(
        f"{table.place}: which columns are the samples? {reason}: list columns or patterns in data.features "
        f"({candidates})"
    )


def _samples(table: Table, names: Sequence[str]) -> npt.NDArray[Any]:
    """Return the samples in columns: [n, d], or [n, ...] from one column of arrays."""
    parts = []
    for name in names:
        part = table.values(name)
        _check_present(part, name, table)
        if part.dtype.kind not in "biuf":
            raise UserError(f"{table.place}: column {name!r} does not hold numbers, of which samples consist")
        parts.append(part)
    if len(parts) == 1 and parts[0].ndim > 1:
        return parts[0] if parts[0].dtype == np.uint8 else parts[0].astype(np.float32)
    if any(part.ndim > 1 for part in parts):
        raise UserError(f"{table.place}: data.features must be one column of arrays or images, or columns of numbers")
    with np.errstate(over="ignore"):  # too large values become infinite, and are refused as such
        return np.stack([part.astype(np.float32) for part in parts], 1)


def _check_present(values: npt.NDArray[Any], name: str, table: Table) -> None:
    """Check that no value is missing: None, NaN or empty text."""
    missing = np.zeros(len(values), bool)
    if values.dtype.kind == "O":
        missing[[i for i, v in enumerate(values) if v is None or (isinstance(v, str) and not v.strip())]] = True
    elif values.dtype.kind == "f":
        missing = np.isnan(values.reshape(len(values), -1)).any(1)
    if missing.any():
        raise missing_values(table.place, name, missing)


def missing_values(place: str, name: str, missing: npt.NDArray[np.bool_]) -> UserError:
    """Return the error for a column in which values are missing in the marked rows, at least one."""
    row = int(missing.argmax())
    return UserError(
        f"{place}: column {name!r} has no value in row {row} (from 0), and in {missing.sum()} rows in all: "
        "remove these rows, or fill the values in"
    )
