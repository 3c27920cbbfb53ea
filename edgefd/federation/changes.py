"""Send only what changed: rows that differ from the row that the receiver holds, and the ids of removed rows.

A sender publishes its knowledge round by round. A row whose label has hardly moved since it was published is published
again as it was, so the error of a row never exceeds the threshold, and nothing drifts. A receiver that holds an earlier
state needs only the rows that were published anew after it. The two sides name a state by its digest, so a lost or
repeated message, or a device that was reset, never leaves them with different rows: a sender that does not know the
digest sends all rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgefd.core.arrays import Bool, Int64
from edgefd.core.knowledge import Knowledge, replaced

DIGEST_BYTES = 8
"""bytes of a digest: states of one sender are compared, not secrets"""
_MOST_STATES = 256  # earlier states that a sender remembers


@dataclass(frozen=True, eq=False)
class Changes:
    """The difference between two states of the knowledge of one sender."""

    base: bytes
    """digest of the state that the receiver holds"""
    rows: Knowledge
    """rows that are new or have changed since then"""
    removed: Int64
    """ids of rows that were removed since then, ascending, int64 [m]; some may not be in the state of the receiver"""


@dataclass(frozen=True, eq=False)
class Published:
    """The newest state of the knowledge that a sender has published, and when each row changed."""

    knowledge: Knowledge
    rounds: Int64
    """round in which each row was published as it is now, int64 [n]"""
    removed: Int64
    """ids of rows that earlier states had, ascending, int64 [m]"""
    removed_rounds: Int64
    """round in which each of them was removed, int64 [m]"""
    states: npt.NDArray[np.uint8]
    """digests of the newest states, uint8 [k, 8], the newest last"""
    state_rounds: Int64
    """round of each of them, int64 [k]"""

    def __post_init__(self) -> None:
        sizes = (len(self.knowledge) == len(self.rounds), len(self.removed) == len(self.removed_rounds))
        if not all(sizes) or self.states.shape != (len(self.state_rounds), DIGEST_BYTES):
            raise ValueError(
                "published knowledge needs one round for each row, for each removed row and for each state"
            )

    @property
    def digest(self) -> bytes:
        """Digest of the newest state."""
        return bytes(self.states[-1])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all fields as arrays by name, for a file."""
        fields = {name: value for name, value in vars(self).items() if name != "knowledge"}
        return fields | vars(self.knowledge)


@dataclass(frozen=True, eq=False)
class Exchanged:
    """The knowledge that a server has published and received, if a federation sends only changes."""

    teacher: Published | None = None
    """teachers that the server has published; None before the first one"""
    reports: Mapping[int, Knowledge] = field(default_factory=dict)
    """knowledge in the newest report of each client, by client"""


NOTHING_EXCHANGED = Exchanged()
"""of a federation that sends all rows"""


def published_of(arrays: Mapping[str, np.ndarray]) -> Published:
    """Return published knowledge from the arrays of `Published.to_arrays`.

    Raises:
        KeyError, ValueError: if arrays are missing or do not fit together.
    """
    fields = dict(arrays)
    return Published(Knowledge(*(fields.pop(name) for name in ("ids", "values", "weights"))), **fields)


def digest_of(knowledge: Knowledge | None) -> bytes:
    """Return the digest of a state; b"" for None. Knowledge without rows has a digest too.

    It is the first 8 bytes of the SHA-256 of ids (int64), values and weights (float32), all little-endian.
    """
    if knowledge is None:
        return b""
    digest = hashlib.sha256(knowledge.ids.astype("<i8").tobytes())
    digest.update(knowledge.values.astype("<f4").tobytes())
    digest.update(knowledge.weights.astype("<f4").tobytes())
    return digest.digest()[:DIGEST_BYTES]


def published(before: Published | None, new: Knowledge, round: int, above: float) -> Published:
    """Return what a sender publishes in a round.

    Row i is published anew if it is new, if (1/2) sum_k |p_i[k] - q_i[k]| > `above`, where p_i is the row of `new` and
    q_i the published one, or if its weight differs by more than `above`. Otherwise it stays as it was published.

    Args:
        before: what was published before; None = nothing.
        new: knowledge of this round, rounded by the codec as a receiver decodes it.
        round: number of the round, larger than all before.
        above: total variation distance in [0, 1) above which a row counts as changed; 0 = any difference.
    """
    if before is None:
        removed = np.empty(0, np.int64)
        states, state_rounds = np.empty((0, DIGEST_BYTES), np.uint8), removed
        before = Published(new.rows(np.zeros(len(new), np.bool_)), removed, removed, removed, states, state_rounds)
    old = before.knowledge
    places = np.searchsorted(old.ids, new.ids)
    known = np.isin(new.ids, old.ids)
    same = known.copy()
    same[known] = ~_moved(old, places[known], new.rows(known), above)
    values, weights, rounds = new.values.copy(), new.weights.copy(), np.full(len(new), round)
    stays = places[same]
    values[same], weights[same], rounds[same] = old.values[stays], old.weights[stays], before.rounds[stays]
    knowledge = Knowledge(new.ids, values, weights)
    removed, removed_rounds = _removed(before, new.ids, round)
    digest = np.frombuffer(digest_of(knowledge), np.uint8)[None]
    states = np.concatenate([before.states, digest])[-_MOST_STATES:]
    state_rounds = np.append(before.state_rounds, round)[-_MOST_STATES:]
    return Published(knowledge, rounds, removed, removed_rounds, states, state_rounds)


def changes_since(sent: Published, base: bytes) -> Changes | None:
    """Return what has changed since the state with the digest `base`; None if the sender does not know this state."""
    same = [i for i, state in enumerate(sent.states) if bytes(state) == base]
    if not same:
        return None
    since = sent.state_rounds[same[-1]]
    return Changes(base, sent.knowledge.rows(sent.rounds > since), sent.removed[sent.removed_rounds > since])


def applied(held: Knowledge, changes: Changes) -> Knowledge:
    """Return the newer state of the knowledge that a receiver holds.

    A removed row need not be held: the sender may have added and removed it since.

    Raises:
        ValueError: if a removed row is sent as well.
    """
    if np.isin(changes.removed, changes.rows.ids).any():
        raise ValueError("a removed row must not be sent as well")
    stays = ~(np.isin(held.ids, changes.rows.ids) | np.isin(held.ids, changes.removed))
    return replaced(held, stays, changes.rows)


def _moved(old: Knowledge, places: Int64, new: Knowledge, above: float) -> Bool:
    distances = np.abs(new.values.astype(np.float64) - old.values[places]).sum(1) / 2
    moved: Bool = (distances > above) | (np.abs(new.weights.astype(np.float64) - old.weights[places]) > above)
    return moved


def _removed(before: Published, present: Int64, round: int) -> tuple[Int64, Int64]:
    """Return the ids of rows that were published once and are absent now, and the round in which each was removed."""
    absent = ~np.isin(before.removed, present)
    gone = before.knowledge.ids[~np.isin(before.knowledge.ids, present)]
    ids = np.concatenate([before.removed[absent], gone])
    rounds = np.concatenate([before.removed_rounds[absent], np.full(len(gone), round)])
    order = ids.argsort()
    return ids[order], rounds[order]
