"""The codec simplex15: rounding to fifteenths, its size, a second decoder, and the refusal of malformed messages."""

import contextlib
import dataclasses
import time
import tracemalloc

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge
from edgefd.federation.values import SOFT_LABELS
from edgefd.wire.codecs import CODECS
from edgefd.wire.expected import Expected
from edgefd.wire.messages import decode, encode
from edgefd.wire.simplex import SIMPLEX15, parts_of
from tests.support import plain_simplex15
from tests.support.expectations import sent_and_received

CODEC = SIMPLEX15.name


@st.composite
def soft_labels(draw: st.DrawFn) -> Knowledge:
    """Return rows of any sureness, of 1 to 300 classes, with gaps of any length between their ids."""
    n, width = draw(st.integers(1, 200)), draw(st.sampled_from([1, 2, 3, 10, 16, 17, 40, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = rng.dirichlet(np.full(width, draw(st.sampled_from([0.02, 0.3, 1.0, 50.0]))), n).astype(np.float32)
    rows = np.nan_to_num(rows / rows.sum(1, keepdims=True, dtype=np.float64), nan=1 / width).astype(np.float32)
    ids = np.cumsum(rng.integers(1, draw(st.sampled_from([2, 3, 40, 5000])), n)) - 1
    weights = (1 - rng.random(n)).astype(np.float32) if draw(st.booleans()) else np.ones(n, np.float32)
    return Knowledge(ids, rows, weights)


@given(soft_labels())
@settings(deadline=None, max_examples=60)
def test_a_decoder_in_plain_python_reads_the_same(k: Knowledge) -> None:
    back = sent_and_received(k, CODEC)
    ids, rows, weights = plain_simplex15.decode(encode(k, CODEC))
    assert back.ids.tolist() == ids == k.ids.tolist()
    assert np.array_equal(back.values, np.array(rows, np.float32))
    np.testing.assert_allclose(back.weights, weights, rtol=1e-6)
    assert encode(back, CODEC) == encode(k, CODEC)  # a second round trip changes nothing
    assert len(encode(k, CODEC)) <= SIMPLEX15.largest(len(k), k.width) + 20


@given(soft_labels())
@settings(deadline=None, max_examples=60)
def test_rows_sum_to_one_and_no_class_moves_by_more_than_a_part(k: Knowledge) -> None:
    parts = parts_of(k.values)
    assert (parts.sum(1) == 15).all()
    surplus = np.minimum(k.width, 15)  # with many classes, those without a part give up to 15 parts to others
    assert np.abs(parts / 15 - k.values).max() <= (1 if k.width <= 15 else surplus) / 15 + 1e-5


def teacher(n: int = 6000) -> Knowledge:
    """Return rows of which nine of ten are sure of their class."""
    rng = np.random.default_rng(0)
    logits = 5 * np.eye(10)[rng.integers(0, 10, n)] * rng.gamma(4, 0.5, (n, 1)) + rng.normal(size=(n, 10))
    rows = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Knowledge(np.arange(n), rows.astype(np.float32), np.ones(n, np.float32))


def test_the_size_is_near_the_entropy_of_what_is_sent() -> None:
    k = teacher()
    parts = parts_of(k.values)
    order = np.argsort(-parts, axis=1, kind="stable")
    sent = np.take_along_axis(parts, order, 1)
    rest = 15 - np.cumsum(sent, 1) + sent
    entropy = 0.0
    for name, context in (("number", rest), ("class", np.where(np.arange(10), 1 + order[:, :1], 0))):
        chosen = sent if name == "number" else order
        for c in np.unique(context[sent > 0]):
            counts = np.unique(chosen[(sent > 0) & (context == c)], return_counts=True)[1]
            entropy -= (counts * np.log2(counts / counts.sum())).sum()
    assert entropy / 8 < len(encode(k, CODEC)) < 1.15 * entropy / 8
    assert len(encode(k, "float16")) > 12 * len(encode(k, CODEC))


def test_six_thousand_rows_are_decoded_in_milliseconds() -> None:
    data, expected = encode(teacher(), CODEC), Expected(range(6000), range(10, 11), CODEC, SOFT_LABELS, 1e-3)
    times = []
    for _ in range(5):
        start = time.thread_time()
        decode(data, expected)
        times.append(time.thread_time() - start)
    assert min(times) < 0.02  # about 5 ms on one core of a server; the bound allows for a slow machine


@pytest.mark.parametrize(
    ("row", "error"),
    [((0.5, 0.4, 0.0), "sum to 1"), ((1.5, -0.5, 0.0), "sum to 1"), ((1.0, 1.0, -1.0), "sum to 1")],
)
def test_other_numbers_than_soft_labels_are_refused(row: tuple[float, ...], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        encode(Knowledge(np.array([0]), np.array([row], np.float32), np.ones(1, np.float32)), CODEC)


def test_an_id_beyond_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="ids below"):
        encode(Knowledge(np.array([2**31]), np.ones((1, 1), np.float32), np.ones(1, np.float32)), CODEC)


GOOD = Knowledge(np.array([2, 5, 6]), np.eye(4, dtype=np.float32)[:3], np.array([1, 0.5, 0.1], np.float32))
EXPECTED = Expected(range(12), range(4, 5), CODEC, SOFT_LABELS, 1e-3)


def changed(**fields: object) -> bytes:
    message = pb.Knowledge.FromString(encode(GOOD, CODEC))
    message.MergeFrom(pb.Knowledge(**fields))  # type: ignore[arg-type]
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (changed(rows=13), "13 rows, but at most 12"),
        (changed(rows=2**32 - 1), "4294967295 rows of 4 values"),
        (changed(width=2**32 - 1), "values per row, but 4 are expected"),
        (changed(runs=4), "runs is 4"),
        (changed(rows=2), "the runs of ids do not have 2 rows"),
        (changed(rows=4), "the runs of ids do not have 4 rows"),
        (changed(id_gaps=[1]), "must be empty"),
        (changed(weights=b"1"), "must be empty"),
        (changed(classes=b"1"), "must be empty"),
        (changed(kept=1), "must be empty"),
        (changed(codec=pb.CODEC_UINT4), r"codec 5, but simplex15 \(6\) is expected"),
        (changed(codec=pb.CODEC_LABEL), r"codec 4, but simplex15 \(6\) is expected"),
        (changed(values=b""), None),
        (changed(values=b"\0"), "at least 4, and an even number"),
        (changed(values=bytes(4)), "does not begin with the states"),
        (pb.Knowledge(width=4, codec=6, values=b"\0\0\1\0").SerializeToString(), "without rows has values"),
        (pb.Knowledge(width=4, codec=6, weighted=True).SerializeToString(), "without rows has values or weights"),
        (pb.Knowledge(width=4, codec=6, rows=3).SerializeToString(), "runs is 0"),
        (encode(dataclasses.replace(GOOD, ids=np.array([2, 5, 12])), CODEC), "row 12 was not queried"),
    ],
)
def test_malformed_messages_are_refused(data: bytes, error: str | None) -> None:
    if error is None:  # the change leaves the message as it was
        decode(data, EXPECTED)
        return
    with pytest.raises(ValueError, match=error):
        decode(data, EXPECTED)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_gives_other_valid_rows(place: int, difference: int) -> None:
    message = pb.Knowledge.FromString(encode(GOOD, CODEC))
    values = bytearray(message.values)
    values[place % len(values)] ^= difference
    message.values = bytes(values)
    try:
        decoded = decode(message.SerializeToString(), EXPECTED)
    except ValueError:
        return
    assert not decoded.equals(decode(encode(GOOD, CODEC), EXPECTED))
    np.testing.assert_allclose(decoded.values.sum(1), 1, atol=1e-6)


@given(st.binary(max_size=120), st.integers(0, 12), st.integers(0, 12), st.booleans())
def test_random_values_are_refused_or_decoded_to_rows_that_sum_to_one(
    values: bytes, rows: int, runs: int, weighted: bool
) -> None:
    message = pb.Knowledge(width=4, codec=6, values=values, rows=rows, runs=runs, weighted=weighted)  # type: ignore[arg-type]
    with contextlib.suppress(ValueError):
        k = decode(message.SerializeToString(), EXPECTED)
        np.testing.assert_allclose(k.values.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 60])
def test_a_refused_message_takes_no_more_memory_than_the_models_and_the_expected_rows(rows: int) -> None:
    bomb = pb.Knowledge(width=4, codec=6, rows=rows, runs=1, weighted=True)  # type: ignore[arg-type]
    bomb.values = b"\xff" * (CODECS[CODEC].largest(rows, 4) // 2 * 2)
    expected, data = dataclasses.replace(EXPECTED, ids=range(60)), bomb.SerializeToString()
    with contextlib.suppress(ValueError):
        decode(data, expected)  # the first call may fill caches
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"values|row|runs|length|weight"):
        decode(data, expected)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**17
