"""The front end of a `RoundCoordinator` for devices that see an exchange folder (`edgefd.wire.exchange_folder`).

The coordinator's thread writes the plan, the teacher and the clients of each round, and the end of the run. Another
thread reads the reports that appear and submits them. A coordinator that was killed reads them again. Nothing that a
device puts in place of a report ends the run: anything else than a report is refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import SHARED, FileIdentity, get, identities, make_folder, os_errors, put, remove
from edgefd.rounds.participation import largest_age
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
from edgefd_server.coordinator.round_coordinator import Refused, RoundCoordinator
from edgefd_server.coordinator.round_inbox import OpenRound

POLL_SECONDS = 0.05
"""seconds between two readings of the folder"""

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
        self._late: list[tuple[OpenRound, frozenset[int]]] = []
        """earlier rounds, the newest first, each with its clients whose reports were not in time, as far as the rules
        can use them"""
        self._read: dict[tuple[int, int], FileIdentity] = {}
        """identity of the file that was read last, by round and client: a new file is read again"""
        self._accepted: set[tuple[int, int]] = set()
        self._unreadable = ""
        """the last reason why the reports of a round could not be read; "" = they could"""

    # in the coordinator's thread

    def run_changed(self) -> None:
        """Write the round that was opened, the clients whose reports counted, or the end of the run.

        Raises:
            RunError: if the folder cannot be used, or holds a different round.
        """
        with os_errors(f"use {self._folder}", RunError):
            opened = self._coordinator.round
            if (ended := self._coordinator.ended) is not None:
                self._put(self._folder / DONE, (ended or COMPLETE).encode())
            elif opened is not None:
                self._publish(opened)
            elif self._opened is not None:
                self._close(self._opened)

    def continue_after(self, round: int) -> None:
        """Open a completed round again for late reports, which the rules use.

        Raises:
            RunError: if its files cannot be read.
        """
        folder, n_clients = round_folder(self._folder, round), self._coordinator.info.n_clients
        try:
            plan = wire.decode_plan(self._get(folder / PLAN) or b"", self._n_proxy)
            asked = self._get(folder / ASKED)
            clients = range(n_clients) if asked is None else decode_clients(asked)
            counted = decode_clients(self._get(folder / COUNTED) or b"")
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read round {round} in {self._folder}: {error}") from error
        closed = OpenRound(plan, None, clients, time.monotonic())
        self._coordinator.continue_after(closed)
        self._late = [(closed, frozenset(clients) - frozenset(counted))]

    def _publish(self, opened: OpenRound) -> None:
        folder = round_folder(self._folder, opened.plan.round)
        make_folder(folder / "reports", SHARED, self._folder)
        if opened.teacher is not None:
            put_once(folder / TEACHER, opened.teacher, self._folder)
        if len(opened.asked) < self._coordinator.info.n_clients:
            put_once(folder / ASKED, encode_clients(opened.asked), self._folder)
        put_once(folder / PLAN, opened.encoded_plan, self._folder)
        self._opened = opened

    def _close(self, closed: OpenRound) -> None:
        self._opened = None
        missing, rules = frozenset(self._coordinator.missing()), self._coordinator.rules
        self._put(round_folder(self._folder, closed.plan.round) / COUNTED, encode_clients(set(closed.asked) - missing))
        earlier = [(closed, missing), *self._late][: largest_age(rules, closed.plan.closing)]
        self._late = [(replace(opened, teacher=None, changes=None), clients) for opened, clients in earlier]

    def _get(self, path: Path) -> bytes | None:
        return get(path, MAX_TEXT, self._folder)

    def _put(self, path: Path, blob: bytes) -> None:
        put(path, blob, SHARED, self._folder)

    # in the thread that reads

    def step(self) -> None:
        """Submit the reports that have appeared, all at once: the round is not closed between them."""
        opened = self._opened
        if opened is None:
            return
        found = []
        for round, clients in self._awaited(opened):
            number, limit = round.plan.round, self._coordinator.expected(round.plan).largest
            for client, file in self._new_files(number, clients).items():
                path = report_file(self._folder, number, client)
                found.append((path, number, client, self._content(path, limit)))
                self._read[number, client] = file
                self.seen[client] = time.monotonic()
        with self._coordinator.batch():
            for path, number, client, content in found:
                self._submit(path, number, client, content)

    def _awaited(self, opened: OpenRound) -> list[tuple[OpenRound, Sequence[int]]]:
        """Return the rounds whose reports can still count, each with the clients that may send one."""
        awaited: list[tuple[OpenRound, Sequence[int]]] = [(opened, opened.asked)]
        newer = {client for client in opened.asked if (opened.plan.round, client) in self._accepted}
        for closed, missing in () if opened.plan.closing else self._late:
            number = closed.plan.round
            awaited.insert(0, (closed, sorted(missing - newer)))
            newer |= {client for client in missing if (number, client) in self._accepted}
        return [(each, clients) for each, clients in awaited if clients]

    def _new_files(self, round: int, clients: Sequence[int]) -> dict[int, FileIdentity]:
        """Return the files of a round's reports, by client, that were neither read nor are unneeded by now."""
        paths = {c: report_file(self._folder, round, c) for c in clients if (round, c) not in self._accepted}
        reports = round_folder(self._folder, round) / "reports"
        try:
            present = identities(reports, [path.name for path in paths.values()], self._folder)
        except OSError as error:  # somebody replaced the folder, or a network file system is away for a while
            if self._unreadable != (reason := f"cannot read {reports}: {error.strerror}"):
                logger.warning("%s: no report counts until it can be read", reason)
            self._unreadable = reason
            return {}
        self._unreadable = ""
        found = {client: present[path.name] for client, path in paths.items() if path.name in present}
        return {client: file for client, file in found.items() if self._read.get((round, client)) != file}

    def _content(self, path: Path, limit: int) -> bytes | Refused:
        """Return the content of a report's file, or the reason why the file cannot be a report."""
        try:
            data = get(path, limit, self._folder)
        except ValueError as error:
            return Refused("size", str(error))
        except OSError as error:
            return Refused("malformed", f"the report cannot be read: {error.strerror}")
        return Refused("malformed", "the report was removed") if data is None else data

    def _submit(self, path: Path, round: int, client: int, content: bytes | Refused) -> None:
        refused_path = path.with_suffix(".refused")
        try:
            if isinstance(content, Refused):
                self._coordinator.refuse(client, content)
                raise content
            self._coordinator.submit(client, round, content)
        except Refused as refused:
            if refused.reason != "round":  # the round was closed meanwhile: the report stays in the folder
                self._refuse(refused_path, refused, round, client)
            return
        self._accepted.add((round, client))
        with suppress(OSError):  # a folder in place of the file: the device then stops by itself
            remove(refused_path, self._folder)

    def _refuse(self, path: Path, refused: Refused, round: int, client: int) -> None:
        """Count a refused report, and tell its device the reason."""
        line = str(refused)
        try:
            self._put(path, f"{refused}\n".encode())
        except OSError as error:  # such as a folder in place of the file
            line += f"; the device does not learn this, because {path.name} cannot be written: {error.strerror}"
        logger.debug("refused %s: %s", path, line)
        self._coordinator.note("refused", call="Folder", reason=refused.reason, line=line, round=round, client=client)

    def run(self, stop: threading.Event) -> None:
        """Read the folder until the event is set. An error ends the run, which would otherwise wait for ever."""
        while not stop.wait(POLL_SECONDS):
            try:
                self.step()
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
        put_once(folder / FEDERATION, encode_info(coordinator.info), folder)
        if get(folder / DONE, MAX_TEXT, folder) not in (None, COMPLETE.encode()):
            remove(folder / DONE, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"cannot use {folder}: {error}: remove it") from error
    if first and coordinator.rules.stale_reports != "drop":
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


def put_once(path: Path, blob: bytes, root: Path) -> None:
    """Write a file that a killed coordinator may have written before; its content must then be the same."""
    try:
        present = get(path, len(blob), root)
    except ValueError as error:
        raise RunError(f"{path} differs from the file that this run would write: {error}") from error
    if present is not None and present != blob:
        raise RunError(f"{path} differs from the file that this run would write")
    if present is None:
        put(path, blob, SHARED, root)
