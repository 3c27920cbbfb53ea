"""Encoding and decoding of knowledge, plans and reports, and the refusal of malformed messages."""

import contextlib
import dataclasses
import tracemalloc

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.federation.values import SOFT_LABELS
from edgefd.wire.codecs import CODECS
from edgefd.wire.expected import Expected, UnexpectedContent
from edgefd.wire.messages import decode, decode_plan, decode_report, encode, encode_plan, encode_report
from tests.support.bombs import knowledge_bombs
from tests.support.expectations import ANY_NUMBER, report_like, sent_and_received, shape, shape_of
from tests.support.strategies import knowledge

ERROR = {"float32": 0, "float16": 5e-4, "uint8": 4e-3, "uint4": 0.07, "simplex15": 0.09, "int8": 4e-3}
WEIGHT_ERROR = {"simplex15": 0.1}  # of a weight, relative to it


@given(knowledge(), st.sampled_from(sorted(CODECS)))
def test_knowledge_round_trip(k: Knowledge, codec: str) -> None:
    back = sent_and_received(k, codec)
    assert np.array_equal(back.ids, k.ids)
    np.testing.assert_allclose(back.values, k.values, atol=ERROR[codec])
    if codec in WEIGHT_ERROR:
        np.testing.assert_allclose(back.weights, np.maximum(k.weights, 2**-15.75), rtol=WEIGHT_ERROR[codec])
    else:
        np.testing.assert_allclose(back.weights, k.weights, atol=ERROR[codec])
    assert sent_and_received(back, codec).equals(back)  # a second round trip changes nothing


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_tiny_weight_stays_above_zero(codec: str) -> None:
    k = Knowledge(np.array([3]), np.ones((1, 2), np.float32) / 2, np.array([1e-30], np.float32))
    assert sent_and_received(k, codec).weights[0] > 0


def test_the_size_is_that_of_the_numbers() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(10), 1000).astype(np.float32)
    k = Knowledge(np.arange(1000), rows, np.ones(1000, np.float32))
    assert len(encode(k, "uint4")) == pytest.approx(1000 * (10 / 2 + 1), rel=0.005)
    assert len(encode(k, "float16")) == pytest.approx(1000 * (10 * 2 + 1), rel=0.001)  # 1 byte per row for its id
    assert sent_and_received(empty(10), "float16").equals(empty(10))


