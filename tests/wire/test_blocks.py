"""The codec int8: its error bound for numbers of any size, its bytes, and the refusal of malformed ones."""

import numpy as np
import numpy.typing as npt
import pytest
from edgefd_proto import edgefd_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as of_numpy

from edgefd.core.arrays import Float32
from edgefd.core.knowledge import Knowledge
from edgefd.wire.blocks import BLOCK, decode, encode
from edgefd.wire.codecs import NUMBER_CODECS
from edgefd.wire.messages import encode as encode_knowledge
from tests.support.expectations import sent_and_received

ANY = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(of_numpy.arrays(np.float32, st.integers(0, 40), elements=ANY), st.integers(1, 9))
def test_each_number_is_within_its_bound_and_a_second_round_trip_changes_nothing(values: Float32, block: int) -> None:
    back = decode(encode(values, block), len(values), block)
    for first in range(0, len(values), block):
        part, got = (x[first : first + block].astype(np.float64) for x in (values, back))
        largest = np.abs(part).max()
        assert np.abs(got - part).max() <= largest * (1 / 254 + 2**-22) + 2**-149  # no float32 is between 0 and 2^-149
        assert np.abs(got).max() == largest
    assert np.array_equal(decode(encode(back, block), len(values), block), back)


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 1000])
def test_the_size_is_a_byte_for_each_number_and_four_for_each_block(count: int) -> None:
    data = encode(np.random.default_rng(0).normal(size=count).astype(np.float32))
    assert len(data) == NUMBER_CODECS["int8"].size(count) == count + 4 * -(-count // BLOCK)


def test_parameters_of_all_sizes_are_sent_in_a_quarter_of_the_bytes() -> None:
    sizes = np.repeat(np.float32([1e-30, 1e-3, 1, 1e30]), BLOCK)
    values = (sizes * np.random.default_rng(0).uniform(-1, 1, len(sizes))).astype(np.float32)
    k = Knowledge(np.array([0]), values[None], np.array([600e-6], np.float32))
    back = sent_and_received(k, "int8")
    assert (np.abs(back.values - k.values)[0] <= sizes / 253).all()
    assert back.weights == pytest.approx(k.weights, rel=1e-3)  # a weight of FedAvg is small
    assert len(encode_knowledge(k, "int8")) < 0.27 * len(encode_knowledge(k, "float32"))


@given(st.lists(st.floats(2.0**-149, 1, width=32), min_size=1, max_size=20))
def test_small_weights_stay_above_zero(weights: list[float]) -> None:
    n = len(weights)
    k = Knowledge(np.arange(n), np.full((n, 2), 0.5, np.float32), np.array(weights, np.float32))
    np.testing.assert_allclose(sent_and_received(k, "int8").weights, k.weights, rtol=1e-3, atol=6e-8)


def scales(*numbers: float) -> npt.NDArray[np.float32]:
    return np.array(numbers, "<f4")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (scales(-1).tobytes() + b"\1", "negative or not finite"),
        (scales(np.nan).tobytes() + b"\1", "negative or not finite"),
        (scales(np.inf).tobytes() + b"\1", "negative or not finite"),
        (scales(1).tobytes() + b"\x80", "-128: it must be from -127 to 127"),
    ],
)
def test_malformed_blocks_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(data, 1)


def test_rows_whose_other_values_are_equal_are_sent_in_full() -> None:
    rows = np.full((31, 100), 0.0005, np.float32)
    rows[:, 3] = 0.9505
    k = Knowledge(np.arange(31), rows, np.ones(31, np.float32))
    assert pb.Knowledge.FromString(encode_knowledge(k, "int8")).kept == 0
    back = sent_and_received(k, "int8")
    assert sent_and_received(back, "int8").equals(back)


@pytest.mark.parametrize("values", [[np.nan], [1.0, np.inf]])
def test_numbers_that_are_not_finite_are_not_encoded(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite numbers only"):
        encode(np.array(values, np.float32))
