"""Reading and writing of files, also in folders in which others can write, and locks of files.

Reading and writing never follow a symbolic link: a file that is a link, a pipe, a device or a folder is refused. A new
file can be read by its owner only, unless the caller says that it is shared.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from edgefd.core.descriptors import patient
from edgefd.core.errors import InUse, RunError, UserError

PRIVATE, SHARED = 0o600, 0o666
"""permissions of a file: for its owner only, whatever the umask is; for others too, as far as the umask allows it"""
APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""flags of `os.open` for appending: the file is created if it does not exist, and a link is not followed"""
_NOT_A_FILE = (errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR)  # a link, a socket, a device without driver

FileIdentity = tuple[int, ...]
"""values that change when a file is replaced or changed"""


@patient
def put(path: Path, blob: bytes, mode: int = PRIVATE, root: Path | None = None) -> None:
    """Write a file completely or not at all. It is on disk when this returns.

    Args:
        path: the file. Its folder is created if it does not exist.
        blob: its content.
        mode: `PRIVATE` or `SHARED`.
        root: a folder above `path` in which others can write: below it, links to folders are not followed.
    """
    with replacing(path, mode, root) as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
    with opened_folder(path.parent, root) as folder:
        os.fsync(folder)


@contextmanager
def replacing(path: Path, mode: int = PRIVATE, root: Path | None = None) -> Iterator[BinaryIO]:
    """Yield a file to write to, which becomes `path` at the end of the context. After an error, nothing is left of it.

    Each call writes to a new file with a name that nobody can predict, so several processes can write the same path.
    Unlike `put`, this does not wait for the disk.
    """
    with opened_folder(path.parent, root, make=folder_mode(mode)) as folder:
        part = f".{path.name}.{secrets.token_hex(8)}.part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.rename(part, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(part, dir_fd=folder)
            raise


@patient
def get(path: Path, limit: int, root: Path | None = None) -> bytes | None:
    """Return the bytes of a file, or None if it does not exist.

    Args:
        path: the file.
        limit: largest size in bytes. A larger file is not read.
        root: a folder above `path` in which others can write: below it, links to folders are not followed.

    Raises:
        ValueError: if it is not a plain file, is larger than `limit`, or changes while it is read.
    """
    try:
        with opened_plain(path, root) as file:
            before = os.fstat(file.fileno())
            if before.st_size > limit:
                raise ValueError(f"{path.name} is larger than {limit} bytes")
            blob = file.read(before.st_size + 1)
            if len(blob) != before.st_size or _identity(os.fstat(file.fileno())) != _identity(before):
                raise ValueError(f"{path.name} changed while it was read")
            return blob
    except FileNotFoundError:
        return None


