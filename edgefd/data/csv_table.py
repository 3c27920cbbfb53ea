"""Reader of CSV files of samples, as spreadsheets and scripts write them. Errors give the line and the reason."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Float32
from edgefd.core.errors import UserError
from edgefd.data.labels import LABEL_NAMES, is_number

ENDINGS = (".csv", ".tsv", ".txt")
"""ends of the names of files that `read_csv` and `read_samples` read"""
DELIMITERS = (";", "\t", ",")
_LARGEST = float(np.finfo(np.float32).max)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_samples(path: Path, n_values: int) -> Float32:
    """Read a table of samples, float32 [n, n_values]; a column of labels that `read_csv` would find is left out.

    Without labels, a header may have any names.

    Raises:
        UserError: as `read_csv`.
    """
    try:
        rows = _rows(path, _Table(path, n_values, labelled=False))
    except _Columns:
        rows = _rows(path, table := _Table(path, 1 + n_values, texts=[]))
        rows = [np.delete(row, table.label or 0) for row in rows]
    return np.stack(rows).astype(np.float32)


def _rows(path: Path, table: _Table) -> list[np.ndarray]:
    """Return the numbers of each line with a sample."""
    with opened_text(path) as file:
        rows = [row for number, line in enumerate(file, 1) if (row := table.row(number, line)) is not None]
    if not rows:
        raise UserError(f"{path} holds no samples")
    if table.ambiguous:
        raise UserError(f"{path}: numbers such as {table.ambiguous} can be read in two ways: write decimal points")
    return rows


class _Columns(UserError):
    """Another number of columns than was expected."""


def read_csv(
    path: Path, n_values: int, n_classes: int, names: Sequence[str] | None = None
) -> tuple[Float32, npt.NDArray[Any]]:
    """Read a table with one sample in each line: its label and its numbers.

    The separator is a comma, a semicolon or a tab. With a semicolon or a tab, numbers may have a decimal comma. In a
    file without header, the label is the first column. A header must name the column of labels (`LABEL_NAMES`), which
    may be anywhere. The text is UTF-8, or UTF-16 with a byte order mark. Empty lines and lines that begin with # are
    passed over.

    Args:
        path: the file.
        n_values: numbers of a sample.
        n_classes: number of classes.
        names: labels of the classes; None = 0, 1, ...

    Returns:
        samples float32 [n, n_values] and labels [n]: int64, or with `names` numbers or text.

    Raises:
        UserError: for missing values, text that is not a number, and anything else that cannot be read in one way only;
            the message has the number of the line.
    """
    table = _Table(path, 1 + n_values, texts=None if names is None else [])
    rows = _rows(path, table)
    values, column = np.stack(rows), table.label or 0
    labels, x = values[:, column], np.delete(values, column, 1).astype(np.float32)
    if table.texts is not None:
        if not all(map(is_number, table.texts)):
            return x, np.array(table.texts)
        labels = np.array([float(text) for text in table.texts])
    last = values[:, -1]
    if (
        not table.header
        and len(np.unique(labels)) == 1
        and len(np.unique(last)) > 1
        and ((last == np.floor(last)) & (last >= 0) & (last < n_classes)).all()
    ):
        raise UserError(f"{path}: the first and the last column may be labels: add a header that names one `label`")
    return x, labels if table.texts is not None else labels.astype(np.int64)


@contextmanager
def opened_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text file in UTF-8, or in UTF-16 with a byte order mark; `newline` is that of `open`.

    Raises:
        UserError: if it cannot be read, or has another encoding.
    """
    try:
        with path.open(encoding=_encoding_of(path), newline=newline) as file:
            yield file
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeError as error:
        raise UserError(f"{path} is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8") from error


def _encoding_of(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4096)
    encoding = next((name for bom, name in _BOMS.items() if start.startswith(bom)), "utf-8")
    if encoding != "utf-16" and b"\0" in start:
        raise UserError(f"{path} is not a text file, or is UTF-16 without a byte order mark: save it as UTF-8")
    return encoding


