"""Samples in an SQLite file: a program on the device adds rows, and labels may come later than samples."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.data.labels import LABEL_NAMES

SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
"""ends of the names of SQLite files"""
_SECONDS = 30.0  # for which a program may lock the file while it writes


@dataclass(frozen=True)
class SqliteTable:
    """The rows of a query: a column with the label, and the numbers of a sample in all others, in their order.

    A row whose label is NULL has no label yet. The file is opened for reading only.
    """

    path: Path
    query: str
    """SELECT statement, whose rows are in the order in which they came: `select * from readings order by time`"""
    shape: tuple[int, ...]

    def load(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Read the samples with a label, see `edgefd_client.sources.DataSource`."""
        x, y, _ = self.load_all()
        return x, y

    def load_all(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]:
        """Read samples with a label, their labels, and samples without one, [u, ...], as they are at one moment."""
        x, labels = self._rows()
        labelled = np.array([label is not None for label in labels], bool)
        return x[labelled], np.array([label for label in labels if label is not None]), x[~labelled]

    def _rows(self) -> tuple[Float32, list[Any]]:
        try:
            with closing(sqlite3.connect(f"file:{quote(str(self.path))}?mode=ro", _SECONDS, uri=True)) as file:
                cursor = file.execute(self.query)
                names = [str(column[0]).casefold() for column in cursor.description or ()]
                rows = cursor.fetchall()
        except sqlite3.Error as error:
            raise UserError(f"--query of {self.path}: {error}") from error
        label = next((names.index(name) for name in LABEL_NAMES if names.count(name) == 1), None)
        if label is None:
            raise UserError(
                f"--query of {self.path} gives no column of labels: name one `label`, as in `kind as label`"
            )
        if len(names) != 1 + math.prod(self.shape):
            raise UserError(
                f"--query of {self.path} gives {len(names)} columns: a label and a sample need "
                f"{1 + math.prod(self.shape)}"
            )
        values = [[value for column, value in enumerate(row) if column != label] for row in rows]
        for number, row in enumerate(values, 1):
            if not all(isinstance(value, int | float) for value in row):
                wrong = next(value for value in row if not isinstance(value, int | float))
                raise UserError(f"--query of {self.path}, row {number}: {str(wrong)[:40]!r} is not a number")
        x = np.array(values, np.float64).astype(np.float32).reshape(-1, *self.shape)
        return x, [row[label] for row in rows]
