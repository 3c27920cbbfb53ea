"""`Link`: the connection of a device to its coordinator, through a folder or over gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from edgefd.core.errors import RunError, UserError
from edgefd.core.knowledge import Knowledge
from edgefd.core.text import shown
from edgefd.federation.plan import RoundPlan
from edgefd.federation.terms import FederationTerms
from edgefd.rounds.validation import ExpectedTask
from edgefd.wire import messages as wire

GIVE_UP = 3600
"""seconds without an answer of the coordinator after which a device stops; default of --give-up"""


@dataclass(frozen=True, eq=False)
class Task:
    """A round that the coordinator assigns to a device."""

    plan: RoundPlan
    teacher: Knowledge | None
    """teacher of the last round; None in round 0"""
    held: bytes = b""
    """digest of the newest knowledge of this client that the coordinator holds; empty = none"""


@dataclass(frozen=True)
class Membership:
    """A run in which a device takes part."""

    run: str
    """identifier of the run; the saved state of a device belongs to one run"""
    terms: FederationTerms
    """terms of the coordinator, which identify the same federation as those of the bundle"""


class RunEnded(RunError):
    """The run of a device is over before it was complete: the coordinator stopped, or serves another run."""


class Link(Protocol):
    """Connection of a device to its coordinator, for one client in one run."""

    @property
    def membership(self) -> Membership:
        """The run that the device has joined."""
        ...

    def next_task(self, after: int, expected: ExpectedTask) -> Task | None:
        """Wait for a round that is later than `after` and samples this client. Return None when the run is complete.

        Raises:
            RunEnded: if the coordinator stopped, or serves another run.
            RunError: if the coordinator refused this client's report, or the task is not as expected.
        """
        ...

    def submit(self, report: bytes, round: int) -> None:
        """Send the report of a round (`edgefd.wire.messages.encode_report`). The same bytes may be sent again.

        Raises:
            RunError: if the round already has a different report of this client.
        """
        ...


@contextmanager
def reading(where: str = "") -> Iterator[None]:
    """Convert the error of a malformed message into a `RunError`, whose text begins with `where`."""
    try:
        yield
    except ValueError as error:
        raise RunError(f"{where}cannot read the message of the coordinator: {shown(error)}") from error


def read_task(plan: bytes, teacher: bytes | None, expected: ExpectedTask, where: str = "", held: bytes = b"") -> Task:
    """Decode a task.

    Raises:
        RunError: if a message is malformed or not as expected; the text begins with `where`.
    """
    with reading(where):
        decoded = None if teacher is None else wire.decode(teacher, expected.teacher)
        return Task(wire.decode_plan(plan, expected.n_proxy), decoded, held)


def check_terms(coordinator: FederationTerms, device: FederationTerms, advice: str) -> None:
    """Check that the bundle of a device belongs to the coordinator's federation.

    Raises:
        UserError: if not; the text ends with `advice`.
    """
    if different := coordinator.differences(device):
        raise UserError(f"the bundle is not of this federation ({', '.join(different)} differ): {advice}")
