"""`OpenRound` and `RoundInbox`: a round that is open, and the reports that were accepted for it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import digest_of
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.wire import messages as wire


@dataclass(frozen=True, eq=False)
class OpenRound:
    """An open round: its plan, its teacher and the clients that it asks."""

    plan: RoundPlan
    teacher: bytes | None
    """a serialised Knowledge; None in round 0"""
    asked: Sequence[int]
    """the clients that are asked for a report, ascending"""
    began: float
    """time of the opening, by the coordinator's clock, in seconds"""
    changes: Callable[[bytes], bytes | None] | None = None
    """returns the teacher for a client that holds the one with a digest; None = all clients get `teacher`"""
    held: Mapping[int, Knowledge] = field(default_factory=dict)
    """newest knowledge of each client that the coordinator holds, if the federation sends only changes"""
    sent_bytes: dict[int, int] = field(default_factory=dict)
    """bytes of the teacher that each client got"""

    @functools.cached_property
    def encoded_plan(self) -> bytes:
        """The serialised plan, which all clients get."""
        return wire.encode_plan(self.plan)

    def held_digest(self, client: int | None) -> bytes:
        """Return the digest of the knowledge that the coordinator holds of a client; empty = none."""
        return digest_of(None if client is None else self.held.get(client))

    def teacher_for(self, client: int | None, held: bytes) -> bytes | None:
        """Return the teacher for a client that holds the one with the digest `held`; empty = none."""
        message = self.teacher if self.changes is None else self.changes(held)
        if client is not None:
            self.sent_bytes[client] = len(message or b"")
        return message

    @property
    def bytes_down(self) -> int:
        """Bytes of the teachers that the asked clients got; one that has not fetched it counts as the whole teacher."""
        return sum(self.sent_bytes.get(client, len(self.teacher or b"")) for client in self.asked)


@dataclass(eq=False)
class RoundInbox:
    """A round and the reports that were accepted for it."""

    opened: OpenRound
    reports: dict[int, Report] = field(default_factory=dict)
    late: dict[int, Report] = field(default_factory=dict)
    """reports that came after the round was closed, by client: those that the next round counts"""
    digests: dict[int, bytes] = field(default_factory=dict)
    """sha256 of every accepted report, by client"""
    refused: dict[int, str] = field(default_factory=dict)
    """reason, in words, for which the last report of a client was refused; its corrected report may still come"""
    closed: bool = False
    """whether the round is over"""
