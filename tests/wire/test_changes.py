"""Messages that hold only changes: lost, repeated and late ones leave no two sides with different rows."""

from dataclasses import replace

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb

from edgefd.core.knowledge import Knowledge
from edgefd.federation.changes import Changes, Published, changes_since, digest_of, published
from edgefd.wire.codecs import BLOCKED, CODECS
from edgefd.wire.expected import UnexpectedContent, UnknownBase
from edgefd.wire.messages import decode, encode, rounded
from tests.support.expectations import shape
from tests.support.votes import votes

ROWS, WIDTH, ROUNDS = 12, 3, 6
CODECS_OF_CHANGES = sorted(set(CODECS) - BLOCKED)
QUICK = sorted(set(CODECS_OF_CHANGES) - {"simplex15"})
"""codecs that encode a few rows in little time"""


def labels(rng: np.random.Generator, state: dict[str, np.ndarray]) -> Knowledge:
    """Return labels of some rows. `state` holds those of all rows, of which a third change."""
    changed, present = rng.random(ROWS) < 0.3, rng.random(ROWS) < 0.8
    fresh = rng.dirichlet(np.ones(WIDTH), ROWS)
    state["values"] = np.where(changed[:, None], fresh, state.get("values", fresh))
    state["weights"] = np.where(changed & present, 1 - rng.random(ROWS) / 2, state.get("weights", np.ones(ROWS)))
    return Knowledge(np.flatnonzero(present), state["values"][present], state["weights"][present])


def exchanges(seed: int, codecs: list[str]) -> tuple[int, int]:
    """Send labels over a bad link in some rounds; return the numbers of messages and of those that held only changes.

    Each message is lost, received, received twice or received with a copy of the message before. Now and then a side
    loses its state. After each round in which a message came, the receiver holds what the sender published.
    """
    rng = np.random.default_rng(seed)
    codec, above = codecs[seed % len(codecs)], (0.0, 0.2)[int(rng.integers(2))]
    sent: Published | None = None
    held: Knowledge | None = None
    state, older, n_messages, n_changes = dict[str, np.ndarray](), b"", 0, 0
    for round in range(ROUNDS):
        if rng.random() < 0.1:
            sent = None
        if rng.random() < 0.1:
            held = None
        told = digest_of(held)  # the receiver says what it holds when it asks
        sent = published(sent, rounded(labels(rng, state), codec), round, above)
        message = encode(sent.knowledge, codec, changes_since(sent, told))
        n_messages, n_changes = n_messages + 1, n_changes + bool(pb.Knowledge.FromString(message).base)
        fate = ("lost", "received", "twice", "with an older one")[int(rng.integers(4))]
        if fate == "lost":
            older = message
            continue
        if fate == "with an older one" and older:
            before = held
            try:
                held = decode(older, replace(shape(WIDTH, codec, ROWS), held=held))
                assert digest_of(held) != told or held.equals(before)  # only a whole message replaces other rows
                held = before  # a receiver takes only the message of the open round
            except UnknownBase:
                assert held is before
        held = decode(message, replace(shape(WIDTH, codec, ROWS), held=held))
        assert held.equals(sent.knowledge)
        if fate == "twice" and pb.Knowledge.FromString(message).base and digest_of(held) != told:
            with pytest.raises(UnknownBase):
                decode(message, replace(shape(WIDTH, codec, ROWS), held=held))
        older = message
    return n_messages, n_changes


def test_two_sides_never_hold_different_rows() -> None:
    counts = np.array([exchanges(seed, CODECS_OF_CHANGES) for seed in range(60)]).sum(0)
    assert counts[1] > counts[0] / 3


@pytest.mark.slow
def test_two_sides_never_hold_different_rows_in_ten_thousand_sequences() -> None:
    for seed in range(60, 10_060):
        exchanges(seed, QUICK)


@pytest.mark.parametrize("codec", CODECS_OF_CHANGES)
def test_the_shorter_of_changes_and_all_rows_is_sent(codec: str) -> None:
    rng = np.random.default_rng(0)
    rows = rounded(Knowledge(np.arange(200), rng.dirichlet(np.ones(9), 200).astype(np.float32), np.ones(200)), codec)
    sent = published(None, rows, 0, 0.0)
    few = Knowledge(rows.ids, np.where(rows.ids[:, None] == 3, rows.values[4], rows.values), rows.weights)
    sent = published(sent, few, 1, 0.0)
    held = replace(shape(9, codec, 200), held=rows)
    changes = changes_since(sent, digest_of(rows))
    message = encode(sent.knowledge, codec, changes)
    assert len(message) < len(encode(sent.knowledge, codec)) / 10
    assert decode(message, held).equals(few)
    others = rounded(Knowledge(rows.ids, rows.values[::-1], rows.weights), codec)
    sent = published(sent, others, 2, 0.0)
    message = encode(others, codec, changes_since(sent, digest_of(few)))
    assert message == encode(others, codec)


def test_changes_of_other_knowledge_are_refused() -> None:
    held = votes([1, 2], [[1, 0, 0], [0, 1, 0]])
    message = pb.Knowledge.FromString(encode(held, "float32"))
    message.base = b"12345678"
    data = message.SerializeToString()
    for other in (None, held):
        with pytest.raises(UnknownBase, match="does not hold"):
            decode(data, replace(shape(3), held=other))


@pytest.mark.parametrize(
    ("removed", "error"),
    [
        ([1, 0], "unique and ascending"),
        ([1], "must not be sent"),
        ([1] * 13, "removes 13 rows"),
    ],
)
def test_removed_rows_are_checked(removed: list[int], error: str) -> None:
    held = votes([1, 2], [[1, 0, 0], [0, 1, 0]])
    message = pb.Knowledge.FromString(encode(votes([1], [[0, 1, 0]]), "float32"))
    message.base = digest_of(held)
    message.removed_gaps.extend(removed)
    with pytest.raises(ValueError, match=error):
        decode(message.SerializeToString(), replace(shape(3), held=held))


def test_a_whole_message_removes_nothing() -> None:
    message = pb.Knowledge.FromString(encode(votes([1], [[0, 1, 0]]), "float32"))
    message.removed_gaps.append(2)
    with pytest.raises(ValueError, match="does not say of which"):
        decode(message.SerializeToString(), shape(3))


def test_rows_that_stay_must_be_expected_too() -> None:
    held = votes([1, 2], [[1, 0, 0], [0, 1, 0]])
    changes = Changes(digest_of(held), votes([1], [[0, 1, 0]]), np.empty(0, np.int64))
    message = pb.Knowledge.FromString(encode(changes.rows, "float32"))
    message.base = changes.base
    with pytest.raises(UnexpectedContent, match="row 2 was not queried"):
        decode(message.SerializeToString(), replace(shape(3, rows=2), held=held))
    with pytest.raises(UnexpectedContent, match="2 of 12 rows"):
        decode(message.SerializeToString(), replace(shape(3), held=held, complete=True))
