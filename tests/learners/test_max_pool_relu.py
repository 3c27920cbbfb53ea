"""`pool_relu` has the bits of torch: values, gradients, ties, and memory orders that it passes on to torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefd.learners import max_pool_relu as pooling
from edgefd.learners.max_pool_relu import pool_relu
from edgefd.learners.step_recorder import record


def reference(x: torch.Tensor) -> torch.Tensor:
    return F.relu(F.max_pool2d(x, 2))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 20),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    coarse=st.booleans(),
    last=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_equal_those_of_torch(
    n: int, channels: int, height: int, width: int, coarse: bool, last: bool, seed: int
) -> None:
    x = torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(seed))
    x = x.round() if coarse else x  # coarse numbers are often equal to each other and to zero
    x = x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    ours, theirs = pool_relu(x), reference(x)
    assert torch.equal(ours, theirs)
    g = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(seed + 1))
    assert torch.equal(torch.autograd.grad(ours, x, g)[0], torch.autograd.grad(theirs, x, g)[0])
    with torch.inference_mode():
        assert torch.equal(pool_relu(x), theirs)


def test_channels_last_images_of_even_size_use_the_fast_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("torch's pooling was called")

    x = torch.randn(2, 3, 4, 6).contiguous(memory_format=torch.channels_last)
    expected = reference(x)
    monkeypatch.setattr(pooling.F, "max_pool2d", refuse)
    assert torch.equal(pool_relu(x), expected)


def test_the_step_recorder_records_the_operator_without_gradients() -> None:
    x, other = (torch.randn(2, 3, 4, 6).contiguous(memory_format=torch.channels_last) for _ in range(2))
    _, replay = record(lambda: [pool_relu(x)], [x])
    assert torch.equal(replay(other)[0], reference(other))
