"""`FolderTransport`: rounds through an exchange folder (`edgefd.wire.exchange_folder`) that devices see too.

Every report is checked.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
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

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class FolderTransport:
    """A transport (`edgefd.rounds.loop.Transport`) through an exchange folder. Use `open_folder`."""

    folder: Path
    """the exchange folder"""
    info: FederationInfo
    """the run, its number of clients and its terms"""
    timeout: float
    """seconds that a round may take"""
    rules: ParticipationConfig = field(default_factory=ParticipationConfig)
    """conditions under which a round may end before all its clients have reported"""
    poll: float = 0.05
    """seconds between two readings of the folder"""
    clock: Callable[[], float] = time.monotonic
    """returns the time in seconds"""
    sleep: Callable[[float], None] = time.sleep
    """waits for so many seconds"""

    def exchange(self, plan: RoundPlan, sampled: Sequence[int], teacher: Knowledge | None) -> Exchange:
        """Run one round. See `edgefd.rounds.loop.Transport`.

        A report that fails a check is refused with the reason, and the round continues to wait. A round that is already
        in the folder, left by a coordinator that was killed, continues, and its deadline starts again.

        Raises:
            RunError: if too few clients have reported in time, or the folder cannot be used.
        """
        try:
            return self._exchange(plan, sampled, teacher)
        except OSError as error:
            raise RunError(f"round {plan.round}: cannot use {self.folder}: {error.strerror}") from error

    def finish(self, outcome: str) -> None:
        """Announce the end of the run to the devices.

        Args:
            outcome: `edgefd.wire.exchange_folder.COMPLETE`, or the reason why the run stopped.

        Raises:
            RunError: if it cannot be written.
        """
        try:
            put(self.folder / DONE, outcome.encode())
        except OSError as error:
            raise RunError(f"cannot tell the devices that the run is over: {error.strerror}") from error

    def _exchange(self, plan: RoundPlan, cohort: Sequence[int], teacher: Knowledge | None) -> Exchange:
        folder = round_folder(self.folder, plan.round)
        (folder / "reports").mkdir(parents=True, exist_ok=True)
        data = None if teacher is None else wire.encode(teacher, self.info.terms.codec)
        if data is not None:
            _put_once(folder / TEACHER, data)
        if len(cohort) < self.info.n_clients:
            _put_once(folder / ASKED, encode_clients(cohort))
        _put_once(folder / PLAN, wire.encode_plan(plan))
        reports = self._collect(plan, cohort)
        put(folder / COUNTED, encode_clients(r.client for r in reports))
        reports = add_stale_reports(self.rules, reports, self._late(plan))
        return count_exchange(reports, teacher, data, len(cohort))

    def _all_clients(self) -> range:
        return range(self.info.n_clients)

    def _collect(self, plan: RoundPlan, cohort: Sequence[int]) -> list[Report]:
        """Read reports until the round is over, and return them."""
        reports: dict[int, Report] = {}
        refused: dict[int, tuple[int, ...]] = {}  # identity of each client's refused file: a new file is read again
        began = self.clock()
        while True:
            for client in cohort:
                path = report_file(self.folder, plan.round, client)
                if client in reports or (identity := _identity(path)) is None or identity == refused.get(client):
                    continue
                try:
                    reports[client] = self._read(path, plan, client)
                    path.with_suffix(".refused").unlink(missing_ok=True)
                except ValueError as error:
                    refused[client] = identity
                    _refuse(path, error)
            seconds = self.clock() - began
            if quorum_reached(self.rules, len(cohort), len(reports), seconds):
                return list(reports.values())
            if seconds > self.timeout:
                raise RunError(self._missing_reports(plan, cohort, reports, refused))
            self.sleep(self.poll)

    def _late(self, plan: RoundPlan) -> list[Report]:
        """Return valid reports of the previous round that came after it was closed. The others stay in the folder."""
        if plan.round == 0 or plan.closing or self.rules.stale_reports == "drop":
            return []
        previous, folder = replace(plan, round=plan.round - 1), round_folder(self.folder, plan.round - 1)
        cohort, in_time = self._clients(folder / ASKED), self._clients(folder / COUNTED)
        late = []
        for client in (c for c in cohort if c not in in_time):
            path = report_file(self.folder, previous.round, client)
            if _identity(path) is None:
                continue
            try:
                late.append(self._read(path, previous, client))
            except ValueError as error:
                _refuse(path, error)
        return late

    def _clients(self, path: Path) -> Sequence[int]:
        try:
            blob = get(path, MAX_TEXT)
            return self._all_clients() if blob is None else decode_clients(blob)
        except ValueError as error:
            raise RunError(f"cannot read {path}: {error}") from error

    def _read(self, path: Path, plan: RoundPlan, client: int) -> Report:
        n_classes = self.info.terms.n_classes
        try:
            data = get(path, largest_report(plan, n_classes))
        except OSError as error:
            raise ValueError(f"the report cannot be read: {error.strerror}") from error
        if data is None:
            raise ValueError("the report was removed")
        report = wire.decode_report(data)
        check_report(get_method(self.info.terms.method), report, plan, (client,), n_classes)
        return report

    def _missing_reports(
        self, plan: RoundPlan, cohort: Sequence[int], reports: dict[int, Report], refused: dict[int, tuple[int, ...]]
    ) -> str:
        missing = [str(c) for c in cohort if c not in reports and c not in refused]
        invalid = [str(c) for c in sorted(refused) if c not in reports]
        parts = [f"no report of client {', '.join(missing)}"] * bool(missing)
        parts += [f"refused the report of client {', '.join(invalid)} (see reports/*.refused)"] * bool(invalid)
        return f"round {plan.round}: {len(reports)} of {len(cohort)} reports after {self.timeout:g} s: " + (
            "; ".join(parts)
        )


def open_folder(
    folder: Path, info: FederationInfo, timeout: float, rules: ParticipationConfig | None = None
) -> FolderTransport:
    """Open the exchange in a folder to the devices. An exchange that another coordinator left there is reopened.

    Args:
        folder: the exchange folder.
        info: the run, its number of clients and its terms.
        timeout: seconds that a round may take.
        rules: conditions under which a round may end before all its clients have reported; None = it may not.

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
    """Check that a folder holds no exchange.

    Raises:
        UserError: if it does.
    """
    if any((folder / name).exists() for name in (FEDERATION, "rounds", "checkpoint.bin")):
        raise UserError(
            f"{folder} already holds an exchange: choose another folder, remove it, or continue it with --resume"
        )


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


def _refuse(path: Path, error: ValueError) -> None:
    """Write the reason for which a report is refused in a file next to it."""
    logger.debug("refused %s: %s", path, error)
    put(path.with_suffix(".refused"), f"{error}\n".encode())


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return values that change when a file is replaced; None if it does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