@pytest.mark.parametrize("width", [1, 2, 3, 10, 16, 17, 300])
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_one_hot_rows_are_sent_as_labels(width: int, codec: str) -> None:
    labels = np.random.default_rng(0).integers(0, width, 101)
    k = Knowledge(np.arange(101), np.eye(width, dtype=np.float32)[labels], np.ones(101, np.float32))
    data = encode(k, codec)
    assert decode(data, shape_of(k, codec)).equals(k)
    assert len(data) <= 101 + -(-101 * int(np.ceil(np.log2(width))) // 8) + 10


@pytest.mark.parametrize("change", ["weight", "row"])
def test_rows_that_are_not_all_labels_are_written_in_full(change: str) -> None:
    values, weights = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    if change == "weight":
        weights[1] = 0.5
    else:
        values[1] = (1, 1, -1)
    k = Knowledge(np.arange(3), values, weights)
    assert sent_and_received(k, "float32").equals(k)
    assert pb.Knowledge.FromString(encode(k, "float32")).codec == pb.CODEC_FLOAT32


@pytest.mark.parametrize("codec", ["uint8", "uint4"])
def test_small_codecs_refuse_logits(codec: str) -> None:
    k = Knowledge(np.array([0]), np.array([[-3.0, 2.0]], np.float32), np.ones(1, np.float32))
    with pytest.raises(ValueError, match=r"\[0, 1\] only"):
        encode(k, codec)


@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_rows_with_few_distinct_values_lose_nothing_and_are_never_longer(n_top: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.tile(rng.random((31, 1), np.float32), (1, width))
    for row in rows:
        row[rng.permutation(width)[: min(n_top, width)]] += rng.random(min(n_top, width), np.float32)
    k = Knowledge(np.arange(31), rows, rng.random(31, np.float32) / 2 + np.float32(0.5))
    data = encode(k, "float32")
    assert decode(data, shape_of(k, "float32")).equals(k)
    assert len(data) <= 31 * (1 + 4 * width + 4) + 30


def test_top_k_rows_have_the_size_of_their_top_values() -> None:
    rows = np.full((1000, 100), 0.0005, np.float32)
    rows[:, [3, 50, 99]] = (0.5, 0.3, 0.1515)
    k = Knowledge(np.arange(1000), rows, np.ones(1000, np.float32))
    assert len(encode(k, "float16")) == pytest.approx(1000 * (1 + 4 * 2 + 3 * 7 / 8), rel=0.005)


FLOAT32, LABEL, UINT8 = pb.CODEC_FLOAT32, pb.CODEC_LABEL, pb.CODEC_UINT8


def message(**fields: object) -> bytes:
    """Return serialised knowledge of one row, unless the fields say otherwise."""
    return pb.Knowledge(**({"id_gaps": [1]} | fields)).SerializeToString()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "expected", "error"),
    [
        (b"\xff\xff\xff", shape(2), "not an edgefd.v1.Knowledge"),
        (message(width=2, values=b"12345678"), shape(2), r"codec 0, but float32 \(1\) is expected"),
        (message(width=2, codec=FLOAT32, values=b"1234"), shape(2), "4 bytes where 8"),
        (message(width=1, codec=FLOAT32, values=b"\0" * 4, weights=b"1"), shape(1), "1 bytes where 4"),
        (message(id_gaps=[1, 0], width=1, codec=FLOAT32, values=b"\0" * 8), shape(1), "unique"),
        (message(width=1, codec=FLOAT32, values=b"\0\0\xc0\x7f"), shape(1), "finite"),
        (message(width=3, codec=LABEL, values=b"\xc0"), shape(3), "label 3 is not a class: there are 3"),
        (message(width=3, codec=LABEL, values=b"\0\0"), shape(3), "2 bytes where 1"),
        (message(width=3, codec=LABEL, values=b"\0", kept=1), shape(3), "kept and classes must be empty"),
        (message(width=3, codec=LABEL, values=b"\0", weights=b"1"), shape(3), "weight 1"),
        (message(width=2, codec=UINT8, values=b"\0\0", classes=b"1"), shape(2, "uint8"), "classes must then be empty"),
        (message(width=2, codec=UINT8, values=b"\0\0\0", kept=2), shape(2, "uint8"), "less than the 2 values"),
        (message(width=9, codec=UINT8, values=b"000", kept=2, classes=b"1"), shape(9, "uint8"), "ascend"),
        (message(width=9, codec=UINT8, values=b"00", kept=1), shape(9, "uint8"), "0 bytes where 1"),
        (message(width=0, codec=LABEL), shape(0), "label 0 is not a class: there are 0"),
        (message(width=3, codec=UINT8, values=b"123"), shape(2, "uint8"), "3 values per row, but 2 are expected"),
        (message(id_gaps=[1] * 13, width=1, codec=UINT8), shape(1, "uint8"), "13 rows, but at most 12 are expected"),
        (message(id_gaps=[12], width=1, codec=UINT8, values=b"1"), shape(1, "uint8"), "row 12 was not queried"),
    ],
)
def test_malformed_or_unexpected_knowledge_is_refused(data: bytes, expected: Expected, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        decode(data, expected)


BOMBS = knowledge_bombs(shape(10, "uint8", rows=60).largest)


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_message_is_refused_before_memory_is_allocated_for_what_it_claims(bomb: str) -> None:
    expected, data = shape(10, "uint8", rows=60), BOMBS[bomb].SerializeToString()
    if bomb == "a row of zeros":
        expected = dataclasses.replace(expected, values=SOFT_LABELS)
    with contextlib.suppress(ValueError):
        decode(data, expected)  # the first call may fill caches
    tracemalloc.start()
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own reason
        decode(data, expected)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**14


def test_a_width_within_a_range_is_accepted_up_to_its_end() -> None:
    expected = Expected(range(1), range(1, 4), "uint8", ANY_NUMBER, 0.0)
    decode(message(id_gaps=[0], width=3, codec=UINT8, values=b"123"), expected)
    with pytest.raises(UnexpectedContent, match="4 values per row, but 1 to 3 are expected"):
        decode(message(id_gaps=[0], width=4, codec=UINT8, values=b"1234"), expected)


@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        k = decode(data, shape(3))
    except ValueError:
        return
    assert np.isfinite(k.values).all()


@given(st.sets(st.integers(0, 2**31 - 1)), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_plan_round_trip(ids: set[int], round: int, evaluate: bool, closing: bool) -> None:
    plan = RoundPlan(round, np.array(sorted(ids), np.int64), evaluate, closing)
    back = decode_plan(encode_plan(plan), 2**31)
    assert np.array_equal(back.ids, plan.ids)
    assert (back.round, back.evaluate, back.closing) == (round, evaluate, closing)


@given(knowledge(), st.integers(0, 1000), st.dictionaries(st.text(max_size=9), st.floats(-9, 9)))
def test_report_round_trip(k: Knowledge, client: int, metrics: dict[str, float]) -> None:
    report = Report(client, 3, k, metrics)
    back = decode_report(encode_report(report, "float32"), report_like(report, "float32"))
    assert back.knowledge.equals(sent_and_received(k, "float32"))
    assert (back.client, back.round, back.metrics) == (client, 3, metrics)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\xff\xff\xff", "not an edgefd.v1.RoundPlan"),
        (pb.RoundPlan(id_gaps=[1, 0]).SerializeToString(), "unique and ascending"),
        (pb.RoundPlan(id_gaps=[3, 2, 0, 4]).SerializeToString(), "unique and ascending"),
        (pb.RoundPlan(id_gaps=[20]).SerializeToString(), "proxy row 20, but the proxy set has 20 rows"),
        (pb.RoundPlan(id_gaps=[1] * 21).SerializeToString(), "queries 21 rows, but the proxy set has 20"),
        (pb.RoundPlan(id_gaps=[1] * 5000).SerializeToString(), "bytes; the limit is"),
    ],
)
def test_malformed_or_unexpected_plans_are_refused(data: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        decode_plan(data, 20)


def test_malformed_reports_are_refused() -> None:
    expected = report_like(Report(0, 0, empty(2), {"loss": 0.0}), "float32")
    good = pb.Knowledge(width=2, codec=pb.CODEC_FLOAT32)
    decode_report(pb.Report(knowledge=good, metrics={"loss": 9}).SerializeToString(), expected)
    with pytest.raises(ValueError, match="the report has no knowledge"):
        decode_report(pb.Report(client=1).SerializeToString(), expected)
    with pytest.raises(UnexpectedContent, match="the metric loss is nan"):
        decode_report(pb.Report(knowledge=good, metrics={"loss": float("nan")}).SerializeToString(), expected)
    with pytest.raises(ValueError, match=r"not an edgefd\.v1\.Report"):
        decode_report(b"\xff\xff", expected)
