"""The front end of a `RoundCoordinator` for devices that see an exchange folder (`edgefd.wire.exchange_folder`).

The coordinator's thread writes the plan, the teacher and the clients of each round, and the end of the run. Another
thread reads the reports that appear and submits them. A coordinator that was killed reads them again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, put
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import (
    ASKED,
    COMPLETE,
    COUNTED,
    DONE,
    FEDERATION,
    MAX_TEXT,
    PLAN,
    TEACHER,
    decode_clients,
    encode_clients,
    encode_info,
    report_file,
    round_folder,
)
from edgefd_server.coordinator.round_coordinator import OpenRound, Refused, RoundCoordinator

POLL_SECONDS = 0.05
"""seconds between two readings of the folder"""

Identity = tuple[int, ...]

logger = logging.getLogger(__name__)


class FolderFrontEnd:
    """The exchange of files with the devices of a run. Use `open_folder`.

    Args:
        folder: the exchange folder.
        coordinator: of the run.
        n_proxy: number of proxy rows.
    """

    def __init__(self, folder: Path, coordinator: RoundCoordinator, n_proxy: int) -> None:
        self._folder, self._coordinator, self._n_proxy = folder, coordinator, n_proxy
        self.seen: dict[int, float] = {}
        """time of each client's last report (`time.monotonic`)"""
        self._opened: OpenRound | None = None
        self._late: tuple[OpenRound, frozenset[int]] | None = None
        """the previous round and its clients whose reports were not in time"""
        self._read: dict[tuple[int, int], Identity] = {}
        """identity of the file that was read last, by round and client: a new file is read again"""
        self._accepted: set[tuple[int, int]] = set()

    # in the coordinator's thread

    def run_changed(self) -> None:
        """Write the round that was opened, the clients whose reports counted, or the end of the run.

        Raises:
            RunError: if the folder cannot be used, or holds a different round.
        """
        try:
            opened = self._coordinator.round
            if (ended := self._coordinator.ended) is not None:
                put(self._folder / DONE, (ended or COMPLETE).encode())
            elif opened is not None:
                self._publish(opened)
            elif self._opened is not None:
                self._close(self._opened)
        except OSError as error:
            raise RunError(f"cannot use {self._folder}: {error.strerror}") from error

    def continue_after(self, round: int) -> None:
        """Open a completed round again for late reports, if the rules use them.

        Raises:
            RunError: if its files cannot be read.
        """
        folder, n_clients = round_folder(self._folder, round), self._coordinator.info.n_clients
        try:
            plan = wire.decode_plan(get(folder / PLAN, MAX_TEXT) or b"", self._n_proxy)
            asked = get(folder / ASKED, MAX_TEXT)
            clients = range(n_clients) if asked is None else decode_clients(asked)
            counted = decode_clients(get(folder / COUNTED, MAX_TEXT) or b"")
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read round {round} in {self._folder}: {error}") from error
        closed = OpenRound(plan, None, clients, time.monotonic())
        self._coordinator.continue_after(closed)
        self._late = closed, frozenset(clients) - frozenset(counted)

    def _publish(self, opened: OpenRound) -> None:
        folder = round_folder(self._folder, opened.plan.round)
        (folder / "reports").mkdir(parents=True, exist_ok=True)
        if opened.teacher is not None:
            _put_once(folder / TEACHER, opened.teacher)
        if len(opened.asked) < self._coordinator.info.n_clients:
            _put_once(folder / ASKED, encode_clients(opened.asked))
        _put_once(folder / PLAN, wire.encode_plan(opened.plan))
        self._opened = opened

    def _close(self, closed: OpenRound) -> None:
        self._opened = None
        missing = frozenset(self._coordinator.missing())
        put(round_folder(self._folder, closed.plan.round) / COUNTED, encode_clients(set(closed.asked) - missing))
        self._late = closed, missing

    # in the thread that reads

    def step(self) -> None:
        """Submit the reports that have appeared, all at once: the round is not closed between them."""
        opened = self._opened
        if opened is None:
            return
        found = []
        for round, clients in self._awaited(opened):
            for client in clients:
                path = report_file(self._folder, round.plan.round, client)
                if (file := self._new_file(path, round.plan.round, client)) is not None:
                    limit = self._coordinator.expected(round.plan).largest
                    found.append((path, round.plan.round, client, _content(path, limit)))
                    self._read[round.plan.round, client] = file
                    self.seen[client] = time.monotonic()
        with self._coordinator.batch():
            for path, number, client, content in found:
                self._submit(path, number, client, content)

    def _awaited(self, opened: OpenRound) -> list[tuple[OpenRound, Sequence[int]]]:
        """Return the rounds whose reports can still count, each with the clients that may send one."""
        awaited = [(opened, opened.asked)]
        if self._late is not None and self._coordinator.rules.stale_reports == "use" and not opened.plan.closing:
            awaited.insert(0, (self._late[0], sorted(self._late[1])))
        return awaited

    def _new_file(self, path: Path, round: int, client: int) -> Identity | None:
        """Return the identity of a report's file; None if there is none, or it was read or is not needed any more."""
        if (round, client) in self._accepted or (identity := _identity(path)) == self._read.get((round, client)):
            return None
        return identity

    def _submit(self, path: Path, round: int, client: int, content: bytes | Refused) -> None:
        refused_path = path.with_suffix(".refused")
        try:
            if isinstance(content, Refused):
                self._coordinator.refuse(client, content)
                raise content
            self._coordinator.submit(client, round, content)
        except Refused as refused:
            if refused.reason != "round":  # the round was closed meanwhile: the report stays in the folder
                logger.debug("refused %s: %s", path, refused)
                put(refused_path, f"{refused}\n".encode())
                self._coordinator.note(
                    "refused", call="Folder", reason=refused.reason, line=str(refused), round=round, client=client
                )
            return
        self._accepted.add((round, client))
        refused_path.unlink(missing_ok=True)

    def run(self, stop: threading.Event) -> None:
        """Read the folder until the event is set. An error ends the run, which would otherwise wait for ever."""
        while not stop.wait(POLL_SECONDS):
            try:
                self.step()
            except OSError as error:
                self._coordinator.fail(RunError(f"cannot use {self._folder}: {error.strerror}"))
                return
            except Exception as error:
                self._coordinator.fail(RunError(f"cannot read {self._folder}: {type(error).__name__}: {error}"))
                return


