"""Reading and writing of JSON and JSON lines. A reader never sees a partial file."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgefd.core.files import append, put, writing

MAX_DEPTH = 100
"""largest number of lists and objects within each other"""


def parse_json(text: bytes | str) -> Any:
    """Return a JSON value.

    Raises:
        ValueError: if it is not JSON, is nested too deeply, holds a key twice, or a number that is not finite.
    """
    try:
        value = json.loads(text, parse_float=_finite_number, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    """Refuse what a function that calls itself could not follow: the parser can, because it is no Python function."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list))
        if not (level := [each for values in inner for each in values]):
            return
    raise ValueError("it is nested too deeply")


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds {text[:20]}, which is not a finite number")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is not a number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"it holds the key {twice[:80]!r} twice")
    return values


def json_text(value: Any, indent: int | None = None) -> str:
    """Return a value as JSON. JSON has no NaN and no infinite numbers: null takes their place."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, for its owner only."""
    with writing(path):
        put(path, (json_text(value, indent=2) + "\n").encode())


def write_json_lines(path: Path, values: Sequence[Any]) -> None:
    """Write a .jsonl file atomically, one value per line, for its owner only."""
    with writing(path):
        put(path, "".join(json_text(value) + "\n" for value in values).encode())


def append_json_line(path: Path, value: Any) -> None:
    """Append one line to a .jsonl file. It is on disk when this returns, so the lines of a killed run can be read."""
    with writing(path):
        append(path, (json_text(value) + "\n").encode())
