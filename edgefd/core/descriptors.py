"""File descriptors of this process: a higher limit, and work that waits while all of them are in use."""

from __future__ import annotations

import errno
import functools
import logging
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

PATIENCE = 30.0
"""seconds for which work waits until a descriptor is free"""
_PAUSE = 0.1  # seconds between two attempts
_UNLIMITED = 2**20

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class _Shortages:
    """The number of times that work found all descriptors in use. Any thread may add to it."""

    def __init__(self) -> None:
        self.count = 0


SHORTAGES = _Shortages()
"""the shortages of this process so far"""


def raise_file_limit() -> None:
    """Raise the limit on open files as far as the system allows.

    Many systems allow 1,024 open files and many more on request, and every connection is an open file.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS refuses "unlimited"; the present limit then stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def file_limit() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _UNLIMITED if soft == resource.RLIM_INFINITY else soft


def is_shortage(error: OSError) -> bool:
    """Return whether an error means that all file descriptors are in use."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def patient(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a function wait and begin again while all file descriptors are in use, for up to `PATIENCE` seconds."""

    @functools.wraps(work)
    def wait_and_work(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                return work(*args, **kwargs)
            except OSError as error:
                if not is_shortage(error):
                    raise
                SHORTAGES.count += 1
                if time.monotonic() > until:
                    raise
                logger.warning("all file descriptors are in use: waiting for one")
                time.sleep(_PAUSE)

    return wait_and_work
