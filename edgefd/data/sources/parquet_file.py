"""Samples in parquet files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from edgefd.core.errors import UserError, require
from edgefd.core.objects import one_line
from edgefd.data.sources.arrow_table import ArrowTable
from edgefd.data.sources.source import IMAGE_KEYS, Samples, Source
from edgefd.data.sources.table import KEYS, check_same_names, columns_of, samples_of_tables


def read_parquet_file(source: Source) -> Samples:
    """Read a parquet file with one sample in each row, and test samples in the file `source.test`.

    A column may hold a number, a list of numbers (of equal lengths, also nested), or an image as the package datasets
    stores it.

    Raises:
        UserError: if pyarrow is not installed, a file is damaged, or a column is missing or not usable.
    """
    source.check_used((*KEYS, *IMAGE_KEYS), "parquet files")
    train = read_parquet_table(Path(source.name), source)
    columns = columns_of(train, source)
    test = None if source.test is None else read_parquet_table(Path(source.test), source)
    samples = samples_of_tables(train, test, columns)
    names = _label_names(train, columns.label)
    if test is not None:
        check_same_names(names, _label_names(test, columns.label), test.place)
    return replace(samples, label_names=names)


def _label_names(table: ArrowTable, label: str) -> tuple[str, ...] | None:
    """Return the names of a column of class labels, which the package datasets writes into its parquet files."""
    try:
        features = json.loads(table.table.schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"] if features[label]["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):  # a file of another program
        return None
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def read_parquet_table(path: Path, source: Source) -> ArrowTable:
    """Read the columns of a parquet file; images get the size and the colours of `source`.

    Raises:
        UserError: if pyarrow is not installed, or the file is damaged or holds no rows.
    """
    require("parquet", "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} is a folder: name a file in it" if path.is_dir() else f"there is no file {path}")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {one_line(error):.200}: copy or write the file again") from error
    if not len(table):
        raise UserError(f"{path} holds no samples")
    return ArrowTable(str(path), table, source)
