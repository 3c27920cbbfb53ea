"""Leases: which process works on something in a folder that several machines may share.

A lease is a file that its holder touches every `BEAT_SECONDS`. Without a touch for `DEAD_AFTER_SECONDS`, the holder is
taken to be dead, and another process may take the lease over. `flock` alone would not do, because network file systems
may ignore it between machines. On one machine, however, it tells at once whether the holder has died, so the holder
locks its file too.

Ages do not depend on the clocks of the machines: the last touch is compared with a new file, and the file system
stamps both.

The file of lease NAME is `.NAME.N.lease`, and N grows by one with each take-over. Two processes that find the same dead
holder both try to create the next file, and the file system lets one of them succeed. A holder that was taken over,
because its machine stood still, finds that its file is gone when it wants to touch it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgefd.core.errors import InUse, RunError
from edgefd.core.files import PRIVATE, make_folder, os_errors

BEAT_SECONDS = 5.0
"""seconds between two touches of a holder"""
DEAD_AFTER_SECONDS = 60.0
"""age of the last touch at which a holder on another machine is taken to be dead"""
_MAX_BYTES = 4096  # of a lease file
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def lease(folder: Path, name: str, lost: Callable[[], None]) -> Iterator[None]:
    """Hold a lease while the context lasts.

    Args:
        folder: the folder of the lease, which is created if it does not exist.
        name: the name of what the lease is for.
        lost: called in another thread if another process took the lease over. It must end the work.

    Raises:
        InUse: if another process holds the lease; the text names the process.
        RunError: if the folder cannot be written.
    """
    with os_errors(f"write {folder}", RunError):
        make_folder(folder)
        path, handle = _take(folder, name)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended, lost), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _take(folder: Path, name: str) -> tuple[Path, int]:
    """Create the next file of a lease and lock it; return its path and its descriptor, which holds the lock.

    Raises:
        InUse: if another process holds the lease.
    """
    before = _files(folder, name)
    judged = {number: _content(path) for number, path in before.items()}
    if before and not _is_dead(before[max(before)]):
        raise InUse(_holder(before[max(before)]))
    path = folder / f".{name}.{max(before, default=0) + 1}.lease"
    try:
        handle = os.open(path, _NEW, PRIVATE)
    except FileExistsError:
        raise InUse(_holder(path)) from None
    try:
        with suppress(OSError):  # a file system without locks: then only the age of the last touch counts
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            about = {"machine": _machine(), "holder": f"{socket.gethostname()}, process {os.getpid()}"}
            about["token"] = secrets.token_hex(8)  # the file of another holder can have the same name
            os.write(handle, json.dumps(about).encode())
        now = {n: other for n, other in _files(folder, name).items() if other != path}
        others = [other for n, other in now.items() if _content(other) not in (None, judged.get(n))]
        if others:  # a holder ended after the first look, so that another process began to count anew
            path.unlink(missing_ok=True)  # that process may have removed it, before it finds this out too
            raise InUse(_holder(others[0]))
        for old in before.values():
            old.unlink(missing_ok=True)
    except BaseException:
        os.close(handle)
        raise
    return path, handle


def _files(folder: Path, name: str) -> dict[int, Path]:
    """Return the files of a lease by their numbers."""
    start, end = f".{name}.", ".lease"
    numbers = [n[len(start) : -len(end)] for n in os.listdir(folder) if n.startswith(start) and n.endswith(end)]
    return {int(number): folder / f"{start}{number}{end}" for number in numbers if number.isdecimal()}


def _is_dead(path: Path) -> bool:
    """Return whether the holder of a lease file has ended or, if it is on another machine, seems to have ended."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # a network file system stats it anew
    except FileNotFoundError:
        return True
    try:
        if _about(os.read(handle, _MAX_BYTES)).get("machine") != _machine():
            return _now(path.parent) - os.fstat(handle).st_mtime > DEAD_AFTER_SECONDS
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def _holder(path: Path) -> str:
    return str(_about(_content(path) or b"").get("holder", "another process"))


def _content(path: Path) -> bytes | None:
    """Return what a lease file holds; None if it cannot be read, as when its holder has ended."""
    try:
        return path.read_bytes()[:_MAX_BYTES]
    except OSError:
        return None


def _about(content: bytes) -> dict[str, object]:
    try:
        about = json.loads(content)
    except ValueError:  # its holder has not written it yet
        return {}
    return about if isinstance(about, dict) else {}


def _now(folder: Path) -> float:
    """Return the time by the clock that stamps the files of a folder."""
    path = folder / f".{secrets.token_hex(8)}.part"
    handle = os.open(path, _NEW, PRIVATE)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        path.unlink(missing_ok=True)


def _machine() -> str:
    """Return what tells this machine from others, until it starts again: two machines may have the same name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def _beat(path: Path, ended: threading.Event, lost: Callable[[], None]) -> None:
    while not ended.wait(BEAT_SECONDS):
        try:
            os.utime(path)
        except FileNotFoundError:
            lost()
            return
        except OSError:  # the network is down: whether the lease is lost shows when it is back
            continue
