"""Atomic writes, bounded reads and locks of files."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.descriptors import patient
from edgefd.core.errors import RunError, UserError


@patient
def put(path: Path, blob: bytes) -> None:
    """Write a file completely or not at all. It is on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk, the partial file occupies the last free space
        raise
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@patient
def get(path: Path, limit: int) -> bytes | None:
    """Return the bytes of a file, or None if it does not exist.

    Raises:
        ValueError: if it is not a plain file, or larger than `limit`. No more than `limit` + 1 bytes are read.
    """
    try:
        with open(path, "rb", opener=_open_without_blocking) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError(f"{path.name} is not a plain file")
            blob = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise ValueError(f"{path.name} is not a plain file") from None
    if len(blob) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return blob


def _open_without_blocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # opening a pipe without a writer would block forever


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to, which becomes `path` at the end of the context. After an error, nothing is left of it.

    Each process writes to a path of its own, so several processes can write the same file. Unlike `put`, this does not
    wait for the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink()


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Convert an error of the disk, such as a full disk, into a `RunError` of one line that names `path`."""
    try:
        yield path
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the arrays as the bytes of a compressed npz file. Arrays of Python objects are refused."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def npz_arrays(blob: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an npz file. Nothing is ever unpickled."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return dict(arrays)


@contextmanager
def exclusive_lock(path: Path, in_use: str, unusable: str, patience: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on a file while the context lasts. It ends with the process, however the process ends.

    Args:
        path: the lock file; it and its folder are created if they do not exist.
        in_use: the error's text if another process holds the lock.
        unusable: the beginning of the error's text if the file cannot be opened or locked.
        patience: seconds to wait for another process that holds the lock.

    Raises:
        UserError: if another process holds the lock, or the file cannot be opened or locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(f"{unusable}: {error.strerror}") from error
    try:
        try:
            _lock(handle, time.monotonic() + patience)
        except BlockingIOError:
            raise UserError(in_use) from None
        except OSError as error:
            raise UserError(f"{unusable}: {error.strerror}") from error
        yield
    finally:
        os.close(handle)


def _lock(handle: int, until: float) -> None:
    """Lock an open file. Raise `BlockingIOError` if another process has the lock until that time (`monotonic`)."""
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(0.01)
