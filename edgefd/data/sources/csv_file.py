"""Samples in CSV files with a header."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.data.csv_table import DELIMITERS, is_missing, opened_text, with_points
from edgefd.data.labels import is_number
from edgefd.data.sources.source import Samples, Source
from edgefd.data.sources.table import KEYS, Kind, columns_of, samples_of_tables


def read_csv_file(source: Source) -> Samples:
    """Read a table with one sample in each line and the names of the columns in the first, and those of `source.test`.

    The separator is a comma, a semicolon or a tab. With a semicolon or a tab, numbers may have a decimal comma.

    Raises:
        UserError: if a file cannot be read in one way only, or a column is missing or not usable.
    """
    source.check_used(KEYS, "CSV files")
    train = read_csv_table(Path(source.name))
    return samples_of_tables(
        train, None if source.test is None else read_csv_table(Path(source.test)), columns_of(train, source)
    )


@dataclass(frozen=True, eq=False)
class _CsvTable:
    """The fields of a CSV file by column."""

    place: str
    delimiter: str
    columns: dict[str, tuple[str, ...]]
    header: tuple[str, ...]

    @property
    def names(self) -> Sequence[str]:
        """Names of the columns; one may occur twice."""
        return self.header

    def kind(self, name: str) -> Kind:
        """Return whether a column holds numbers or text: the first value that is not missing says so."""
        first = next((field for field in self.columns[name] if not is_missing(field)), "")
        return "number" if is_number(self._point(first)) else "text"

    def values(self, name: str) -> npt.NDArray[Any]:
        """Return a column: numbers, NaN where one is missing; or text, None where it is missing."""
        fields = self.columns[name]
        if self.kind(name) == "text":
            return np.array([None if is_missing(field) else field for field in fields], object)
        if self.delimiter != ",":
            fields = tuple(with_points(fields, f"{self.place}, column {name!r}"))
        for row, field in enumerate(fields):
            if not is_missing(field) and not is_number(field):
                raise UserError(f"{self.place}: column {name!r} has {field[:40]!r} in row {row} (from 0), not a number")
        return np.array([np.nan if is_missing(field) else float(field) for field in fields])

    def _point(self, field: str) -> str:
        return field if self.delimiter == "," else field.replace(",", ".", 1)


def read_csv_table(path: Path) -> _CsvTable:
    """Read the fields of a CSV file with a header.

    Raises:
        UserError: if the file cannot be read in one way only.
    """
    try:
        with opened_text(path, newline="") as file:
            start = file.readline()
            while start and (not start.strip() or start.startswith("#")):  # comments and empty lines
                start = file.readline()
            delimiter = max(DELIMITERS, key=start.count)
            if start.startswith("sep="):  # Excel writes this line
                delimiter, start = start.strip()[4:5] or ",", file.readline()
            header = tuple(name.strip() for name in next(csv.reader([start], delimiter=delimiter), []))
            rows = [
                row for row in csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True) if any(row)
            ]
    except csv.Error as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not rows:
        raise UserError(f"{path} holds no samples: it must hold a line of names of columns, then one line a sample")
    if all(is_number(name) for name in header):
        raise UserError(f"{path}: the first line must hold the names of the columns, not numbers: add such a line")
    for row, fields in enumerate(rows):
        if len(fields) != len(header):
            raise UserError(f"{path}: row {row} (from 0) has {len(fields)} columns, but the header has {len(header)}")
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    return _CsvTable(str(path), delimiter, columns, header)
