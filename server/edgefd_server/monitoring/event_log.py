"""The event log of a coordinator: one JSON object per line."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgefd.core.errors import RunError
from edgefd.core.files import writing

Log = Callable[..., None]
"""function that records one event; called as `log(event, **fields)`"""
MAX_REFUSALS_PER_SECOND = 20
"""refusals per second that the event log writes"""

logger = logging.getLogger(__name__)


class LoggedState:
    """Base of the state that a coordinator's threads share: it writes events to a log, and ends if it cannot."""

    def __init__(self, log: Log) -> None:
        self._log, self._changed = log, threading.Condition()
        self._failure: RunError | None = None
        """the error from which it cannot recover"""

    def note(self, event: str, **fields: object) -> None:
        """Write an event to the log. If that fails, end with the reason."""
        logger.debug("%s %s", event, fields)
        try:
            self._log(event, **fields)
        except RunError as error:
            self.fail(error)

    def fail(self, error: RunError) -> None:
        """End with an error from which it cannot recover."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()


def tee_log(*logs: Log) -> Log:
    """Return a log that passes every event to all logs, in their order."""

    def log(event: str, **fields: Any) -> None:
        for each in logs:
            each(event, **fields)

    return log


def json_log(path: Path) -> Log:
    """Return a log that appends events to a file.

    At most `MAX_REFUSALS_PER_SECOND` refusals per second are written. The next refusal that is written holds the number
    of refusals that were left out before it, in its field `left_out`.
    """
    lock = threading.Lock()
    window_start, written, left_out = 0.0, 0, 0  # `left_out` counts from the last refusal that was written

    def log(event: str, **fields: Any) -> None:
        nonlocal window_start, written, left_out
        with lock:
            if event == "refused":
                now = time.monotonic()
                if now - window_start >= 1:
                    window_start, written = now, 0
                written += 1
                if written > MAX_REFUSALS_PER_SECOND:
                    left_out += 1
                    return
                if left_out:
                    fields["left_out"], left_out = left_out, 0
            line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}
            with writing(path):
                _append(path, json.dumps(line) + "\n")

    return log


def _append(path: Path, line: str) -> None:
    """Append the whole line. If the disk is full, leave the file as it was."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError:
        if path.exists():
            os.truncate(path, size)
        raise
