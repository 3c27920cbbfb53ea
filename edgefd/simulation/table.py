"""Rows of figures: a pandas DataFrame where pandas is installed, otherwise a list that can be used in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any


class Rows(list[dict[str, Any]]):
    """A list of rows, each a dict, with the functions of a DataFrame that are used most.

    >>> rows = Rows([{"round": 0, "accuracy": 0.5}, {"round": 1, "accuracy": 0.75}])
    >>> rows.tail(1)
    round  accuracy
        1      0.75
    >>> rows["accuracy"]
    [0.5, 0.75]
    """

    def head(self, n: int = 5) -> Rows:
        """Return the first n rows."""
        return Rows(self[:n])

    def tail(self, n: int = 5) -> Rows:
        """Return the last n rows."""
        return Rows(self[max(len(self) - n, 0) :])

    def __getitem__(self, key: Any) -> Any:
        """Return a row by its number, rows by a slice, or a column, as a list, by its name."""
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)

    def __repr__(self) -> str:
        """Return the rows in aligned columns, without the columns of lists."""
        names = [name for name in (self[0] if self else {}) if not any(isinstance(row[name], list) for row in self)]
        lines = [names, *([_cell(row[name]) for name in names] for row in self)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the rows as a pandas DataFrame if pandas is installed, otherwise as `Rows`."""
    if find_spec("pandas") is None:
        return Rows(rows)
    import pandas

    return pandas.DataFrame(list(rows))
