"""`FolderLink`: a link (`edgefd_client.link.Link`) through a folder that the coordinator shares."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import SHARED, get, put
from edgefd.core.text import shown
from edgefd.federation.terms import FederationInfo, FederationTerms
from edgefd.rounds.validation import ExpectedTask
from edgefd.wire import exchange_folder as layout
from edgefd_client.link import Membership, RunEnded, Task, check_terms, read_task


@dataclass(frozen=True)
class FolderLink:
    """Connection to a coordinator through an exchange folder. Create it with `join`."""

    folder: Path
    client: int
    membership: Membership
    poll: float

    def next_task(self, after: int, expected: ExpectedTask) -> Task | None:
        """Wait for the next round, see `edgefd_client.link.Link`."""
        while True:
            outcome = self._text(self.folder / layout.DONE)
            if outcome == layout.COMPLETE:
                return None
            if outcome is not None:
                raise RunEnded(f"the coordinator stopped: {outcome}")
            refused = layout.report_file(self.folder, after, self.client).with_suffix(".refused")
            if after >= 0 and (reason := self._text(refused)) is not None:
                raise RunError(f"the coordinator refused the report of round {after}: {reason}")
            names = (path.parent.name for path in self.folder.glob(f"rounds/*/{layout.PLAN}"))
            newest = max((int(name) for name in names if re.fullmatch(r"[0-9]{4,9}", name)), default=-1)
            if newest > after and self._sampled(newest) and (task := self._task(newest, expected)) is not None:
                return task
            time.sleep(self.poll)

    def submit(self, report: bytes, round: int) -> None:
        """Write a report, see `edgefd_client.link.Link`."""
        path = layout.report_file(self.folder, round, self.client)
        present = self._bytes(path, max(len(report), layout.MAX_TEXT))
        if present is None:
            put(path, report, SHARED, self.folder)
        elif present != report:
            raise RunError(
                f"round {round} already has another report of client {self.client}: "
                "either two devices use this client number, or this device lost its state"
            )

    def _sampled(self, round: int) -> bool:
        blob = self._bytes(layout.round_folder(self.folder, round) / layout.ASKED)
        try:
            return blob is None or self.client in layout.decode_clients(blob)
        except ValueError as error:
            raise RunError(f"round {round}: cannot read the list of sampled clients: {shown(error)}") from error

    def _task(self, round: int, expected: ExpectedTask) -> Task | None:
        """Read the task of a round; None if the teacher is still missing, which happens while a folder is copied."""
        files = layout.round_folder(self.folder, round)
        plan = self._bytes(files / layout.PLAN, expected.largest)
        teacher = self._bytes(files / layout.TEACHER, expected.largest)
        if plan is None or (teacher is None and round > 0):
            return None
        task = read_task(plan, teacher, expected, f"round {round}: ")
        if task.plan.round != round:
            raise RunError(f"the folder of round {round} holds a plan of round {task.plan.round}")
        return task

    def _bytes(self, path: Path, limit: int = layout.MAX_TEXT) -> bytes | None:
        return _bytes(path, self.folder, limit)

    def _text(self, path: Path) -> str | None:
        blob = self._bytes(path)
        return None if blob is None else shown(blob.decode(errors="replace"))


def join(
    folder: Path, client: int, terms: FederationTerms, poll: float = 0.05, finished: str | None = None
) -> FolderLink:
    """Wait for the coordinator's federation.json and return a link to this federation.

    Args:
        folder: the exchange folder.
        client: number of this client.
        terms: those of the device's bundle.
        poll: seconds between two reads of the folder.
        finished: the run that the device has finished: wait for another one. None = take part in any.

    Raises:
        UserError: if the client number or the bundle does not belong to this federation.
    """
    while (info := _federation(folder)) is None or info.run == finished:
        time.sleep(poll)
    if not 0 <= client < info.n_clients:
        raise UserError(f"--client must be from 0 to {info.n_clients - 1}, not {client}")
    check_terms(info.terms, terms, "export it from the config that the coordinator runs")
    return FolderLink(folder, client, Membership(info.run, info.terms), poll)


def _federation(folder: Path) -> FederationInfo | None:
    blob = _bytes(folder / layout.FEDERATION, folder)
    return None if blob is None else layout.decode_info(blob)


def _bytes(path: Path, folder: Path, limit: int = layout.MAX_TEXT) -> bytes | None:
    try:
        return get(path, limit, folder)
    except ValueError as error:
        raise RunError(str(error)) from error
