"""Atomic writes, bounded reads and locks of files."""

from __future__ import annotations

import fcntl
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefd.core.errors import RunError, UserError


def put(path: Path, blob: bytes) -> None:
    """Write a file, whole or not at all, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        part.unlink(missing_ok=True)  # on a full disk it takes what room there is
        raise
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def get(path: Path, limit: int) -> bytes | None:
    """A file's bytes; None if it is not there.

    Raises:
        ValueError: if it is no plain file, or larger than `limit`: it is then not read.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ValueError(f"{path.name} is not a plain file")
            blob = file.read(limit + 1)
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        raise ValueError(f"{path.name} is not a plain file") from None
    if len(blob) > limit:
        raise ValueError(f"{path.name} is larger than {limit} bytes")
    return blob


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe with no writer would block for ever


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Turn an error of the disk, such as a full one, into a `RunError` of one line that names `path`."""
    try:
        yield path
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


def npz_bytes(arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the arrays as the bytes of a compressed npz file. Python objects are refused."""
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


@contextmanager
def exclusive_lock(path: Path, in_use: str, unusable: str) -> Iterator[None]:
    """Hold an exclusive lock on a file while the context lasts. It ends with the process, however the process ends.

    Args:
        path: the lock file; it and its folder are created if they do not exist.
        in_use: the error's text if another process holds the lock.
        unusable: the beginning of the error's text if the file cannot be opened or locked.

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
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(in_use) from None
        except OSError as error:
            raise UserError(f"{unusable}: {error.strerror}") from error
        yield
    finally:
        os.close(handle)
