"""Encoding and decoding of knowledge, plans and reports, and the refusal of malformed messages."""

import numpy as np
import pytest
from edgefd_proto import edgefd_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.knowledge import Knowledge, empty
from edgefd.federation.plan import RoundPlan
from edgefd.federation.report import Report
from edgefd.wire.codecs import CODECS
from edgefd.wire.messages import decode, decode_plan, decode_report, encode, encode_plan, encode_report
from tests.support.strategies import knowledge

ERROR = {"float32": 0, "float16": 5e-4, "uint8": 4e-3, "uint4": 0.07}


@given(knowledge(), st.sampled_from(sorted(CODECS)))
def test_knowledge_round_trip(k: Knowledge, codec: str) -> None:
    back = decode(encode(k, codec))
    assert np.array_equal(back.ids, k.ids)
    np.testing.assert_allclose(back.values, k.values, atol=ERROR[codec])
    np.testing.assert_allclose(back.weights, k.weights, atol=ERROR[codec] or 0)
    assert decode(encode(back, codec)).equals(back)  # a second round trip changes nothing


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_tiny_weight_stays_above_zero(codec: str) -> None:
    k = Knowledge(np.array([3]), np.ones((1, 2), np.float32) / 2, np.array([1e-30], np.float32))
    assert decode(encode(k, codec)).weights[0] > 0


def test_the_size_is_that_of_the_numbers() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(10), 1000).astype(np.float32)
    k = Knowledge(np.arange(1000), rows, np.ones(1000, np.float32))
    assert len(encode(k, "uint4")) == pytest.approx(1000 * (10 / 2 + 1), rel=0.005)
    assert len(encode(k, "float16")) == pytest.approx(1000 * (10 * 2 + 1), rel=0.001)  # 1 byte per row for its id
    assert decode(encode(empty(10), "float16")).equals(empty(10))


