"""Cache of the files of bundles by their sha256, which several runs and devices can share.

Every file is verified when it is read, so a file that others changed is not used. Nothing in a cache is needed: a file
that is missing, damaged or unreadable is downloaded again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import suppress
from pathlib import Path

from edgefd.core.errors import UserError
from edgefd.core.files import PRIVATE, SHARED, get, put
from edgefd.data.cache import cache_folder, remove_oldest

_LOG = logging.getLogger(__name__)


def default_cache() -> Path | None:
    """Return the folder of this user's cache of bundles; None, and a line in the log, if there is no home folder."""
    try:
        return cache_folder("bundles")
    except UserError as error:
        _LOG.info("files of bundles are not cached: %s", error)
        return None


def cached(cache: Path, sha256: str, limit: int) -> bytes | None:
    """Return the file with this digest; None if the cache does not have it whole."""
    path = cache / sha256
    try:
        blob = get(path, limit)
    except (OSError, ValueError) as error:
        _LOG.info("cannot use %s: %s", path, error)
        return None
    if blob is None:
        return None
    if hashlib.sha256(blob).hexdigest() != sha256:
        _LOG.info("%s is damaged: it is downloaded again", path)
        return None
    with suppress(OSError):  # a cache that can only be read
        os.utime(path)
    return blob


def keep(cache: Path, sha256: str, blob: bytes) -> None:
    """Write a file into the cache, completely or not at all. If that fails, only the log says so.

    Others can read it if they can read the folder. A folder that does not exist is created for its owner only, because
    a proxy set can hold contributed samples.
    """
    try:
        mode = PRIVATE | cache.stat().st_mode & SHARED if cache.exists() else PRIVATE
        put(cache / sha256, blob, mode)
        remove_oldest(cache)
    except OSError as error:
        _LOG.info("cannot keep a file of the bundle in %s: %s", cache, error.strerror or error)
