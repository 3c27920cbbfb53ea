"""DHO: one network with two heads, one for private labels and one for the teacher (arXiv 2505.07675).

The heads are the two halves of a model's 2C logits, so any model has them. What the paper says and what is chosen here:
docs/guides/selection-and-losses.md.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.batches import Batch
from edgefd.learners.distillation_loss import softmax
from edgefd.learners.learner import Learner

_PRIVATE = 0.5  # alpha: share of the private head in a prediction
_TAUGHT = 0.5  # beta: temperature of the other head in a prediction
_LEAST = 1e-12  # probability: no logarithm of 0


def mixture(logits: Float32) -> Float64:
    """What both heads say together, float64 [n, C] of logits [n, 2C].

    p = alpha softmax(z_private) + (1 - alpha) softmax(z_taught / beta).

    >>> mixture(np.array([[0.0, 0.0, 0.0, 0.0]], np.float32))
    array([[0.5, 0.5]])
    """
    private, taught = np.split(logits.astype(np.float64), 2, axis=1)
    return _PRIVATE * softmax(private) + (1 - _PRIVATE) * softmax(taught / _TAUGHT)


def dual_head_targets(logits: Float32, targets: Float32, n_taught: int) -> tuple[Float32, float]:
    """Targets [n, 2C] that move only one head of each row, and the mean loss: H(t, q) of that head.

    The first `n_taught` rows are of the teacher, the others private. A row's slope is q - t in its own head and 0 in
    the other, and the target is all of softmax less that slope (see `edgefd.learners.distillation_loss`).
    """
    private, taught = (softmax(half) for half in np.split(logits, 2, axis=1))
    slope = np.zeros(logits.shape)
    slope[n_taught:, : targets.shape[1]] = private[n_taught:] - targets[n_taught:]
    slope[:n_taught, targets.shape[1] :] = taught[:n_taught] - targets[:n_taught]
    said = np.concatenate([taught[:n_taught], private[n_taught:]])
    loss = -(targets * np.log(np.maximum(said, _LEAST))).sum(1).mean()
    return (softmax(logits) - slope).astype(np.float32), float(loss)


class DualHead:
    """A learner of 2C logits, as one of C. See `edgefd.learners.learner.Learner`."""

    def __init__(self, both: Learner) -> None:
        self._both = both

    def train(self, batches: Iterable[Batch], lr: float) -> float:
        """Train the private head; the mean loss over the batches."""
        return self._train(((batch, 0) for batch in batches), lr)

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Train the taught head, on the last `n_private` rows of each batch the private one; the mean loss."""
        return self._train(((batch, len(batch) - n_private) for batch in batches), lr)

    def predict_logits(self, x: Float32) -> Float32:
        """Logits of what both heads say together, float32 [n, C]."""
        return np.asarray(np.log(np.maximum(mixture(self._both.predict_logits(x)), _LEAST)), np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Of the model with both heads."""
        return self._both.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()`."""
        self._both.load_state(state)

    def _train(self, batches: Iterable[tuple[Batch, int]], lr: float) -> float:
        found = []
        for batch, n_taught in batches:
            targets, loss = dual_head_targets(self._both.predict_logits(batch.x), batch.targets, n_taught)
            self._both.train([Batch(batch.x, targets, batch.weights)], lr)
            found.append(loss)
        return sum(found) / max(len(found), 1)