@pytest.mark.parametrize("width", [1, 2, 3, 10, 16, 17, 300])
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_one_hot_rows_are_sent_as_labels(width: int, codec: str) -> None:
    labels = np.random.default_rng(0).integers(0, width, 101)
    k = Knowledge(np.arange(101), np.eye(width, dtype=np.float32)[labels], np.ones(101, np.float32))
    data = encode(k, codec)
    assert decode(data).equals(k)
    assert len(data) <= 101 + -(-101 * int(np.ceil(np.log2(width))) // 8) + 10


@pytest.mark.parametrize("change", ["weight", "row"])
def test_rows_that_are_not_all_labels_are_written_in_full(change: str) -> None:
    values, weights = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    if change == "weight":
        weights[1] = 0.5
    else:
        values[1] = (1, 1, -1)
    k = Knowledge(np.arange(3), values, weights)
    assert decode(encode(k, "float32")).equals(k)
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
    assert decode(data).equals(k)
    assert len(data) <= 31 * (1 + 4 * width + 4) + 30


def test_top_k_rows_have_the_size_of_their_top_values() -> None:
    rows = np.full((1000, 100), 0.0005, np.float32)
    rows[:, [3, 50, 99]] = (0.5, 0.3, 0.1515)
    k = Knowledge(np.arange(1000), rows, np.ones(1000, np.float32))
    assert len(encode(k, "float16")) == pytest.approx(1000 * (1 + 4 * 2 + 3 * 7 / 8), rel=0.005)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\xff\xff\xff", "not an edgefd.v1.Knowledge"),
        (pb.Knowledge(width=2).SerializeToString(), "unknown codec 0"),
        (pb.Knowledge(id_gaps=[1], width=2, codec=1, values=b"1234").SerializeToString(), "4 bytes where 8"),
        (pb.Knowledge(id_gaps=[1], width=1, codec=1, values=b"\0" * 4, weights=b"1").SerializeToString(), "1 bytes"),
        (pb.Knowledge(id_gaps=[1, 0], width=1, codec=1, values=b"\0" * 8).SerializeToString(), "unique"),
        (pb.Knowledge(id_gaps=[1], width=1, codec=1, values=b"\0\0\xc0\x7f").SerializeToString(), "finite"),
        (
            pb.Knowledge(id_gaps=[1], width=3, codec=4, values=b"\xc0").SerializeToString(),
            "label 3 is not a class: there are 3",
        ),
        (pb.Knowledge(id_gaps=[1], width=3, codec=4, values=b"\0\0").SerializeToString(), "2 bytes where 1"),
        (
            pb.Knowledge(id_gaps=[1], width=3, codec=4, values=b"\0", kept=1).SerializeToString(),
            "kept and classes must be empty",
        ),
        (
            pb.Knowledge(id_gaps=[1], width=2, codec=3, values=b"\0\0", classes=b"1").SerializeToString(),
            "classes must then be empty",
        ),
        (
            pb.Knowledge(id_gaps=[1], width=2, codec=3, values=b"\0\0\0", kept=2).SerializeToString(),
            "less than the 2 values",
        ),
        (
            pb.Knowledge(id_gaps=[1], width=9, codec=3, values=b"000", kept=2, classes=b"1").SerializeToString(),
            "ascend",
        ),
        (pb.Knowledge(id_gaps=[1], width=9, codec=3, values=b"00", kept=1, classes=b"").SerializeToString(), "0 bytes"),
        (
            pb.Knowledge(id_gaps=[1], width=2**27, codec=3, values=b"00", kept=1).SerializeToString(),
            "exceed the limit",
        ),
        (pb.Knowledge(id_gaps=[1], width=3, codec=4, values=b"\0", weights=b"1").SerializeToString(), "weight 1"),
        (pb.Knowledge(id_gaps=[1], width=2**27, codec=4, values=b"\0" * 4).SerializeToString(), "exceed the limit"),
        (pb.Knowledge(id_gaps=[1], width=0, codec=4).SerializeToString(), "label 0 is not a class: there are 0"),
    ],
)
def test_malformed_knowledge_is_refused(message: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        decode(message)


@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_refused(data: bytes) -> None:
    try:
        k = decode(data)
    except ValueError:
        return
    assert np.isfinite(k.values).all()


@given(st.sets(st.integers(0, 2**31)), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_plan_round_trip(ids: set[int], round: int, evaluate: bool, closing: bool) -> None:
    plan = RoundPlan(round, np.array(sorted(ids), np.int64), evaluate, closing)
    back = decode_plan(encode_plan(plan))
    assert np.array_equal(back.ids, plan.ids)
    assert (back.round, back.evaluate, back.closing) == (round, evaluate, closing)


@given(knowledge(), st.integers(0, 1000), st.dictionaries(st.text(max_size=9), st.floats(-9, 9)))
def test_report_round_trip(k: Knowledge, client: int, metrics: dict[str, float]) -> None:
    report = Report(client, 3, k, metrics)
    back = decode_report(encode_report(report, "float32"))
    assert back.knowledge.equals(decode(encode(k, "float32")))
    assert (back.client, back.round, back.metrics) == (client, 3, metrics)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"\xff\xff\xff", "not an edgefd.v1.RoundPlan"),
        (pb.RoundPlan(id_gaps=[1, 0]).SerializeToString(), "unique and ascending"),
        (pb.RoundPlan(id_gaps=[3, 2, 0, 4]).SerializeToString(), "unique and ascending"),
    ],
)
def test_malformed_plans_are_refused(message: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        decode_plan(message)


def test_malformed_reports_are_refused() -> None:
    good = pb.Knowledge(width=2, codec=pb.CODEC_FLOAT32)
    with pytest.raises(ValueError, match="the report has no knowledge"):
        decode_report(pb.Report(client=1).SerializeToString())
    with pytest.raises(ValueError, match="finite: loss"):
        decode_report(pb.Report(knowledge=good, metrics={"loss": float("nan")}).SerializeToString())
    with pytest.raises(ValueError, match=r"not an edgefd\.v1\.Report"):
        decode_report(b"\xff\xff")
