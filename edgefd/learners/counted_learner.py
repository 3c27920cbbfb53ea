"""`CountedLearner`: counts the training steps and the predictions of a client's round, which take time on a device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.learners.batches import Batch
from edgefd.learners.learner import EmbeddingLearner, Learner, Proximal


@dataclass(frozen=True)
class Work:
    """What a client's model computes in a round."""

    steps: int = 0
    """training steps, of private rows, of a teacher, or of both"""
    rows: int = 0
    """rows whose logits or embeddings are computed outside of training steps"""


class CountedLearner:
    """A learner around another one, which does everything. See `edgefd.learners.learner.Learner`."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._steps = self._rows = 0

    @property
    def work(self) -> Work:
        """The work so far."""
        return Work(self._steps, self._rows)

    def train(self, batches: Iterable[Batch], lr: float, proximal: Proximal | None = None) -> float:
        """Train on the batches, and count them."""
        return self._learner.train(self._counted(batches), lr, proximal)

    def distil(self, batches: Iterable[Batch], lr: float, n_private: int) -> float:
        """Distil the batches, and count them."""
        return self._learner.distil(self._counted(batches), lr, n_private)

    def predict_logits(self, x: Float32) -> Float32:
        """Return the logits of samples, float32 [n, C], and count the samples."""
        self._rows += len(x)
        return self._learner.predict_logits(x)

    def embed(self, x: Float32) -> Float32:
        """Return the embeddings of samples, float32 [n, E], and count the samples."""
        self._rows += len(x)
        return cast(EmbeddingLearner, self._learner).embed(x)

    def set_noise(self, *keys: int) -> None:
        """Set the keys of the random numbers of the model."""
        self._learner.set_noise(*keys)

    def state(self) -> dict[str, np.ndarray]:
        """Return the state of the model."""
        return self._learner.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Restore a state that `state()` returned."""
        self._learner.load_state(state)

    def _counted(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._steps += 1
            yield batch