class _Table:
    """Reader of the lines of a table, whose form its first line determines."""

    def __init__(self, path: Path, n_columns: int, labelled: bool = True, texts: list[str] | None = None) -> None:
        self.path, self.n_columns, self.labelled = path, n_columns, labelled
        self.texts = texts
        """the labels of the lines as they are; None = they must be whole numbers from 0"""
        self.delimiter = ""
        self.label: int | None = None
        """column of the labels; None before the first line"""
        self.header = False
        self.ambiguous = ""
        """a number such as 1,234, if none with a comma has shown that the commas are decimal ones"""
        self._decimal_comma = self._decimal_point = False

    def row(self, number: int, line: str) -> np.ndarray | None:
        """Return the numbers of a line, float64; None if it holds none."""
        text = line.strip("\r\n \ufeff")
        if self.label is None and (separator := re.fullmatch(r"sep=(.)", text)):  # Excel writes this line
            self.delimiter = separator[1]
            return None
        if self.label is None and text:
            return self._first(number, text)
        if not text or text.startswith("#"):
            return None
        return self._numbers(number, self._fields(number, text, self.delimiter))

    def _first(self, number: int, text: str) -> np.ndarray | None:
        comment = text.startswith("#")
        for delimiter in (self.delimiter,) if self.delimiter else DELIMITERS:
            fields = _try_to_split(text.lstrip("# ") if comment else text, delimiter)
            if len(fields) == self.n_columns:
                break
        else:
            if comment:
                return None
            widths = [len(_try_to_split(text, d)) for d in DELIMITERS]
            need = "a label and a sample need" if self.labelled else "a sample needs"
            raise _Columns(f"{self.path}, line {number}: there are {max(widths)} columns; {need} {self.n_columns}")
        column = self._label_column(number, fields)
        if column is None and comment:
            return None
        self.delimiter, self.label, self.header = delimiter, column or 0, column is not None
        return None if self.header else self._numbers(number, fields)

    def _label_column(self, number: int, fields: list[str]) -> int | None:
        """Return the column of labels that a header names; None if the fields are no header."""
        names = [field.strip().casefold() for field in fields]
        if not self.labelled:
            return None if any(is_number(name.replace(",", ".")) for name in names) else 0
        for name in LABEL_NAMES:
            if names.count(name) == 1 and not (name == "y" and "z" in names):  # x, y, z are axes
                return names.index(name)
            if names.count(name) > 1:
                raise self._error(number, f"{names.count(name)} columns are named {name}: one must be")
        numeric = [is_number(name.replace(",", ".")) for name in names]
        if not any(numeric) and any(names):
            raise self._error(number, "the header does not say which column holds the labels: name it `label`")
        if len(names) > 2 and names == [str(i) for i in range(len(names))]:
            raise self._error(number, "0, 1, 2, ... may be numbers of columns: remove the line, or name a `label`")
        return None

    def _fields(self, number: int, text: str, delimiter: str) -> list[str]:
        try:
            return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True, strict=True))
        except csv.Error as error:
            raise self._error(number, str(error)) from error

    def _numbers(self, number: int, fields: list[str]) -> np.ndarray | None:
        if not any(field.strip() for field in fields):  # spreadsheets write empty lines as ;;;;
            return None
        if len(fields) != self.n_columns:
            raise self._error(number, f"there are {len(fields)} columns instead of {self.n_columns}")
        if self.texts is not None:
            self.texts.append(fields[self.label or 0].strip())
            fields[self.label or 0] = "0"
        if self.delimiter != ",":
            fields = self._with_points(number, fields)
        try:
            row = np.array([float(field) for field in fields])
        except ValueError:
            row = None
        if row is None or not np.isfinite(row).all() or "_" in "".join(fields):
            raise self._error(number, self._what_is_wrong(fields))
        label = row[self.label or 0]
        if self.labelled and (not 0 <= label < 2**31 or label != math.floor(label)):
            raise self._error(number, f"the label is {label:g}, not a whole number from 0")
        if (np.abs(row) > _LARGEST).any():
            raise self._error(number, f"{row[np.abs(row) > _LARGEST][0]:g} is too large for float32")
        return row

    def _with_points(self, number: int, fields: list[str]) -> list[str]:
        """Return numbers with decimal points instead of decimal commas; a file must have one kind only."""
        commas = [field for field in fields if "," in field]
        self._decimal_point = self._decimal_point or any("." in field for field in fields)
        if commas and not self._decimal_comma:
            self._decimal_comma = not all(_THOUSANDS.fullmatch(field.strip()) for field in commas)
            self.ambiguous = "" if self._decimal_comma else self.ambiguous or commas[0]
        if (self._decimal_comma or self.ambiguous) and self._decimal_point:
            raise self._error(number, "there are commas and points in numbers: write decimal points only")
        return [field.replace(",", ".", 1) for field in fields] if commas else fields

    def _what_is_wrong(self, fields: list[str]) -> str:
        for column, field in enumerate(fields, 1):
            if is_missing(field):
                return f"column {column} has no value ({field!r}): remove the line, or fill the value in"
            if not is_number(field):
                return f"column {column} is {field[:40]!r}, not a finite number"
        return "a number is not finite"

    def _error(self, number: int, reason: str) -> UserError:
        return UserError(f"{self.path}, line {number}: {reason}")


def _try_to_split(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, skipinitialspace=True))
    except csv.Error:  # without its delimiter, a long line is a field that is too long
        return [text]


def is_missing(text: str) -> bool:
    """Return whether a field holds no value."""
    return text.strip().casefold() in ("", "na", "n/a", "nan", "null", "none", "?", "-")


def with_points(fields: Sequence[str], source: str) -> list[str]:
    """Return numbers with decimal points instead of decimal commas.

    Raises:
        UserError: if there are commas and points, or each comma can also separate thousands.
    """
    commas = [field for field in fields if "," in field]
    if commas and any("." in field for field in fields):
        raise UserError(f"{source}: there are commas and points in numbers: write decimal points only")
    if commas and all(_THOUSANDS.fullmatch(field.strip()) for field in commas):
        raise UserError(f"{source}: numbers such as {commas[0]} can be read in two ways: write decimal points")
    return [field.replace(",", ".", 1) for field in fields]
