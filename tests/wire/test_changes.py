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

ROWS, WIDTH = 12, 3


def labels(rng: np.random.Generator, before: Knowledge | None) -> Knowledge:
    """Return labels of some rows, most of them like those before."""
    ids = np.flatnonzero(rng.random(ROWS) < 0.8)
    values = rng.dirichlet(np.ones(WIDTH), len(ids)).astype(np.float32)
    weights = np.where(rng.random(len(ids)) < 0.8, 1, 1 - rng.random(len(ids))).astype(np.float32)
    if before is not None:
        for i, row in enumerate(ids):
            at = np.flatnonzero(before.ids == row)
            if len(at) and rng.random() < 0.7:
                values[i], weights[i] = before.values[at[0]], before.weights[at[0]]
    return Knowledge(ids, values.reshape(len(ids), WIDTH), weights)


CODECS_OF_CHANGES = sorted(set(CODECS) - BLOCKED)


def exchanges(seed: int) -> tuple[int, int]:
    """Send labels over a bad link in some rounds; return the numbers of messages and of those that held only changes.

    Each message is lost, received, received twice or received with a copy of the message before. Now and then a side
    loses its state. After each round in which a message came, the receiver holds what the sender published.
    """
    rng = np.random.default_rng(seed)
    codec, above = str(rng.choice(CODECS_OF_CHANGES)), float(rng.choice([0.0, 0.2]))
    sent: Published | None = None
    held: Knowledge | None = None
    new, older, n_messages, n_changes = None, b"", 0, 0
    for round in range(8):
        if rng.random() < 0.1:
            sent = None
        if rng.random() < 0.1:
            held = None
        new = labels(rng, new)
        told = digest_of(held)  # the receiver says what it holds when it asks
        sent = published(sent, rounded(new, codec), round, above)
        message = encode(sent.knowledge, codec, changes_since(sent, told))
        n_messages, n_changes = n_messages + 1, n_changes + bool(pb.Knowledge.FromString(message).base)
        fate = rng.choice(["lost", "received", "twice", "with an older one"])
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
    counts = np.array([exchanges(seed) for seed in range(40)]).sum(0)
    assert counts[1] > counts[0] / 3


@pytest.mark.slow
def test_two_sides_never_hold_different_rows_in_ten_thousand_sequences() -> None:
    for seed in range(40, 10_040):
        exchanges(seed)


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
