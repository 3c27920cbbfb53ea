"""The cache folder: arrays that take long to compute. Only their owner can read them, and their size is bounded.

Several processes can use the cache at the same time. A file that is damaged is computed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import UserError
from edgefd.core.files import get, os_errors, replacing
from edgefd.core.npz import npz_arrays
from edgefd.core.paths import user_path

MAX_BYTES = 2**31
"""bytes that a folder of the cache may hold; its oldest files are removed first, but never the newest one"""

_ABANDONED = 86_400  # seconds after which nobody writes a file any more

Arrays = Mapping[str, npt.NDArray[Any]]


def cache_folder(name: str) -> Path:
    """Return a folder of the cache.

    Raises:
        UserError: if neither XDG_CACHE_HOME nor a home folder says where caches are.
    """
    try:
        base = user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except UserError:
        raise UserError("this user has no home folder for caches: set XDG_CACHE_HOME to a folder") from None
    return base / "edgefd" / name


def cached_arrays(name: str, key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return arrays from a folder of the cache, or compute them and write them into it.

    Args:
        name: of the folder.
        key: a digest of everything that the arrays depend on.
        compute: returns the arrays.

    Raises:
        UserError: if the cache cannot be written.
    """
    path = cache_folder(name) / f"{key}.npz"
    if (present := _read(path)) is not None:
        return present
    arrays = compute()
    advice = "set XDG_CACHE_HOME to another folder"
    with os_errors(f"write {path.name} to {path.parent}", advice=advice), replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
    remove_oldest(path.parent)
    return arrays


def _read(path: Path) -> Arrays | None:
    """Return the arrays of a file, which then counts as new; None if it does not exist or is damaged."""
    try:
        blob = get(path, 2 * MAX_BYTES)
        arrays = None if blob is None else npz_arrays(blob, 2 * MAX_BYTES)
    except (OSError, ValueError):
        return None
    with suppress(OSError):  # a cache that can only be read
        os.utime(path)
    return arrays


def remove_oldest(folder: Path) -> None:
    """Remove the oldest files until the folder holds at most `MAX_BYTES`. Other processes may do the same."""
    files = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            status = path.stat()
            # A hidden file is being written, or was left by a process that was killed.
            if not path.name.startswith(".") or time.time() - status.st_mtime > _ABANDONED:
                files.append((status.st_mtime_ns, status.st_size, path))
    size = sum(n_bytes for _, n_bytes, _ in files)
    for _, n_bytes, path in sorted(files)[:-1]:
        if size <= MAX_BYTES:
            return
        path.unlink(missing_ok=True)
        size -= n_bytes
