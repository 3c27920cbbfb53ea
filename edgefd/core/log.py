"""Log messages of the long-running commands: warnings, events and diagnostics, written to stderr."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TextIO

from edgefd.core.errors import UserError

LEVEL_VARIABLE = "EDGEFD_LOG"
"""environment variable that sets the level; one of `LEVELS`"""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}
"""values of `LEVEL_VARIABLE`"""
PACKAGES = ("edgefd", "edgefd_server", "edgefd_client")
"""packages whose loggers are configured; the loggers of other libraries are left alone"""

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
    for package in PACKAGES:
        logger = logging.getLogger(package)
        for previous in [h for h in logger.handlers if isinstance(h, _StderrHandler)]:
            logger.removeHandler(previous)
        logger.addHandler(handler)
        logger.setLevel(level)


def _level(environment: Mapping[str, str]) -> int:
    name = environment.get(LEVEL_VARIABLE, "")
    if not name:
        return logging.INFO
    if name not in LEVELS:
        raise UserError(f"{LEVEL_VARIABLE} is {name!r}: set it to one of {', '.join(LEVELS)}")
    return LEVELS[name]


class _StderrHandler(logging.StreamHandler[TextIO]):
    """A handler that writes each message to the `sys.stderr` of that moment, which a caller may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _TerminalFormatter(logging.Formatter):
    """Formats a message as "HH:MM:SS level message"."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        return f"{record.asctime} {record.levelname.lower()} {record.message}"


class _JournalFormatter(logging.Formatter):
    """Formats a message as "<priority>message", with the priority before each of its lines."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())
