"""`FolderTransport`: rounds through a folder (`edgefd.wire.exchange_folder`) that devices also see; every report is checked."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, put
from edgefd.core.knowledge import Knowledge
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Exchange, Report, count_exchange
from edgefd.federation.terms import FederationInfo
from edgefd.methods import get_method
from edgefd.rounds.participation import ParticipationConfig, add_stale_reports, quorum_reached
from edgefd.rounds.validation import check_report, largest_report
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


@dataclass(frozen=True, eq=False)
class FolderTransport:
    """A transport (`edgefd.rounds.loop.Transport`). Use `open_folder`."""

    folder: Path
    info: FederationInfo
    timeout: float
    """seconds that a round may take"""
    rules: ParticipationConfig = field(default_factory=ParticipationConfig)
    """when a round may end without everybody"""
    poll: float = 0.05
    """seconds between two looks at the folder"""

    def exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        """See `edgefd.rounds.loop.Transport`. A report that fails a check is refused with its reason; the round waits on.

        A round that is in the folder already, of a coordinator that was killed, goes on: its deadline begins anew.

        Raises:
            RunError: if clients have not answered in time, or the folder cannot be used.
        """
        try:
            return self._exchange(plan, teacher)
        except OSError as error:
            raise RunError(f"round {plan.round}: cannot use {self.folder}: {error.strerror}") from error

    def finish(self, how: str) -> None:
        """Tell the devices that the run is over: `edgefd.wire.exchange_folder.COMPLETE`, or why it stopped."""
        try:
            put(self.folder / DONE, how.encode())
        except OSError as error:
            raise RunError(f"cannot tell the devices that the run is over: {error.strerror}") from error

    def _exchange(self, plan: RoundPlan, teacher: Knowledge | None) -> Exchange:
        here = round_folder(self.folder, plan.round)
        (here / "reports").mkdir(parents=True, exist_ok=True)
        data = None if teacher is None else wire.encode(teacher, self.info.terms.codec)
        asked = self._everyone() if plan.clients is None else plan.clients
        if data is not None:
            _put_once(here / TEACHER, data)
        if len(asked) < self.info.n_clients:
            _put_once(here / ASKED, encode_clients(asked))
        _put_once(here / PLAN, wire.encode_plan(plan))
        reports = self._collect(plan, asked)
        put(here / COUNTED, encode_clients(r.client for r in reports))
        reports = add_stale_reports(self.rules, reports, self._late(plan))
        return count_exchange(reports, teacher, data, len(asked))

    def _everyone(self) -> range:
        return range(self.info.n_clients)

    def _collect(self, plan: RoundPlan, asked: Sequence[int]) -> list[Report]:
        found: dict[int, Report] = {}
        refused: dict[int, tuple[int, ...]] = {}  # which file it was: another one is looked at again
        began = time.monotonic()
        while True:
            for client in asked:
                path = report_file(self.folder, plan.round, client)
                if client in found or (seen := _identity(path)) is None or seen == refused.get(client):
                    continue
                try:
                    found[client] = self._read(path, plan, client)
                    path.with_suffix(".refused").unlink(missing_ok=True)
                except ValueError as error:
                    refused[client] = seen
                    put(path.with_suffix(".refused"), f"{error}\n".encode())
            seconds = time.monotonic() - began
            if quorum_reached(self.rules, len(asked), len(found), seconds):
                return list(found.values())
            if seconds > self.timeout:
                raise RunError(self._missing(plan, asked, found, refused))
            time.sleep(self.poll)

    def _late(self, plan: RoundPlan) -> list[Report]:
        """Reports of the round before that came when it was closed; those that fail a check are left where they are."""
        if plan.round == 0 or plan.closing or self.rules.stale_reports == "drop":
            return []
        before, here = replace(plan, round=plan.round - 1), round_folder(self.folder, plan.round - 1)
        asked, in_time = self._clients(here / ASKED), self._clients(here / COUNTED)
        late = []
        for client in (c for c in asked if c not in in_time):
            path = report_file(self.folder, before.round, client)
            if _identity(path) is None:
                continue
            try:
                late.append(self._read(path, before, client))
            except ValueError as error:
                put(path.with_suffix(".refused"), f"{error}\n".encode())
        return late

    def _clients(self, path: Path) -> Sequence[int]:
        try:
            blob = get(path, MAX_TEXT)
            return self._everyone() if blob is None else decode_clients(blob)
        except ValueError as error:
            raise RunError(f"cannot read {path}: {error}") from error

    def _read(self, path: Path, plan: RoundPlan, client: int) -> Report:
        n_classes = self.info.terms.n_classes
        try:
            data = get(path, largest_report(plan, n_classes))
        except OSError as error:
            raise ValueError(f"the report cannot be read: {error.strerror}") from error
        if data is None:
            raise ValueError("the report was taken away")
        report = wire.decode_report(data)
        check_report(get_method(self.info.terms.method), report, plan, (client,), n_classes)
        return report

    def _missing(
        self, plan: RoundPlan, asked: Sequence[int], found: dict[int, Report], refused: dict[int, tuple[int, ...]]
    ) -> str:
        silent = [str(c) for c in asked if c not in found and c not in refused]
        bad = [str(c) for c in sorted(refused) if c not in found]
        parts = [f"no report of client {', '.join(silent)}"] * bool(silent)
        parts += [f"refused that of client {', '.join(bad)} (see reports/*.refused)"] * bool(bad)
        return f"round {plan.round}: {len(found)} of {len(asked)} reports after {self.timeout:g} s: " + (
            "; ".join(parts)
        )


def open_folder(
    folder: Path, info: FederationInfo, timeout: float, rules: ParticipationConfig | None = None
) -> FolderTransport:
    """The exchange in `folder`, announced to the devices; one that a coordinator left is open again.

    Raises:
        UserError: if the folder cannot be written.
        RunError: if it holds another exchange.
    """
    try:
        _put_once(folder / FEDERATION, encode_info(info))
        if get(folder / DONE, MAX_TEXT) not in (None, COMPLETE.encode()):
            (folder / DONE).unlink()
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from error
    return FolderTransport(folder, info, timeout, rules or ParticipationConfig())


def check_new(folder: Path) -> None:
    """Whether a new exchange may be made there.

    Raises:
        UserError: if the folder holds one already.
    """
    if any((folder / name).exists() for name in (FEDERATION, "rounds", "checkpoint.bin")):
        raise UserError(f"{folder} holds an exchange already: choose another folder, remove it, or go on with --resume")


def _put_once(path: Path, blob: bytes) -> None:
    """Write what may be there already, of a coordinator that was killed: then it must be the same."""
    try:
        there = get(path, len(blob))
    except ValueError as error:
        raise RunError(f"{path} holds something else than this run would write: {error}") from error
    if there is not None and there != blob:
        raise RunError(f"{path} holds something else than this run would write")
    if there is None:
        put(path, blob)


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