@contextmanager
def open_folder(folder: Path, coordinator: RoundCoordinator, n_proxy: int, first: int = 0) -> Iterator[FolderFrontEnd]:
    """Exchange files with the devices while the context lasts. An exchange that was left there is continued.

    Args:
        folder: the exchange folder.
        coordinator: of the run.
        n_proxy: number of proxy rows.
        first: the round with which the run begins or resumes.

    Raises:
        UserError: if the folder cannot be written.
        RunError: if it holds another exchange, or the round before `first` cannot be read.
    """
    front_end = FolderFrontEnd(folder, coordinator, n_proxy)
    try:
        _put_once(folder / FEDERATION, encode_info(coordinator.info))
        if get(folder / DONE, MAX_TEXT) not in (None, COMPLETE.encode()):
            (folder / DONE).unlink()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    if first and coordinator.rules.stale_reports == "use":
        front_end.continue_after(first - 1)
    coordinator.watch(front_end.run_changed)
    stop = threading.Event()
    thread = threading.Thread(target=front_end.run, args=(stop,), name="exchange-folder", daemon=True)
    thread.start()
    try:
        yield front_end
    finally:
        stop.set()
        thread.join()


def _content(path: Path, limit: int) -> bytes | Refused:
    """Return the content of a report's file, or the reason why the file cannot be a report."""
    try:
        data = get(path, limit)
    except ValueError as error:
        return Refused("size", str(error))
    except OSError as error:
        return Refused("malformed", f"the report cannot be read: {error.strerror}")
    return Refused("malformed", "the report was removed") if data is None else data


def _put_once(path: Path, blob: bytes) -> None:
    """Write a file that a killed coordinator may have written before; its content must then be the same."""
    try:
        present = get(path, len(blob))
    except ValueError as error:
        raise RunError(f"{path} differs from the file that this run would write: {error}") from error
    if present is not None and present != blob:
        raise RunError(f"{path} differs from the file that this run would write")
    if present is None:
        put(path, blob)


def _identity(path: Path) -> Identity | None:
    """Return values that change when a file is replaced; None if it does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
