"""DHO: one network with two heads, one for private labels and one for the teacher (arXiv 2505.07675).

The heads are the two halves of the 2C logits of a model, so every model can be used.
docs/guides/selection-and-losses.md says which parts are from the paper and which are our choice.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgefd.core.arrays import Float32, Float64
from edgefd.learners.batches import Batch
from edgefd.learners.learner import Learner, Proximal
from edgefd.learners.probabilities import softmax64

PRIVATE_SHARE = 0.5  # alpha: share of the private head in a prediction
TAUGHT_TEMPERATURE = 0.5  # beta: temperature of the taught head in a prediction
MIN_PROBABILITY = 1e-12  # avoids the logarithm of 0


def mixture(logits: Float32) -> Float64:
    """Return the joint prediction of both heads, float64 [n, C], from logits [n, 2C].

    p = alpha softmax(z_private) + (1 - alpha) softmax(z_taught / beta).

    >>> mixture(np.array([[0.0, 0.0, 0.0, 0.0]], np.float32))
    array([[0.5, 0.5]])
    """
    private, taught = np.split(logits.astype(np.float64), 2, axis=1)
    return PRIVATE_SHARE * softmax64(private) + (1 - PRIVATE_SHARE) * softmax64(taught / TAUGHT_TEMPERATURE)


def dual_head_targets(logits: Float32, targets: Float32, n_taught: int) -> tuple[Float32, float]:
    """Return targets [n, 2C] that train only one head per row, and the mean loss: H(t, q) of that head.

    The first `n_taught` rows are rows of the teacher, the others are private rows. The gradient of a row with respect
    to the logits is q - t in the head of that row and 0 in the other head. The target is the softmax of all logits
    minus this gradient (see `edgefd.learners.losses`).
    """
    private, taught = (softmax64(half) for half in np.split(logits, 2, axis=1))
    gradient = np.zeros(logits.shape)
    gradient[n_taught:, : targets.shape[1]] = private[n_taught:] - targets[n_taught:]
    gradient[:n_taught, targets.shape[1] :] = taught[:n_taught] - targets[:n_taught]
    probs = np.concatenate([taught[:n_taught], private[n_taught:]])
    loss = -(targets * np.log(np.maximum(probs, MIN_PROBABILITY))).sum(1).mean()
    return (softmax64(logits) - gradient).astype(np.float32), float(loss)


class DualHead:
    """A learner with C logits around a learner with 2C logits. See `edgefd.learners.learner.Learner`."""

    def __init__(self, two_head_learner: Learner) -> None:
        self._learner = two_head_learner

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        """Train the private head. Return the mean loss over the batches."""
        return self._train(((batch, 0) for batch in batches), lr, proximal)

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Train the taught head, and the private head on the last `n_private` rows of each batch.

        Returns:
            The mean loss over the batches.
        """
        return self._train(((batch, len(batch) - n_private) for batch in batches), lr)

    def set_noise(self, *keys: int) -> None:
        """Set the keys of the model with both heads."""
        self._learner.set_noise(*keys)

    def predict_logits(self, x: Float32) -> Float32:
        """Return the logits of the joint prediction of both heads, float32 [n, C]."""
        return np.asarray(np.log(np.maximum(mixture(self._learner.predict_logits(x)), MIN_PROBABILITY)), np.float32)

    def state(self) -> dict[str, np.ndarray]:
        """Return the state of the model with both heads."""
        return self._learner.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state that `state()` returned."""
        self._learner.load_state(state)

    def _train(self, batches: Iterable[tuple[Batch, int]], lr: float, proximal: Proximal | None = None) -> float:
        losses = []
        for batch, n_taught in batches:
            targets, loss = dual_head_targets(self._learner.predict_logits(batch.x), batch.targets, n_taught)
            self._learner.train([Batch(batch.x, targets, batch.weights)], lr, proximal)
            losses.append(loss)
        return sum(losses) / max(len(losses), 1)
