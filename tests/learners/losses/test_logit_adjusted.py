"""The logit-adjusted loss of private labels: its gradient against torch, and the clients that it must not change."""

from __future__ import annotations

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.losses import class_shares, logit_adjusted
from edgefd.learners.probabilities import softmax64

CLASSES = 5
LOGITS = arrays.arrays(np.float32, (4, CLASSES), elements=st.floats(-8, 8, width=32))
COUNTS = arrays.arrays(np.int64, CLASSES, elements=st.integers(0, 30)).filter(lambda n: n.sum() > 0)


def gradient(z: Float32, y: Float32, shares: Float64) -> Float64:
    targets, _ = logit_adjusted(shares)(z, y)
    return softmax64(z) - targets


def labels(counts: np.ndarray) -> Float32:
    """Four one-hot labels of classes that the client has."""
    return np.eye(CLASSES, dtype=np.float32)[np.resize(np.flatnonzero(counts), 4)]


@given(LOGITS, COUNTS)
def test_the_gradient_is_that_of_cross_entropy_on_logits_plus_log_frequencies(z: Float32, counts: np.ndarray) -> None:
    y, shares = labels(counts), counts / counts.sum()
    logits = torch.from_numpy(z.astype(np.float64)).requires_grad_()
    own = torch.from_numpy(np.flatnonzero(counts))
    adjusted = logits[:, own] + torch.from_numpy(np.log(shares[shares > 0]))
    target = torch.from_numpy(y[:, counts > 0].argmax(1))
    losses = torch.nn.functional.cross_entropy(adjusted, target, reduction="none")
    losses.sum().backward()
    assert logits.grad is not None
    np.testing.assert_allclose(gradient(z, y, shares), logits.grad.numpy(), atol=1e-9)
    np.testing.assert_allclose(logit_adjusted(shares)(z, y)[1], losses.detach().numpy(), rtol=1e-9, atol=1e-12)


@given(LOGITS, COUNTS)
def test_classes_that_the_client_does_not_have_are_left_as_they_are(z: Float32, counts: np.ndarray) -> None:
    found = gradient(z, labels(counts), counts / counts.sum())
    assert np.abs(found[:, counts == 0]).max(initial=0) < 1e-12
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-12)


@given(LOGITS)
def test_with_equal_frequencies_it_is_the_plain_cross_entropy(z: Float32) -> None:
    y = np.eye(CLASSES, dtype=np.float32)[:4]
    np.testing.assert_allclose(logit_adjusted(np.full(CLASSES, 1 / CLASSES))(z, y)[0], y, atol=1e-12)


@given(LOGITS)
def test_a_client_of_one_class_has_no_gradient_and_no_loss(z: Float32) -> None:
    y = np.eye(CLASSES, dtype=np.float32)[[2] * 4]
    targets, losses = logit_adjusted(class_shares(y.argmax(1), CLASSES))(z, y)
    np.testing.assert_allclose(softmax64(z) - targets, 0, atol=1e-12)
    np.testing.assert_allclose(losses, 0, atol=1e-12)
