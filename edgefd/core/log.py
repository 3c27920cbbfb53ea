"""Log messages of the long-running commands: warnings, events and diagnostics, written to stderr.

Others can cause messages and can choose some of their words. Therefore at most `LINES_PER_MINUTE` messages of a kind
are written, and characters that a terminal could interpret are escaped.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext

from edgefd.core.errors import UserError
from edgefd.core.line_limit import LineLimit
from edgefd.core.text import escaped

LEVEL_VARIABLE = "EDGEFD_LOG"
"""environment variable that sets the level; one of `LEVELS`"""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""values of `LEVEL_VARIABLE`"""
LINES_PER_MINUTE = 60
"""messages of a kind that are written in a minute; those from one line of code with one level are a kind"""
PACKAGES = ("edgefd", "edgefd_server", "edgefd_client")
"""packages of edgefd, whose loggers are configured"""
LIBRARIES = ("grpc", "asyncio")
"""libraries that report what other parties do; their warnings are written in the same way"""

_PRIORITIES = {  # of sd-daemon(3), which journald reads at the start of each line
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


def configure_logging() -> None:
    """Write the log messages of edgefd's packages to stderr. A second call replaces the settings of the first.

    A line is "HH:MM:SS level message". Where the environment has JOURNAL_STREAM, which systemd sets for services that
    log to journald, it is "<priority>message": journald adds the time itself.

    Raises:
        UserError: if EDGEFD_LOG is not a level.
    """
    level = _level(os.environ)
    handler = _StderrHandler()
    handler.setFormatter(_JournalFormatter() if "JOURNAL_STREAM" in os.environ else _TerminalFormatter())
    for package in PACKAGES + LIBRARIES:
        logger = logging.getLogger(package)
        for previous in [h for h in logger.handlers if isinstance(h, _StderrHandler)]:
            logger.removeHandler(previous)
        logger.addHandler(handler)
        logger.setLevel(level if package in PACKAGES else logging.WARNING)


def _level(environment: Mapping[str, str]) -> int:
    name = environment.get(LEVEL_VARIABLE, "")
    if not name:
        return logging.INFO
    if name not in LEVELS:
        raise UserError(f"{LEVEL_VARIABLE} is {name!r}: set it to one of {', '.join(LEVELS)}")
    return LEVELS[name]


class LimitedHandler(logging.Handler):
    """A handler that writes at most `LINES_PER_MINUTE` messages of a kind, and says how many it left out.

    Messages for debugging, which only a person can ask for, are not limited. A subclass implements `write`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._limit = LineLimit[tuple[str, int, int]](LINES_PER_MINUTE)
        """counts by logger, line of code and level"""

    def write(self, record: logging.LogRecord) -> None:
        """Write a message."""
        raise NotImplementedError

    def emit(self, record: logging.LogRecord) -> None:
        """Write the message, unless there were too many of its kind."""
        self._write_counts(everything=False)
        if record.levelno <= logging.DEBUG or self._limit.admits((record.name, record.lineno, record.levelno)):
            self.write(record)

    def close(self) -> None:
        """Write how many messages were left out, at the end of the process."""
        with self.lock or nullcontext():
            self._write_counts(everything=True)
        super().close()

    def _write_counts(self, everything: bool) -> None:
        for (name, _, level), count in self._limit.over(everything):
            line = f"{count} more messages like the last ones of {name} were left out"
            self.write(logging.LogRecord(name, level, "", 0, line, None, None))


class _StderrHandler(LimitedHandler):
    """A handler that writes each message to the `sys.stderr` of that moment, which a caller may have replaced."""

    def write(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)
        except (OSError, ValueError):  # a closed or full stderr must not end a run
            self.handleError(record)


class _TerminalFormatter(logging.Formatter):
    """Formats a message as "HH:MM:SS level message"."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"{record.asctime} {record.levelname.lower()} {record.message}"


class _JournalFormatter(logging.Formatter):
    """Formats a message as "<priority>message", with the priority before each of its lines."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in escaped(super().format(record)).split("\n"))
