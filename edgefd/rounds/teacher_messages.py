"""`TeacherMessages`: the teacher of a round as it is sent to each client, whole or as changes."""

from __future__ import annotations

from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import Published, changes_since
from edgefd.wire import messages as wire


class TeacherMessages:
    """The teacher of a round, encoded at most once for each state that clients hold.

    Args:
        teacher: the teacher; None in round 0.
        codec: name of the codec.
        published: the teachers that were published so far; None = all rows are sent to each client.
    """

    def __init__(self, teacher: Knowledge | None, codec: str, published: Published | None = None) -> None:
        self.complete = None if teacher is None else wire.encode(teacher, codec)
        """the teacher with all its rows"""
        self._teacher, self._codec, self._published = teacher, codec, published
        self._shorter: dict[bytes, bytes] = {}

    def to(self, held: bytes) -> bytes | None:
        """Return the message for a client that holds the teacher with the digest `held`; empty = none."""
        if self._teacher is None or self._published is None:
            return self.complete
        if held not in self._shorter:
            changes = changes_since(self._published, held)
            if changes is None:
                return self.complete
            self._shorter[held] = wire.encode(self._teacher, self._codec, changes)
        return self._shorter[held]
