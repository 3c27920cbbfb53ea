"""Append events as JSON lines."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgefd.core.errors import RunError
from edgefd_server.monitoring.prometheus import MAX_REFUSALS_PER_SECOND

Log = Callable[..., None]
"""(event, **fields)"""


def tee_log(first: Log, second: Log) -> Log:
    """A log that writes to two."""

    def log(event: str, **fields: Any) -> None:
        first(event, **fields)
        second(event, **fields)

    return log


def json_log(path: Path) -> Log:
    """A log that appends to a file. A flood of refusals is cut to a few lines a second; how many is said later."""
    lock = threading.Lock()
    window = [0.0, 0, 0]  # when it began, refusals written in it, refusals left out since the last written one

    def log(event: str, **fields: Any) -> None:
        with lock:
            if event == "refused":
                now = time.monotonic()
                if now - window[0] >= 1:
                    window[0], window[1] = now, 0
                window[1] += 1
                if window[1] > MAX_REFUSALS_PER_SECOND:
                    window[2] += 1
                    return
                if window[2]:
                    fields["left_out"], window[2] = int(window[2]), 0
            line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
            try:
                _append(path, json.dumps(line) + "\n")
            except OSError as error:
                raise RunError(f"cannot write {path}: {error.strerror}") from error

    return log


def _append(path: Path, line: str) -> None:
    """Whole or, on a full disk, not at all."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise
