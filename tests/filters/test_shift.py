"""The shift of a proxy set: extremes, invariances, and the warnings about it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.config.load import parse_config
from edgefd.federation.clients import ProxySet
from edgefd.federation.method import Method, accept_none
from edgefd.filters.shift import (
    FEWEST_ROWS,
    OTHER_KIND,
    UNRELATED,
    describe_shift,
    effective_share,
    proxy_shift,
    proxy_spaces,
    standardised,
)
from edgefd.learners.batches import rotated
from edgefd.methods import get_method
from edgefd.runs.data_warnings import acceptance_warnings, proxy_shifts, shift_warnings
from edgefd.runs.prepare import prepare


def images(n: int, seed: int, kinds: tuple[int, ...]) -> np.ndarray:
    """Return noisy images with a bright square; the kinds differ in its place."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0, 0.3, (n, 1, 8, 8)).astype(np.float32)
    for i in range(n):
        row, column = divmod(kinds[i % len(kinds)], 4)
        x[i, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 3
    return x


OWN, OTHERS = (0, 5), (3, 9, 12, 14)
PRIVATE, HELDOUT = images(100, 0, OWN), images(40, 1, OWN)


def shift(proxy: np.ndarray, share: float) -> float:
    value = proxy_shift(PRIVATE, HELDOUT, proxy_spaces(proxy), share)
    assert value is not None
    return value


def test_a_proxy_set_of_the_same_kind_has_a_shift_near_a_half_and_another_kind_has_one() -> None:
    assert shift(images(60, 2, OWN), 1.0) == pytest.approx(0.5, abs=0.12)
    assert shift(images(60, 3, OTHERS), 1.0) == 1.0


def test_only_the_nearest_rows_count_as_many_as_the_client_can_know() -> None:
    """A third of the proxy rows is of the client's kinds: the other rows must not raise its shift."""
    proxy = images(180, 4, OWN + OTHERS)
    assert shift(proxy, 1 / 3) < 0.65
    assert shift(proxy, 1.0) > 0.8


@settings(max_examples=10)
@given(st.floats(0.2, 3), st.floats(-2, 2))
def test_brightness_and_contrast_of_images_do_not_matter(contrast: float, brightness: float) -> None:
    proxy = images(60, 2, OWN)
    assert shift(proxy * np.float32(contrast) + np.float32(brightness), 1.0) == pytest.approx(
        shift(proxy, 1.0), abs=0.02
    )


def test_samples_of_a_table_keep_their_values() -> None:
    x = np.array([[1, 2], [3, 30]], np.float32)
    assert np.array_equal(standardised(x), x)
    each = standardised(images(5, 0, OWN))
    np.testing.assert_allclose(each.mean(1), 0, atol=1e-6)
    np.testing.assert_allclose(each.std(1), 1, rtol=1e-5)
    assert np.isfinite(standardised(np.ones((2, 1, 3, 3), np.float32))).all()


def test_no_shift_is_measured_with_few_rows() -> None:
    spaces = proxy_spaces(images(60, 2, OWN))
    assert proxy_shift(PRIVATE, HELDOUT[: FEWEST_ROWS - 1], spaces, 1.0) is None
    assert proxy_shift(PRIVATE[:1], HELDOUT[:FEWEST_ROWS], spaces, 1.0) is not None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_the_effective_share_lies_between_one_class_and_all_classes_of_the_client(labels: list[int]) -> None:
    share = effective_share(np.array(labels), 5)
    assert 1 / 5 - 1e-6 <= share <= len(set(labels)) / 5 + 1e-6


def test_the_words_and_the_warnings_depend_on_the_shift() -> None:
    assert "unrelated" in describe_shift(UNRELATED)
    assert "of another kind" in describe_shift(OTHER_KIND)
    assert "is like its data" in describe_shift(0.5)
    assert shift_warnings([0.5, None]) == ()
    (warning,) = shift_warnings([0.5, 0.9, 1.0, None])
    assert warning.startswith("the proxy set has few rows like those of 2 of 4 clients. Client 2, for example")
    assert "shift 1.00" in warning


def test_clients_that_accept_no_row_are_named() -> None:
    rows = [np.ones(7, np.float32), np.zeros(7, np.float32)]
    (warning,) = acceptance_warnings(dict(enumerate(rows)), get_method("edgefd"))
    assert warning.startswith("client 1 accepts 0 of 7 proxy rows, as do 1 of 2 clients in all")
    assert acceptance_warnings(dict(enumerate(rows[:1])), get_method("edgefd")) == ()
    assert (
        acceptance_warnings(dict(enumerate(rows)), get_method("indlearn")) == ()
    )  # it exchanges nothing, so nothing is amiss
    assert acceptance_warnings(dict(enumerate(rows)), Method("none", "accepts nothing", filter=accept_none))


@pytest.mark.parametrize("partition", ["strong", "iid"])
def test_the_shift_tells_a_public_proxy_set_from_turned_noisy_and_inverted_images(partition: str) -> None:
    config = {"data": {"name": "mnist_mini"}, "partition": {"name": partition, "n_clients": 10}, "model": "mlp"}
    federation = prepare(parse_config(config | {"seed": 100, "proxy": {"source": "public"}})).federation
    x = federation.proxy.x
    turned = rotated(x, np.full(len(x), np.pi / 6)) * 0.6 + np.random.default_rng(0).normal(0, 0.6, x.shape)

    def shifts(proxy: np.ndarray) -> list[float]:
        part = replace(federation, proxy=ProxySet(proxy.astype(np.float32), federation.proxy.owner))
        return sorted(shift for shift in proxy_shifts(replace(part, clients=part.clients[:4])) if shift is not None)

    assert shifts(x)[-1] < 0.62
    assert shifts(turned)[0] > shifts(x)[-1]
    assert shifts(-x)[0] > 0.97
