"""Writing of JSON and JSON lines, so that a reader never sees a partial file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgefd.core.descriptors import patient
from edgefd.core.files import put, writing


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with writing(path):
        put(path, (json.dumps(value, indent=2) + "\n").encode())


def write_json_lines(path: Path, values: Sequence[Any]) -> None:
    """Write a .jsonl file atomically, one value per line."""
    with writing(path):
        put(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def append_json_line(path: Path, value: Any) -> None:
    """Append one line to a .jsonl file. It is on disk when this returns, so the lines of a killed run can be read."""
    with writing(path):
        _append(path, json.dumps(value) + "\n")


@patient
def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
