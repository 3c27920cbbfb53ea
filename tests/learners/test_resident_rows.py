"""`Rows` behave like the array for which they stand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.learners.batches import Batch, mixed, random_rotation, random_shift
from edgefd.learners.device import CPU
from edgefd.learners.resident_rows import Rows, SamplePool, same_rows
from edgefd.learners.resident_samples import ResidentSamples, resident

SIZES = (4, 0, 3, 5)


def arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.random((n, 1, 4, 4)).astype(np.float32) for n in SIZES]


@settings(deadline=None)
@given(st.lists(st.integers(0, sum(SIZES) - 1), max_size=20), st.integers(-3, 9), st.integers(-3, 9))
def test_indexing_gives_the_same_rows(places: list[int], start: int, stop: int) -> None:
    pool, whole = SamplePool(arrays()), np.concatenate(arrays())
    rows = np.concatenate([pool.rows(i) for i in range(len(SIZES))])
    assert isinstance(rows, Rows)
    index = np.array(places, np.int64)
    for mine, plain in ((rows[index], whole[index]), (rows[start:stop], whole[start:stop])):
        assert isinstance(mine, Rows)
        assert (len(mine), mine.shape, mine.ndim, mine.dtype) == (len(plain), plain.shape, plain.ndim, plain.dtype)
        np.testing.assert_array_equal(mine, plain)


def test_other_functions_get_arrays() -> None:
    original = arrays()
    rows, plain = SamplePool(original).rows(0), original[0]
    assert np.asarray(rows) is plain  # no copy
    np.testing.assert_array_equal(rows * 2 - rows, plain)
    np.testing.assert_array_equal(
        np.pad(rows, ((0, 0), (0, 0), (1, 1), (1, 1))), np.pad(plain, ((0, 0),) * 2 + ((1, 1),) * 2)
    )
    np.testing.assert_array_equal(np.concatenate([rows, plain]), np.concatenate([plain, plain]))
    np.testing.assert_array_equal(rows.reshape(4, -1), plain.reshape(4, -1))
    np.testing.assert_array_equal(rows[0], plain[0])
    assert rows.mean() == plain.mean()
    assert rows.tobytes() == plain.tobytes()
    with pytest.raises(TypeError):
        rows[0] = 1


def test_batches_stay_rows_until_their_pixels_change() -> None:
    pool = SamplePool(arrays())
    batch = Batch(pool.rows(0), np.ones((4, 2), np.float32), np.ones(4, np.float32))
    other = batch.rows(np.array([3, 1]))
    (both,) = mixed([batch], iter([other]))
    assert isinstance(both.x, Rows)
    np.testing.assert_array_equal(both.x, np.concatenate([arrays()[0], arrays()[0][[3, 1]]]))
    plain = Batch(np.asarray(both.x), both.targets, both.weights)
    for change in (
        lambda b: random_shift([b], 1, np.random.default_rng(0)),
        lambda b: random_rotation([b], 9, np.random.default_rng(0)),
    ):
        (changed,), (expected,) = change(both), change(plain)
        assert isinstance(changed.x, np.ndarray)
        np.testing.assert_array_equal(changed.x, expected.x)


def test_a_device_gathers_the_rows_of_several_clients() -> None:
    pool = SamplePool(arrays())
    samples = ResidentSamples(pool, CPU)
    first, second = pool.rows(0)[:2], pool.rows(3)[np.array([4, 0, 2])]
    gathered = samples.gather([first, second])
    assert gathered is not None
    assert gathered.shape == (2, 3, 1, 4, 4)
    np.testing.assert_array_equal(gathered[0, :2], arrays()[0][:2])
    np.testing.assert_array_equal(gathered[1], arrays()[3][[4, 0, 2]])
    assert samples.gather([first, np.asarray(second)]) is None
    assert samples.gather([SamplePool(arrays()).rows(0)]) is None


def test_samples_that_do_not_fit_stay_in_the_memory_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = SamplePool(arrays())
    assert resident(pool, CPU) is not None
    monkeypatch.setattr(type(CPU), "free_bytes", lambda _: 4 * len(pool) * 16)
    assert resident(pool, CPU) is None


def test_the_same_rows_are_recognised() -> None:
    pool = SamplePool(arrays())
    rows = pool.rows(0)
    assert same_rows(rows[:2], rows[np.array([0, 1])])
    assert not same_rows(rows[:2], rows[1:3])
    assert not same_rows(rows, np.asarray(rows))
    assert not same_rows(rows, SamplePool(arrays()).rows(0))
