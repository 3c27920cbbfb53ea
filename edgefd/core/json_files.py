"""Write JSON and JSON lines so that a reader never sees half a file."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgefd.core.files import put, writing


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    with writing(path):
        put(path, (json.dumps(value, indent=2) + "\n").encode())


def write_json_lines(path: Path, values: Sequence[Any]) -> None:
    """Write a .jsonl file atomically, one value a line."""
    with writing(path):
        put(path, "".join(json.dumps(value) + "\n" for value in values).encode())


def append_json_line(path: Path, value: Any) -> None:
    """One more line of a .jsonl file, on disk before this returns, so that a killed run still reads."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(value) + "\n")
        file.flush()
        os.fsync(file.fileno())
