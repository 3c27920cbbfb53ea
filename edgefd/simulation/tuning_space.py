"""The search space of `edgefd tune`: which settings of each method are tuned, and over which values.

A space file holds `common`, keys for every method, and sections of single methods, which add keys or replace those in
`common`; null removes a key:

    common:
      train.lr: {log: [0.0003, 0.03]}
    edgefd:
      method.quantile: [0.8, 0.9, 0.95, 0.99]
    indlearn:
      distillation.temperature: null
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from edgefd.config.load import read_sections
from edgefd.core.errors import UserError
from edgefd.methods import get_method

Kind = Literal["log", "uniform", "integers"]
COMMON = "common"
_LARGEST = sys.float_info.max  # a YAML file can hold integers that no float can
_FIXED = ("seed", "data", "partition", "baselines", "run", "method.name")
"""sections and keys that no space may change, because they say what is measured, and on which data"""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    kind: Kind
    """log: the logarithm is uniform; uniform: real numbers; integers: whole numbers"""
    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        """Return whether a value is a number in the range."""
        whole = self.kind != "integers" or isinstance(value, int)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return whole and number and self.low <= value <= self.high  # type: ignore[operator]

    @property
    def ends(self) -> tuple[float, float]:
        """The two ends, which show whether a config accepts the range."""
        return self.low, self.high


Values = Range | tuple[Any, ...]
Space = Mapping[str, Values]
"""the values of each key, such as train.lr"""


def read_space(path: Path, methods: list[str]) -> dict[str, Space]:
    """Read the space of each method from a space file.

    Raises:
        UserError: if the file is malformed, names an unknown method, changes what is measured, or leaves a method
            without a key.
    """
    raw = read_sections(path)
    for section, keys in raw.items():
        if section != COMMON and section not in methods:
            _check_method(path, section)
        if not isinstance(keys, dict):
            raise UserError(f"{path}: {section} must hold keys and their values, such as train.lr: [0.001, 0.003]")
    spaces: dict[str, Space] = {}
    for method in methods:
        keys = raw.get(COMMON, {}) | raw.get(method, {})
        spaces[method] = {key: _values(path, key, value) for key, value in keys.items() if value is not None}
        if not spaces[method]:
            raise UserError(f"{path} has no key for method {method}: add a section {method}:, or {COMMON}:")
    return spaces


def with_default(path: Path, method: str, key: str, values: Values, default: object) -> Values:
    """Return the values with the default among them: it is the first trial, so the space must hold it.

    Raises:
        UserError: if the default lies outside a range.
    """
    if isinstance(values, Range):
        if default not in values:
            raise UserError(
                f"{path}: {method}: the default of {key}, {default}, is not in the range {values.low} to "
                f"{values.high}: widen it"
            )
        return values
    return values if default in values else (default, *values)


def _check_method(path: Path, section: object) -> None:
    try:
        get_method(str(section))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _values(path: Path, key: object, value: object) -> Values:
    if not isinstance(key, str) or "." not in key:
        raise UserError(f"{path}: {key} must be the name of a key, such as train.lr")
    if any(f"{key}.".startswith(f"{fixed}.") for fixed in _FIXED):
        raise UserError(f"{path}: {key} says what is measured, so it cannot be tuned: remove it")
    if isinstance(value, list) and value:
        if not all(v is None or isinstance(v, bool | int | float | str) for v in value):
            raise UserError(f"{path}: {key}: the values of a list must be numbers or text")
        return tuple(dict.fromkeys(value))
    if isinstance(value, dict) and len(value) == 1:
        (kind, ends), kinds = next(iter(value.items())), get_args(Kind)
        if kind in kinds and isinstance(ends, list) and len(ends) == 2:
            return _range(path, key, kind, *ends)
    raise UserError(
        f"{path}: {key} must be a list of values, or {{log: [low, high]}}, {{uniform: [low, high]}} or "
        f"{{integers: [low, high]}}"
    )


def _range(path: Path, key: str, kind: Kind, low: object, high: object) -> Range:
    numbers = [n for n in (low, high) if isinstance(n, int | float) and not isinstance(n, bool) and abs(n) <= _LARGEST]
    if len(numbers) < 2 or not numbers[0] < numbers[1]:
        raise UserError(f"{path}: {key}: {kind} needs two numbers, the smaller one first, not {low} and {high}")
    if kind == "integers" and not all(isinstance(n, int) for n in numbers):
        raise UserError(f"{path}: {key}: integers needs two whole numbers, not {low} and {high}")
    if kind == "log" and numbers[0] <= 0:
        raise UserError(f"{path}: {key}: log needs numbers above 0, not {low}")
    return Range(kind, numbers[0], numbers[1])
