"""The event log of a coordinator: one JSON object per line.

Devices cause events and can choose some of their words. Therefore a file has a largest size, and at most
`LINES_PER_MINUTE` events of a kind and a sender are written in a minute. An event `left_out` says how many were not.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgefd.core.descriptors import is_shortage, patient
from edgefd.core.errors import RunError
from edgefd.core.files import APPEND, PRIVATE, writing
from edgefd.core.line_limit import LineLimit
from edgefd.core.text import shown

Log = Callable[..., None]
"""function that records one event; called as `log(event, **fields)`"""
LOG = "link.jsonl"
"""name of the log in a run folder"""
LINES_PER_MINUTE = 60
"""refusals with one reason, and connections, of one sender that are written in a minute"""
MAX_BYTES, OLDER_FILES = 16 * 2**20, 3
"""size from which the log begins a new file, and how many older files it keeps: NAME.1 is the newest of them"""
_LIMITED = ("refused", "join", "node", "node_gone")  # a device can cause any number of these

logger = logging.getLogger(__name__)


class LoggedState:
    """Base of the state that a coordinator's threads share: it writes events to a log, and ends if it cannot."""

    def __init__(self, log: Log) -> None:
        self._log, self._changed = log, threading.Condition()
        self._failure: RunError | None = None
        """the error from which it cannot recover"""

    def note(self, event: str, **fields: object) -> None:
        """Write an event to the log. If that fails, end with the reason."""
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


@contextmanager
def json_log(path: Path) -> Iterator[Log]:
    """Yield a log that appends events to a file while the context lasts. The file appears with the first event.

    The log raises `RunError` if it cannot write, for example to a full disk.
    """
    file = _RotatedFile(path)
    limit, lock = LineLimit[tuple[str, ...]](LINES_PER_MINUTE), threading.Lock()

    def write(event: str, fields: dict[str, Any]) -> None:
        plain = {name: shown(value) if isinstance(value, str) else value for name, value in fields.items()}
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **plain}
        logger.debug("%s %s", event, plain)
        with writing(path):
            file.append(json.dumps(line) + "\n")

    def write_counts(everything: bool = False) -> None:
        for (event, reason, sender), count in limit.over(everything):
            write("left_out", {"of": event, "reason": reason, "sender": sender, "lines": count})

    def log(event: str, **fields: Any) -> None:
        with lock:
            write_counts()
            if event not in _LIMITED or limit.admits((event, str(fields.get("reason", "")), _sender(fields))):
                write(event, fields)

    try:
        yield log
    finally:
        try:
            with lock:
                write_counts(everything=True)
        finally:
            file.close()


def _sender(fields: dict[str, Any]) -> str:
    """Return who caused an event: the device of the certificate, the client, or the address without its port."""
    if device := fields.get("device"):
        return shown(device)
    if (client := fields.get("client")) is not None:
        return f"client {client}"
    return shown(str(fields.get("peer", "")).rpartition(":")[0])


class _RotatedFile:
    """A file that is appended to, and renamed when it is large. It stays open: writing needs no new descriptor."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1

    def append(self, line: str) -> None:
        """Append the whole line. If the disk is full, leave the file as it was.

        Raises:
            OSError: if it cannot be written.
        """
        if self._descriptor < 0:
            self._descriptor = patient(_open_to_append)(self._path)
        data, size = line.encode(), os.fstat(self._descriptor).st_size
        if size + len(data) > MAX_BYTES and size:
            size = self._begin_next(size)
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                os.write(self._descriptor, data[written:])  # raises the reason why the first one was not complete
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def _begin_next(self, size: int) -> int:
        """Rename the file and the older ones, open a new file, and return its size; else return the given size."""
        part = self._path.with_name(f".{self._path.name}.part")
        try:
            opened = _open_to_append(part)
        except OSError as error:
            if is_shortage(error):
                return size  # the file grows until a descriptor is free
            raise
        older = [self._path.with_name(f"{self._path.name}.{n}") for n in range(OLDER_FILES, 0, -1)]
        for newer, name in zip([*older[1:], self._path], older, strict=True):
            if newer.exists():
                os.replace(newer, name)
        os.replace(part, self._path)
        self.close()
        self._descriptor = opened
        return 0

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open_to_append(path: Path) -> int:
    return os.open(path, APPEND, PRIVATE)
