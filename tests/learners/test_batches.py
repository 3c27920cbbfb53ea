"""Orders of batches: what a pass over all rows means."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgefd.learners.batches import Batch, augment, even_passes, passes, rotated


def rows(n: int) -> Batch:
    """Return a batch whose row i holds the number i."""
    return Batch(np.arange(n, dtype=np.float32)[:, None], np.ones((n, 1), np.float32), np.ones(n, np.float32))


@given(n=st.integers(1, 60), size=st.integers(1, 70), epochs=st.integers(1, 3), seed=st.integers(0, 9))
def test_even_passes_use_every_row_once_a_pass_in_batches_of_almost_the_same_size(
    n: int, size: int, epochs: int, seed: int
) -> None:
    steps_a_pass = -(-n // size)
    batches = list(even_passes(rows(n), epochs * steps_a_pass, size, np.random.default_rng(seed)))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    for e in range(epochs):
        of_pass = np.concatenate([b.x[:, 0] for b in batches[e * steps_a_pass : (e + 1) * steps_a_pass]])
        assert sorted(of_pass) == list(range(n))


def test_two_even_passes_have_different_orders() -> None:
    first, second = even_passes(rows(40), 2, 40, np.random.default_rng(0))
    assert first.x.tolist() != second.x.tolist()


def test_passes_over_as_many_rows_as_a_batch_holds_are_steps_on_all_of_them() -> None:
    """The published protocols make 10 steps on one draw of 512 rows, which is one batch of 512."""
    batches = list(passes(rows(512), 10, 512, np.random.default_rng(0)))
    assert [len(batch) for batch in batches] == [512] * 10
    assert all(sorted(batch.x[:, 0]) == list(range(512)) for batch in batches)


def test_a_rotation_agrees_with_scipy_inside_the_image() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(0)
    x = rng.random((3, 2, 9, 12)).astype(np.float32)
    degrees = np.array([-25.0, 0.0, 40.0])
    turned = rotated(x, np.deg2rad(degrees))
    for image, out, angle in zip(x, turned, degrees, strict=True):
        expected = ndimage.rotate(image, angle, axes=(1, 2), reshape=False, order=1, mode="nearest")
        np.testing.assert_allclose(out[:, 3:6, 4:8], expected[:, 3:6, 4:8], atol=1e-5)
    np.testing.assert_array_equal(turned[1], x[1])


@given(st.integers(0, 99), st.integers(1, 3), st.sampled_from([0.0, 30.0, 180.0]))
def test_augmented_images_keep_their_range_targets_and_number(seed: int, channels: int, degrees: float) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((4, channels, 6, 7)).astype(np.float32)
    batch = Batch(x, np.eye(4, dtype=np.float32), np.ones(4, np.float32))
    (out,) = augment(iter([batch]), 0, rng, degrees)
    assert out.x.shape == x.shape
    assert out.x.dtype == np.float32
    assert out.x.min() >= x.min() - 1e-6
    assert out.x.max() <= x.max() + 1e-6
    assert out.targets is batch.targets
    assert (out is batch) == (degrees == 0)
