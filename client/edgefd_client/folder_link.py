"""`FolderLink`: a link (`edgefd_client.link.Link`) through a folder that the coordinator also sees."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from edgefd.core.errors import RunError, UserError
from edgefd.core.files import get, put
from edgefd.federation.terms import FederationTerms
from edgefd.wire import messages as wire
from edgefd.wire.exchange_folder import (
    ASKED,
    COMPLETE,
    DONE,
    FEDERATION,
    MAX_TEXT,
    PLAN,
    TEACHER,
    decode_clients,
    decode_info,
    report_file,
    round_folder,
)
from edgefd_client.link import Task

MAX_MESSAGE = 256 * 2**20


@dataclass(frozen=True)
class FolderLink:
    """Use `join`."""

    folder: Path
    client: int
    run: str
    poll: float

    def next_task(self, after: int) -> Task | None:
        """See `edgefd_client.link.Link`."""
        while True:
            over = _text(self.folder / DONE)
            if over == COMPLETE:
                return None
            if over is not None:
                raise RunError(f"the coordinator stopped: {over}")
            self._not_refused(after)
            newest = self._newest()
            if newest > after and self._asked(newest) and (task := self._task(newest)) is not None:
                return task
            time.sleep(self.poll)

    def submit(self, report: bytes, round: int) -> None:
        """See `edgefd_client.link.Link`."""
        path = report_file(self.folder, round, self.client)
        there = _bytes(path)
        if there is None:
            put(path, report)
        elif there != report:
            raise RunError(
                f"round {round} has another report of client {self.client} already: "
                "either two devices use that number, or this one lost its state"
            )

    def _newest(self) -> int:
        names = (path.parent.name for path in self.folder.glob(f"rounds/*/{PLAN}"))
        return max((int(name) for name in names if name.isdigit()), default=-1)

    def _asked(self, round: int) -> bool:
        blob = _bytes(round_folder(self.folder, round) / ASKED)
        try:
            return blob is None or self.client in decode_clients(blob)
        except ValueError as error:
            raise RunError(f"round {round}: cannot read who is asked: {error}") from error

    def _task(self, round: int) -> Task | None:
        """None where the teacher has not come yet, as on a copied folder."""
        here = round_folder(self.folder, round)
        plan, teacher = _bytes(here / PLAN), _bytes(here / TEACHER)
        if plan is None or (teacher is None and round > 0):
            return None
        try:
            task = Task(wire.decode_plan(plan), None if teacher is None else wire.decode(teacher))
        except ValueError as error:
            raise RunError(f"round {round}: cannot read what the coordinator sent: {error}") from error
        if task.plan.round != round:
            raise RunError(f"round {round} holds a plan of round {task.plan.round}")
        return task

    def _not_refused(self, round: int) -> None:
        path = report_file(self.folder, round, self.client).with_suffix(".refused")
        if round >= 0 and (reason := _text(path)) is not None:
            raise RunError(f"the coordinator refused the report of round {round}: {reason}")


def join(folder: Path, client: int, terms: FederationTerms, poll: float = 0.05) -> FolderLink:
    """Wait for the coordinator's federation.json; the link, if this device belongs to that federation.

    Args:
        folder: that the coordinator also sees.
        client: which client of the federation this device is.
        terms: of the device's bundle.
        poll: seconds between two looks at the folder.

    Raises:
        UserError: if the device was set up for another federation.
    """
    while (blob := _bytes(folder / FEDERATION)) is None:
        time.sleep(poll)
    info = decode_info(blob)
    if not 0 <= client < info.n_clients:
        raise UserError(f"--client must be from 0 to {info.n_clients - 1}, not {client}")
    if different := info.terms.differences(terms):
        raise UserError(
            f"the bundle is not of this federation ({', '.join(different)} differ): "
            "export it from the config that the server runs"
        )
    return FolderLink(folder, client, info.run, poll)


def _bytes(path: Path) -> bytes | None:
    try:
        return get(path, MAX_MESSAGE)
    except ValueError as error:
        raise RunError(str(error)) from error


def _text(path: Path) -> str | None:
    try:
        blob = get(path, MAX_TEXT)
    except ValueError as error:
        raise RunError(str(error)) from error
    return None if blob is None else " ".join(blob.decode(errors="replace").split())
