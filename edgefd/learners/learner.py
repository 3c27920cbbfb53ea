"""`Learner`: the interface of a client's model and of how it is trained."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np

from edgefd.core.arrays import Float32
from edgefd.learners.batches import Batch


class Learner(Protocol):
    """A model with its optimizer. Mutable: training changes it in place."""

    def train(self, batches: Iterable[Batch], lr: float) -> float:
        """One optimizer step a batch at learning rate `lr`; the mean loss over the batches.

        The loss of a batch is sum_i w_i H(t_i, softmax(z_i)) / sum_i w_i, with H the cross-entropy, z the logits.
        Rows of weight 0 change nothing, so a batch may be padded.
        """
        ...

    def predict_logits(self, x: Float32) -> Float32:
        """Logits, float32 [n, C]."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Parameters, buffers and optimizer state, by name; enough to continue elsewhere."""
        ...

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Continue from a `state()`."""
        ...