def opened_plain(path: Path, root: Path | None = None) -> BinaryIO:
    """Open a plain file for reading; `root` as in `get`.

    Raises:
        ValueError: if it is a link, a pipe, a device, a socket or a folder.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC  # a pipe without a writer must not block
    try:
        with opened_folder(path.parent, root) as folder:
            handle = os.open(path.name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_A_FILE:
            raise ValueError(f"{path.name} is not a plain file") from None
        raise
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path.name} is not a plain file")
    return os.fdopen(handle, "rb")


def read(path: Path, limit: int, advice: str = "") -> bytes:
    """Return the bytes of a file that a command needs.

    Args:
        path: the file.
        limit: largest size in bytes.
        advice: what to do if it cannot be read, for the end of the error's text.

    Raises:
        UserError: if it does not exist, is not a plain file, is larger than `limit`, or cannot be read.
    """
    try:
        blob = get(path, limit)
        reason = "No such file or directory"
    except OSError as error:
        blob, reason = None, str(error.strerror)
    except ValueError as error:
        blob, reason = None, str(error)
    if blob is None:
        raise UserError(f"cannot read {path}: {reason}" + (advice and f": {advice}"))
    return blob


def opened(path: Path) -> BinaryIO:
    """Open a file that a user names, for reading. Links are followed; a pipe without a writer does not block."""
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


@patient
def append(path: Path, blob: bytes) -> None:
    """Append to a file, which is created for its owner only. The content is on disk when this returns."""
    with appending(path) as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


def appending(path: Path) -> BinaryIO:
    """Open a file for appending; it is created for its owner only if it does not exist, and a link is not followed."""
    return os.fdopen(os.open(path, APPEND, PRIVATE), "ab")


def remove(path: Path, root: Path | None = None) -> None:
    """Remove a file or a link, if there is one; `root` as in `put`."""
    with suppress(FileNotFoundError), opened_folder(path.parent, root) as folder:
        os.unlink(path.name, dir_fd=folder)


def identities(folder: Path, names: Iterable[str], root: Path | None = None) -> dict[str, FileIdentity]:
    """Return the identity of each file of a folder that exists, a link too; `root` as in `put`."""
    found = {}
    with suppress(FileNotFoundError), opened_folder(folder, root) as handle:
        for name in names:
            with suppress(FileNotFoundError):
                found[name] = _identity(os.stat(name, dir_fd=handle, follow_symlinks=False))
    return found


def _identity(status: os.stat_result) -> FileIdentity:
    return status.st_ino, status.st_size, status.st_mtime_ns


def folder_mode(mode: int) -> int:
    """Return the permissions of a folder whose files have these permissions.

    >>> [oct(folder_mode(mode)) for mode in (PRIVATE, SHARED)]
    ['0o700', '0o777']
    """
    return mode | mode >> 2 & 0o111


def make_folder(path: Path, mode: int = PRIVATE, root: Path | None = None) -> None:
    """Create a folder for files with these permissions, if it does not exist; `root` as in `put`."""
    with opened_folder(path, root, make=folder_mode(mode)):
        pass


@contextmanager
def opened_folder(path: Path, root: Path | None = None, make: int | None = None) -> Iterator[int]:
    """Yield a descriptor of a folder.

    Args:
        path: the folder.
        root: a folder above it in which others can write: below it, links are not followed.
        make: permissions with which it and the folders above it are created if they do not exist; None = it must exist.
    """
    base, parts = (path, ()) if root is None else (root, path.relative_to(root).parts)
    if make is not None and not base.is_dir():
        for missing in [each for each in (*reversed(base.parents), base) if not each.exists()]:
            with suppress(FileExistsError):
                os.mkdir(missing, make)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    with ExitStack() as opened:
        handle = os.open(base, flags)
        opened.callback(os.close, handle)
        for part in parts:
            if make is not None:
                with suppress(FileExistsError):
                    os.mkdir(part, make, dir_fd=handle)
            handle = os.open(part, flags | os.O_NOFOLLOW, dir_fd=handle)
            opened.callback(os.close, handle)
        yield handle


@contextmanager
def removed_on_error(*paths: Path, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Remove those of the paths that did not exist before, if the context ends with an error, also by Ctrl-C.

    Their parent folders that did not exist before are removed too, if nothing else is in them.

    Args:
        paths: files or folders that may be created in the context.
        unless: returns whether they already hold a result, so that they must be kept.
    """
    made = [path for path in paths if not os.path.lexists(path)]
    parents = {parent for path in made for parent in path.parents if not parent.exists()}
    try:
        yield
    except BaseException:
        if not unless():
            for path in made:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()
            for parent in sorted(parents, key=lambda parent: len(parent.parts), reverse=True):
                with suppress(OSError):  # it holds something else
                    parent.rmdir()
        raise


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Convert an error of the disk, such as a full disk, into a `RunError` of one line that names `path`."""
    try:
        yield path
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error


@contextmanager
def exclusive_lock(path: Path, in_use: str, unusable: str, patience: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on a file while the context lasts. It ends with the process, however the process ends.

    What killed processes have left of `replacing` in the same folder is removed.

    Args:
        path: the lock file; it and its folder are created if they do not exist.
        in_use: the error's text if another process holds the lock.
        unusable: the beginning of the error's text if the file cannot be opened or locked.
        patience: seconds to wait for another process that holds the lock.

    Raises:
        InUse: if another process holds the lock.
        UserError: if the file cannot be opened or locked.
    """
    try:
        make_folder(path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        handle = os.open(path, flags, PRIVATE)
    except OSError as error:
        raise UserError(f"{unusable}: {error.strerror}") from error
    try:
        try:
            _lock(handle, time.monotonic() + patience)
        except BlockingIOError:
            raise InUse(in_use) from None
        except OSError as error:
            raise UserError(f"{unusable}: {error.strerror}") from error
        for part in path.parent.glob(".*.part"):
            with suppress(OSError):
                part.unlink()
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
